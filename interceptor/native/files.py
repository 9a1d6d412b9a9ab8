"""Small kernel files, read whole and often: without Python's file objects, which cost more than the reading."""

from __future__ import annotations

import os
from typing import Final

_BYTES: Final = 1 << 16
_MOST: Final = 1 << 22
"""Nothing that is read this way is nearly as long."""


def read(path: str) -> bytes:
    """The content of a file of proc, sysfs or a cgroup; nothing when it is gone or may not be read.

    A read(2) of a generated file may end long before the file does: where the next record would not have fitted into
    the kernel's buffer (fs/seq_file.c). Only an empty one is the end.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        found = more = os.read(fd, _BYTES)
        while more and len(found) < _MOST:
            more = os.read(fd, _BYTES)
            found += more
    except OSError:
        return b""
    else:
        return found
    finally:
        os.close(fd)
