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
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from runtime import resources
from runtime.procfs.values.cpus import hexadecimal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

DIRECTORY: Final = "/sys/devices/system/cpu"
HOST: Final = ".host"
"""Where in the tmpfs the host's directory is mounted."""
LEAVES: Final = ("online", "offline", "present")
"""Files that leaves are mounted over."""
_COPIED: Final = ("topology", "cache")


def is_cpu(name: str) -> bool:
    return name.startswith("cpu") and name[3:].isdigit()


def write(top: str, host: str, visible: Collection[int]) -> None:
    """Makes what is below `top` show the CPUs `visible` of those below `host`; at each moment every cpuN is whole or absent."""
    known = frozenset(os.listdir(top))
    cpus = dict[str, os.DirEntry[str]]()
    for entry in list(os.scandir(host)):
        if is_cpu(entry.name):
            cpus[entry.name] = entry
        elif entry.name not in LEAVES:
            _link(f"{top}/{entry.name}", entry, f"{HOST}/{entry.name}")
        elif entry.name not in known:  # to look at a leaf asks its server, who may be waiting for us
            os.mknod(f"{top}/{entry.name}", stat.S_IFREG | 0o444)
    whole = {int(name[3:]) for name in cpus} <= set(visible)
    shown = [name for number in visible if (name := f"cpu{number}") in cpus]
    for name in shown:
        _write_cpu(top, cpus[name], () if whole else visible)
    for name in os.listdir(top):
        if is_cpu(name) and name not in shown:
            _remove(top, name)


def _write_cpu(top: str, host: os.DirEntry[str], visible: Collection[int]) -> None:
    """A directory like `host`; without `visible`, nothing in it differs from that."""
    draft = f"{top}/.{host.name}"
    with suppress(FileNotFoundError):
        shutil.rmtree(draft)
    os.mkdir(draft, 0o755)
    for entry in list(os.scandir(host)):
        if visible and entry.name in _COPIED:
            _copy(f"{draft}/{entry.name}", entry, visible)
        else:
            _link(f"{draft}/{entry.name}", entry, f"../{HOST}/{host.name}/{entry.name}")
    _remove(top, host.name)
    os.rename(draft, f"{top}/{host.name}")


def _copy(at: str, host: os.DirEntry[str], visible: Collection[int]) -> None:
    """Files and directories; what cannot be read is left out."""
    os.mkdir(at, 0o755)
    for entry in list(os.scandir(host)):
        if entry.is_symlink():
            _link(f"{at}/{entry.name}", entry, "")
        elif entry.is_dir():
            _copy(f"{at}/{entry.name}", entry, visible)
        else:
            with suppress(OSError):
                Path(at, entry.name).write_bytes(_narrowed(entry.name, Path(entry).read_bytes(), visible))


def _narrowed(name: str, content: bytes, visible: Collection[int]) -> bytes:
    if name.endswith("_list"):
        return resources.format_list(sorted({*resources.parse_list(content)}.intersection(visible))).encode() + b"\n"
    if name.endswith(("_cpus", "_siblings", "_map")):
        value = int(content.replace(b",", b"").strip() or b"0", 16)
        return hexadecimal((cpu for cpu in visible if value >> cpu & 1), like=content)
    return content


def _link(at: str, host: os.DirEntry[str], to: str) -> None:
    """A link to `to`; what is one itself leads from here to where it leads from there."""
    with suppress(FileExistsError):
        os.symlink(os.readlink(host) if host.is_symlink() else to, at)


def _remove(top: str, name: str) -> None:
    """First from sight, then from memory."""
    gone = f"{top}/.gone-{name}"
    with suppress(FileNotFoundError):
        os.rename(f"{top}/{name}", gone)
        shutil.rmtree(gone)


def mount_points(top: str) -> Iterator[tuple[str, str]]:
    """(leaf's path, where it is mounted below `top`)."""
    for name in LEAVES:
        yield f"{DIRECTORY}/{name}", os.path.join(top, name)
