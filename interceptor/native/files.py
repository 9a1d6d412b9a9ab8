"""Small kernel files, read whole and often: without Python's file objects, which cost more than the reading."""

from __future__ import annotations

import os
import threading
from typing import Final

_BYTES: Final = 1 << 14
"""For one read(2): few files have more to give at a time."""
_MOST: Final = 1 << 22
"""Nothing that is read this way is nearly as long."""


def read(path: str) -> bytes:
    """The content of a file of proc, sysfs or a cgroup; nothing when it is gone or may not be read."""
    try:
        return _whole(path)
    except OSError:
        return b""


def text(path: str) -> str:
    """The same as text, whose bytes os.fsencode() gives back; OSError when it is gone or may not be read."""
    return os.fsdecode(_whole(path))


def _whole(path: str) -> bytes:
    """A read(2) of a generated file may end long before the file does: where the next record would not have fitted into the
    kernel's buffer (fs/seq_file.c). Only an empty one is the end.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts, size = [os.read(fd, _BYTES)], 0
        while parts[-1] and (size := size + len(parts[-1])) < _MOST:
            parts.append(os.read(fd, _BYTES))
        return b"".join(parts)
    finally:
        os.close(fd)


_KEPT_MOST: Final = 1024
_kept: dict[str, int] = {}
"""Descriptors by path, the one used last at the end."""
_keeping: list[str] = []
"""What paths begin with whose descriptors stay open."""
_lock = threading.Lock()


def read_kept(path: str) -> bytes:
    """The same, of a file of a cgroup that shows one record, not a list: below a directory of `keep_open` its descriptor stays
    open, for to open it takes longer than to read it. Of a cgroup that was removed it reads ENODEV; there may be another of
    that name.
    """
    with _lock:
        fd = _kept.pop(path, -1)
        try:
            if fd >= 0:
                found = os.pread(fd, _BYTES, 0)
                _kept[path] = fd
                return found
        except OSError:
            os.close(fd)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return b""
        try:
            return os.pread(fd, _BYTES, 0)
        except OSError:
            return b""
        finally:
            _keep_or_close(path, fd)


def _keep_or_close(path: str, fd: int) -> None:
    if not path.startswith(tuple(_keeping)):
        os.close(fd)
        return
    _kept[path] = fd
    if len(_kept) > _KEPT_MOST:
        os.close(_kept.pop(next(iter(_kept))))


def keep_open(directory: str) -> None:
    """From now on `read_kept` keeps files below it open."""
    with _lock:
        _keeping.append(f"{directory}/")


def close_kept(directory: str) -> None:
    """Ends what `keep_open` began: whoever still reads there afterwards leaves none open."""
    prefix = f"{directory}/"
    with _lock:
        _keeping.remove(prefix)
        for path in [path for path in _kept if path.startswith(prefix)]:
            os.close(_kept.pop(path))
