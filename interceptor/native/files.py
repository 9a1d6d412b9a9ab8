"""Small kernel files, read whole and often: without Python's file objects, which cost more than the reading."""

from __future__ import annotations

import os
from typing import Final

_BYTES: Final = 1 << 16
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
        found = more = os.read(fd, _BYTES)
        while more and len(found) < _MOST:
            more = os.read(fd, _BYTES)
            found += more
        return found
    finally:
        os.close(fd)
