"""Accepting connections for as long as the process lives: also through a time without free descriptors."""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING, TypeVar

import structlog
import trio

from interceptor.native.fd import Fd

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

T = TypeVar("T")

log = structlog.get_logger(__name__)

EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
PAUSE = 0.1
"""Seconds until it is tried again: the connection waits in the kernel's queue meanwhile."""


async def accept(listening: trio.socket.SocketType) -> trio.socket.SocketType:
    """Waits for the next connection, and for the descriptor that it takes.

    Source: accept(2), "ERRORS".
    """
    while True:
        try:
            connection, _ = await listening.accept()
        except OSError as error:
            if error.errno not in EXHAUSTED:
                raise
            log.warning("a connection has to wait", why=error.strerror)
            await trio.sleep(PAUSE)
        else:
            return connection


def take(listening: socket.socket) -> socket.socket:
    """The same on a thread that does nothing else meanwhile; OSError when `listening` was shut down.

    accept(2) has the descriptor before there is a connection. What serving it takes besides is waited for as well.
    """
    connection, _ = _patiently(listening.accept)
    _patiently(lambda: Fd(os.open("/", os.O_PATH | os.O_CLOEXEC)).close())
    return connection


def _patiently(call: Callable[[], T]) -> T:
    while True:
        try:
            return call()
        except OSError as error:
            if error.errno not in EXHAUSTED:
                raise
            log.warning("a connection has to wait", why=error.strerror)
            time.sleep(PAUSE)
