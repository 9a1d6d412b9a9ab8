"""$run/containers/ID in the engine's mount namespace: one private mount that holds everything that we attach for a
container.

The directory is bound onto itself and made private, so that what is attached below does not multiply into the host's
other namespaces, and one lazy unmount takes all of it away.
Source: mount_namespaces(7), "Shared subtrees".
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from interceptor.native import mounts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtime.config import Places


def make(places: Places, container_id: str) -> str:
    """Makes and binds the directory; answers its path. Container root must be able to pass through it, so 0711."""
    base = places.container(container_id)
    for directory in (places.run, os.path.dirname(base), base):
        with suppress(FileExistsError):
            os.mkdir(directory, 0o711)
            os.chmod(directory, 0o711)  # noqa: S103 - as said above
    with mounts.open_tree(base) as tree:
        mounts.move_mount(tree.fileno(), base)
    mounts.set_attributes(base, propagation=mounts.MS_PRIVATE)
    for directory in (f"{base}/rootfs", f"{base}/mounts"):
        with suppress(FileExistsError):
            os.mkdir(directory, 0o711)
            os.chmod(directory, 0o711)  # noqa: S103 - as said above
    return base


def unmount(base: str) -> None:
    """Takes away every mount below the directory, with the bind itself; idempotent."""
    with suppress(FileNotFoundError):
        while mounts.mount_root(base).is_root:
            mounts.unmount(base)


def remove(base: str) -> None:
    """Removes the directory. Only files, and directories that are empty: what is still mounted somewhere stays
    whole.
    """
    for directory in (f"{base}/mounts", f"{base}/layers", f"{base}/leaves", base):
        with suppress(FileNotFoundError):
            for entry in list(os.scandir(directory)):
                _remove_entry(entry)
    _rmdir(base)


def _remove_entry(entry: os.DirEntry[str]) -> None:
    if entry.is_dir(follow_symlinks=False):
        _rmdir(entry.path)
        return
    with _tolerating_use():
        os.unlink(entry.path)


def _rmdir(path: str) -> None:
    with _tolerating_use():
        os.rmdir(path)


@contextmanager
def _tolerating_use() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EBUSY):
            raise
