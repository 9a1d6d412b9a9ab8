"""The control socket: the OCI entry, `interceptor ps`, `interceptor trace` and the like ask here.

SOCK_SEQPACKET, one JSON object a message, root only; docs/control.md lists the operations. A connection is served by one thread
from its first message to its last, because an engine waits for every hand-over from thread to thread. What operations
promised to undo is undone when the peer's connection ends before it said that it succeeded.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack, suppress
from typing import Any

import structlog
import trio

from interceptor import accepting
from interceptor.errors import InterceptorError, WireError
from interceptor.native import sockets
from interceptor.ports import Operation, Request
from interceptor.wire import CONTROL_MESSAGE_MAX, decode, encode

log = structlog.get_logger(__name__)

Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Stream = Callable[[Mapping[str, Any], Send], Awaitable[None]]
"""An operation that answers with several messages and ends by itself or with its connection; in the event loop."""
SPARE = 2
"""Threads that wait for a connection; any more end with theirs."""


class Control:
    """Serves connections; `busy` counts those open, so that nobody ends while somebody is being served."""

    def __init__(self, operations: Mapping[str, Operation], streams: Mapping[str, Stream]) -> None:
        self._operations = operations
        self._streams = streams
        self._changed = threading.Condition()
        self._open = set[socket.socket]()
        self._waiting = 0
        """Threads in `accepting.take`."""
        self._over = False

    @property
    def busy(self) -> int:
        return len(self._open)

    async def serve(self, listening: socket.socket) -> None:
        """Serves until cancelled; then ends every connection, and returns when each is undone.

        A thread that waits for the next connection goes on waiting, and leaves it to who listens next: whoever closes
        `listening` for good wakes it by shutdown(2).
        """
        self._loop = trio.lowlevel.current_trio_token()
        listening.setblocking(False)
        self._wait_on_another(listening)
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._end)

    def _end(self) -> None:
        with self._changed:
            self._over = True
            for connection in self._open:
                with suppress(OSError):  # the peer has hung up
                    connection.shutdown(socket.SHUT_RDWR)
            self._changed.wait_for(lambda: not self._open)

    # -- threads ------------------------------------------------------------------------------------------------

    def _wait_on_another(self, listening: socket.socket) -> None:
        """Without threads (RLIMIT_NPROC, pids.max) connections wait in the kernel's queue until this one is free again."""
        with suppress(RuntimeError):
            threading.Thread(target=self._wait, args=[listening], name="control", daemon=True).start()

    def _wait(self, listening: socket.socket) -> None:
        while (connection := self._next(listening)) is not None:
            self.serve_one(connection)

    def _next(self, listening: socket.socket) -> socket.socket | None:
        """The next connection; None when enough threads wait for it, or nobody is served any more."""
        with self._changed:
            if self._waiting >= SPARE:
                return None
            self._waiting += 1
        connection = None
        with suppress(OSError):  # it was shut down
            connection = accepting.take(listening, lambda: not self._over)
        return self._taken(listening, connection)

    def _taken(self, listening: socket.socket, connection: socket.socket | None) -> socket.socket | None:
        with self._changed:
            self._waiting -= 1
            alone, over = self._waiting == 0, self._over
            if connection is not None and not over:
                self._open.add(connection)
        if over and connection is not None:
            connection.close()
            return None
        if alone and connection is not None:
            self._wait_on_another(listening)
        return connection

    def serve_one(self, connection: socket.socket) -> None:
        undo = ExitStack()
        try:
            with connection:
                self._converse(connection, undo)
        except* OSError as errors:  # the peer hung up; in a stream also as a group of the nursery's
            log.info("a control connection ended", why=str(errors.exceptions[0]))
        except* Exception:
            log.exception("a control connection failed")
        finally:
            _run_undo(undo)
            with self._changed:
                self._open.discard(connection)
                self._changed.notify_all()

    # -- one connection -----------------------------------------------------------------------------------------

    def _converse(self, connection: socket.socket, undo: ExitStack) -> None:
        uid = sockets.peer_uid(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid != 0:
            connection.send(encode(_refusal(f"uid {uid} may not use the control socket; only root may")))
            return
        while True:
            data, ancillary, flags, _ = connection.recvmsg(CONTROL_MESSAGE_MAX, sockets.ANCILLARY, sockets.RECEIVE_FLAGS)
            fds = sockets.descriptors(ancillary)
            try:
                if not data:
                    return
                self._answer(connection, data, flags, fds, undo)
            finally:
                sockets.close(fds)

    def _answer(self, connection: socket.socket, data: bytes, flags: int, fds: list[int], undo: ExitStack) -> None:
        afterwards: list[Callable[[], None]] = []
        try:
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise WireError(
                    f"a message holds at most {CONTROL_MESSAGE_MAX} bytes and {sockets.MAX_FDS} descriptors"
                )
            body = decode(data)
            name = body.get("op")
            if isinstance(name, str) and name in self._streams:
                self._stream(connection, self._streams[name], body)
                return
            reply = encode(self._operate(name, Request(body, fds, undo, afterwards)))
        except InterceptorError as error:
            reply = encode(_refusal(str(error)))
        try:
            connection.send(reply)
        finally:
            for step in afterwards:
                step()

    def _operate(self, name: object, request: Request) -> dict[str, Any]:
        operation = self._operations.get(name) if isinstance(name, str) else None
        if operation is None:
            known = ", ".join(sorted([*self._operations, *self._streams]))
            raise WireError(f"unknown operation {name!r}; there are {known}")
        try:
            return {"ok": True, **operation(request)}
        except OSError as error:
            return _refusal(f"{name}: {error}")
        except InterceptorError:
            raise
        except Exception:
            log.exception("operation failed", op=name)
            return _refusal(f"{name}: a fault of the supervisor's; see its log")

    def _stream(self, connection: socket.socket, stream: Stream, body: Mapping[str, Any]) -> None:
        """Has `stream` run in the event loop until it ends or the peer hangs up."""
        connection.setblocking(False)
        trio.from_thread.run(_run_stream, trio.socket.from_stdlib_socket(connection), stream, body, trio_token=self._loop)
        connection.setblocking(True)


async def _run_stream(connection: trio.socket.SocketType, stream: Stream, body: Mapping[str, Any]) -> None:
    async def send(message: Mapping[str, Any]) -> None:
        await connection.send(encode(message))

    failure: InterceptorError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_until_hung_up, connection, nursery.cancel_scope)
        try:
            await stream(body, send)
        except InterceptorError as error:  # kept out of the nursery, which would wrap it in a group
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _until_hung_up(connection: trio.socket.SocketType, scope: trio.CancelScope) -> None:
    """Looks without taking: the peer's next request may come before the stream's end is noticed here."""
    if not await connection.recv(1, socket.MSG_PEEK):
        scope.cancel()


ERROR_MAX = 8192
"""Characters of an error, which may quote what the peer sent; escaped as JSON it must still fit into a message."""


def _refusal(error: str) -> dict[str, Any]:
    return {"ok": False, "error": error if len(error) <= ERROR_MAX else error[:ERROR_MAX] + " …"}


def _run_undo(undo: ExitStack) -> None:
    try:
        undo.close()
    except Exception:
        log.exception("undoing an unfinished operation failed")
