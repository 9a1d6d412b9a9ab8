"""Mount points inside a container's root filesystem, made before anything runs in it.

Paths are resolved as inside (RESOLVE_IN_ROOT): an image's symbolic links lead nowhere else. What is made belongs to the
container's root, as if its runtime had made it. Source: openat2(2).
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from interceptor.native import mounts
from interceptor.native.fd import Fd

if TYPE_CHECKING:
    from interceptor.container import IdRange


def make(root: str, path: str, like: str, ids: IdRange) -> Fd:
    """A mount point at `path` below `root`, for something like `like` (a directory, or anything else).

    A descriptor, O_PATH: a link of the image's may lead into a volume, where another container changes what a path would
    mean by the time at which somebody walked it again (CVE-2021-30465).
    """
    with Fd(os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as top:
        *directories, last = [part for part in path.split("/") if part not in ("", ".")] or ["."]
        so_far = ""
        for name in directories:
            _directory(top, so_far, name, ids)
            so_far += "/" + name
        if stat.S_ISDIR(os.stat(like).st_mode):
            _directory(top, so_far, last, ids)
        else:
            _file(top, so_far, last, ids)
        return mounts.open_in_root(top.fileno(), f"{so_far}/{last}", os.O_PATH)


def _directory(top: Fd, parent: str, name: str, ids: IdRange) -> None:
    if _exists(top, f"{parent}/{name}"):
        return
    with mounts.open_in_root(top.fileno(), parent or "/", os.O_PATH | os.O_DIRECTORY) as above:
        os.mkdir(name, 0o755, dir_fd=above.fileno())
        os.chown(name, ids.first, ids.first, dir_fd=above.fileno(), follow_symlinks=False)


def _file(top: Fd, parent: str, name: str, ids: IdRange) -> None:
    if _exists(top, f"{parent}/{name}"):
        return
    with mounts.open_in_root(top.fileno(), parent or "/", os.O_PATH | os.O_DIRECTORY) as above:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        with Fd(os.open(name, flags, 0o755, dir_fd=above.fileno())) as made:
            os.fchown(made.fileno(), ids.first, ids.first)


def _exists(top: Fd, path: str) -> bool:
    try:
        mounts.open_in_root(top.fileno(), path, os.O_PATH).close()
    except FileNotFoundError:
        return False
    return True
