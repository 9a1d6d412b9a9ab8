"""Accepting connections for as long as the process lives: also through a time without free descriptors."""

from __future__ import annotations

import errno
import os
import select
import time
from contextlib import suppress
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


def take(listening: socket.socket, goes_on: Callable[[], bool]) -> socket.socket | None:
    """The same on a thread that does nothing else meanwhile; None once `goes_on` says no, OSError when `listening`, which must
    not block, was shut down.

    Who is killed in accept(2) may take a connection along that comes as he dies; in poll(2) he leaves it to the next process.
    What serving a connection takes besides its own descriptor is waited for as well.
    """
    poll = select.poll()
    poll.register(listening, select.POLLIN)
    while True:
        poll.poll()
        if not goes_on():
            return None
        with suppress(BlockingIOError):  # another thread was quicker
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
