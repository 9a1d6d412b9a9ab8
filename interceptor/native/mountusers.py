"""Who uses a mount. The kernel tells only whether anybody does, to whoever unmounts it, and only if nothing is mounted on it.

So this is what fuser(1) does: the processes of one mount namespace, their working and root directories and what they have open.
What somebody elsewhere was given by SCM_RIGHTS, or has in flight, is not found.
Source: proc_pid_fdinfo(5) (mnt_id); Linux fs/namespace.c, propagate_mount_busy().
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from interceptor.native import mounts

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator


def in_use(namespace: int, mount_ids: Collection[int], proc: Path = Path("/proc")) -> bool:
    """Whether a process in mount namespace `namespace` (its inode number) uses one of these mounts (STATX_MNT_ID)."""
    return any(mount_id in mount_ids for process in _processes(namespace, proc) for mount_id in _mounts(process))


def _processes(namespace: int, proc: Path) -> Iterator[Path]:
    for directory in proc.iterdir():
        with suppress(OSError):  # it ended
            if directory.name.isdigit() and (directory / "ns/mnt").stat().st_ino == namespace:
                yield directory


def _mounts(process: Path) -> Iterator[int]:
    for name in ("cwd", "root"):
        with suppress(OSError):
            yield mounts.mount_root(f"{process}/{name}").mount_id
    with suppress(OSError):
        for file in (process / "fdinfo").iterdir():
            with suppress(OSError):
                lines = file.read_bytes().splitlines()
                yield from (int(line.split()[1]) for line in lines if line.startswith(b"mnt_id:"))
