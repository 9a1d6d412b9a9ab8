"""Who uses a mount. The kernel tells only whether anybody does, to whoever unmounts it, and only if nothing is mounted on it.

So this is what fuser(1) does: the processes of one mount namespace, their working and root directories and what they have open.
What somebody elsewhere was given by SCM_RIGHTS, or has in flight, is not found.
Source: proc_pid_fdinfo(5) (mnt_id); Linux fs/namespace.c, propagate_mount_busy().
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from interceptor.native import files, mounts, pin
from interceptor.native.fd import Fd

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator


def in_use(namespace: int, mount_ids: Collection[int]) -> bool:
    """Whether a process in mount namespace `namespace` (its inode number) uses one of these mounts (STATX_MNT_ID)."""
    return any(mount_id in mount_ids for process in _processes(namespace) for mount_id in _mounts(process))


def _processes(namespace: int) -> Iterator[str]:
    """Every process of the host is looked at, and nearly all are somebody else's: so without pathlib and exceptions."""
    with Fd(os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as proc, os.scandir("/proc") as entries:
        for entry in entries:
            if entry.name.isdigit() and pin.inode(proc.fileno(), f"{entry.name}/ns/mnt") == namespace:
                yield f"/proc/{entry.name}"


def _mounts(process: str) -> Iterator[int]:
    for name in ("cwd", "root"):
        with suppress(OSError):  # it ended
            yield mounts.mount_root(f"{process}/{name}").mount_id
    with suppress(OSError), os.scandir(f"{process}/fdinfo") as entries:
        for entry in entries:
            lines = files.read(entry.path).splitlines()
            yield from (int(line.split()[1]) for line in lines if line.startswith(b"mnt_id:"))
