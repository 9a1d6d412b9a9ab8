"""Unix sockets as our two servers need them: bound for root only, with descriptors in their messages.

Source: unix(7), SCM_RIGHTS, SO_PEERCRED; flock(2).
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import time
from array import array
from contextlib import suppress
from typing import TYPE_CHECKING

from interceptor.errors import InterceptorError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MAX_FDS = 16
ANCILLARY = socket.CMSG_SPACE(MAX_FDS * array("i").itemsize)
"""Bytes of ancillary data to receive: more descriptors than that are dropped by the kernel (MSG_CTRUNC)."""
RECEIVE_FLAGS = socket.MSG_CMSG_CLOEXEC


def bind(path: Path, kind: socket.SocketKind) -> socket.socket:
    """A listening socket at `path`, mode 0600; what an earlier owner left there is replaced."""
    with suppress(FileNotFoundError):
        path.unlink()
    listening = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC)
    try:
        old = os.umask(0o177)
        try:
            listening.bind(str(path))
        finally:
            os.umask(old)
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise InterceptorError(f"cannot listen on {path}: {error.strerror}") from error
    return listening


def peer_uid(credentials: bytes) -> int:
    """Uid of ``struct ucred``, as getsockopt(SO_PEERCRED) gives it."""
    _pid, uid, _gid = struct.unpack("=iII", credentials)
    return int(uid)


def descriptors(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors in what recvmsg(2) gave; the caller's to close."""
    found = array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)


def close(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


def lock(path: Path, patience: float = 0) -> int | None:
    """An exclusive lock for the life of the returned descriptor; None when somebody else holds it for `patience` s."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                os.close(fd)
                return None
            time.sleep(0.01)
        else:
            return fd


def tell_ready(fd: int) -> None:
    """One byte to whoever started us, then the end of that pipe."""
    with suppress(BrokenPipeError):
        os.write(fd, b"\n")
    os.close(fd)
