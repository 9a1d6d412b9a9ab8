"""Accepting connections for as long as the process lives: also through a time without free descriptors."""

from __future__ import annotations

import errno

import structlog
import trio

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
