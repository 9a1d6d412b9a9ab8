"""/sys/devices/system/cpu as a directory of the container's, with a cpuN for each CPU that it sees and for no other.

htop, hwloc and older C libraries count these directories, and lscpu counts cores and caches by what is in them. A leaf over
each file would be mounts by the hundred. So a tmpfs lies over this one directory, to which no runtime writes. In it

* each cpuN is a directory whose files are links into the host's, which is mounted beside them as `.host`;
* of topology and cache there are copies in which lists of CPUs name the visible ones only (links, while all are visible);
* `online`, `present` and `offline` are leaves as before;
* everything else is a link to the host's.

It is the supervisor's: a container's root, who is nobody to it, cannot change it, and it follows limits that change.
Weighed against FUSE: a directory served at each look is what hangs when its server does (docs/design.md, section 2).
Source: Linux Documentation/admin-guide/cputopology.rst; Documentation/ABI/testing/sysfs-devices-system-cpu.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from runtime import resources
from runtime.procfs.values.cpus import hexadecimal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

DIRECTORY: Final = "/sys/devices/system/cpu"
HOST: Final = ".host"
"""Where in the tmpfs the host's directory is mounted."""
LEAVES: Final = ("online", "offline", "present")
"""Files that leaves are mounted over."""
_COPIED: Final = ("topology", "cache")


def is_cpu(name: str) -> bool:
    return name.startswith("cpu") and name[3:].isdigit()


def write(top: Path, host: Path, visible: Collection[int]) -> None:
    """Makes what is below `top` show the CPUs `visible` of those below `host`; at each moment every cpuN is whole or absent."""
    names, known = sorted(os.listdir(host)), frozenset(os.listdir(top))
    for name in names:
        if name in LEAVES:  # to look at a leaf asks its server, who may be waiting for us
            if name not in known:
                (top / name).touch(mode=0o444)
        elif not is_cpu(name):
            _link(top / name, host / name, f"{HOST}/{name}")
    whole = {int(name[3:]) for name in names if is_cpu(name)} <= set(visible)
    shown = [f"cpu{number}" for number in visible if f"cpu{number}" in names]
    for name in shown:
        _write_cpu(top / name, host / name, () if whole else visible)
    for entry in list(top.iterdir()):
        if is_cpu(entry.name) and entry.name not in shown:
            _remove(entry)


def _write_cpu(at: Path, host: Path, visible: Collection[int]) -> None:
    """A directory like `host`; without `visible`, nothing in it differs from that."""
    draft = at.with_name(f".{at.name}")
    with suppress(FileNotFoundError):
        shutil.rmtree(draft)
    draft.mkdir(mode=0o755)
    for entry in host.iterdir():
        if visible and entry.name in _COPIED:
            _copy(draft / entry.name, entry, visible)
        else:
            _link(draft / entry.name, entry, f"../{HOST}/{at.name}/{entry.name}")
    _remove(at)
    draft.rename(at)


def _copy(at: Path, host: Path, visible: Collection[int]) -> None:
    """Files and directories; what cannot be read is left out."""
    at.mkdir(mode=0o755)
    for entry in host.iterdir():
        if entry.is_symlink():
            _link(at / entry.name, entry, "")
        elif entry.is_dir():
            _copy(at / entry.name, entry, visible)
        else:
            with suppress(OSError):
                (at / entry.name).write_bytes(_narrowed(entry.name, entry.read_bytes(), visible))


def _narrowed(name: str, content: bytes, visible: Collection[int]) -> bytes:
    if name.endswith("_list"):
        return resources.format_list(sorted({*resources.parse_list(content)}.intersection(visible))).encode() + b"\n"
    if name.endswith(("_cpus", "_siblings", "_map")):
        value = int(content.replace(b",", b"").strip() or b"0", 16)
        return hexadecimal((cpu for cpu in visible if value >> cpu & 1), like=content)
    return content


def _link(at: Path, host: Path, to: str) -> None:
    """A link to `to`; what is one itself leads from here to where it leads from there."""
    with suppress(FileExistsError):
        at.symlink_to(os.readlink(host) if host.is_symlink() else to)


def _remove(directory: Path) -> None:
    """First from sight, then from memory."""
    gone = directory.with_name(f".gone-{directory.name}")
    with suppress(FileNotFoundError):
        directory.rename(gone)
        shutil.rmtree(gone)


def mount_points(top: str) -> Iterator[tuple[str, str]]:
    """(leaf's path, where it is mounted below `top`)."""
    for name in LEAVES:
        yield f"{DIRECTORY}/{name}", os.path.join(top, name)
