"""/proc/PID/mountinfo as values: where things are mounted, and with which options.

Pure. Source: proc(5), "/proc/pid/mountinfo"; Linux fs/proc_namespace.c, show_mountinfo().
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line."""

    id: int
    parent: int
    root: str
    """The directory of the filesystem that is the mount's root."""
    point: str
    fstype: str
    source: str
    super_options: tuple[str, ...]
    """Comma-separated options of the superblock, still escaped as the kernel shows them."""


def parse(text: str) -> list[Mount]:
    """Every mount, in the kernel's order (a later one at the same point covers the earlier)."""
    return [_line(line) for line in text.split("\n") if line]


def of_cgroups(text: str) -> Sequence[Mount]:
    """Those of cgroup hierarchies alone; the same object for all who see the same ones."""
    return _shared("\n".join(line for line in text.split("\n") if " - cgroup" in line))


@lru_cache(maxsize=4)
def _shared(text: str) -> Sequence[Mount]:
    return parse(text)


def ids(text: str) -> frozenset[int]:
    """Every mount's id (STATX_MNT_ID) alone."""
    return frozenset(int(line.partition(" ")[0]) for line in text.split("\n") if line)


def unescape(text: str) -> str:
    r"""The kernel's \040 and friends back into characters."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text) if "\\" in text else text


def topmost(mounts: Iterable[Mount], point: str) -> Mount | None:
    """The mount that is seen at `point`; None when nothing is mounted there."""
    found = None
    for mount in mounts:
        if mount.point == point:
            found = mount
    return found


def below(mounts: Iterable[Mount], point: str) -> Iterator[Mount]:
    """Mounts strictly below `point`, parents first."""
    prefix = point.rstrip("/") + "/"
    return (mount for mount in mounts if mount.point.startswith(prefix) and mount.point != point)


def _line(line: str) -> Mount:
    fields, _, rest = line.partition(" - ")
    number, parent, _device, root, point = fields.split(" ", 5)[:5]
    fstype, source, options = (*rest.split(" "), "", "")[:3]
    return Mount(
        int(number), int(parent), unescape(root), unescape(point), fstype, unescape(source), tuple(options.split(","))
    )
