"""/proc/PID/mountinfo, parsed. Source: proc_pid_mountinfo(5)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, order=True)
class Mount:
    """One line; paths as the process sees them."""

    point: str
    fstype: str
    source: str
    root: str
    super_options: str

    def __str__(self) -> str:
        return f"{self.fstype} {self.source}{'' if self.root == '/' else ':' + self.root} on {self.point}"


def mounts(pid: int | str = "self") -> list[Mount]:
    """The mounts of the namespace of process `pid`; none when the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
    return [_parse(line) for line in lines]


def filesystem_of(path: Path) -> str:
    """The type of the filesystem that `path`, which must exist, lies on."""
    above = {str(path.resolve()), *map(str, path.resolve().parents)}
    return [mount for mount in sorted(mounts(), key=lambda mount: len(mount.point)) if mount.point in above][-1].fstype


def _parse(line: str) -> Mount:
    left, right = line.split(" - ", 1)
    fields, (fstype, source, options) = left.split(" "), right.split(" ", 2)
    return Mount(_unescape(fields[4]), fstype, _unescape(source), _unescape(fields[3]), options)


def _unescape(text: str) -> str:
    """The kernel writes blank, tab, newline and backslash as octal: fs/proc_namespace.c, mangle()."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
