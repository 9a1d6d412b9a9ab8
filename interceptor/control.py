"""The control socket: the OCI entry, `interceptor ps`, `interceptor trace` and the like ask here.

SOCK_SEQPACKET, one JSON object a message, root only; docs/control.md lists the operations. Operations run on worker
threads; what they promised to undo is undone when the peer's connection ends before it said that it succeeded.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from typing import Any

import structlog
import trio

from interceptor.accepting import accept
from interceptor.errors import InterceptorError, WireError
from interceptor.native import sockets
from interceptor.ports import Operation, Request
from interceptor.wire import CONTROL_MESSAGE_MAX, decode, encode

log = structlog.get_logger(__name__)

Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Stream = Callable[[Mapping[str, Any], Send], Awaitable[None]]
"""An operation that answers with several messages and ends by itself or with its connection."""


class Control:
    """Serves connections; `busy` counts those open, so that nobody ends while somebody is being served."""

    def __init__(self, operations: Mapping[str, Operation], streams: Mapping[str, Stream]) -> None:
        self._operations = operations
        self._streams = streams
        self.busy = 0

    async def serve(self, listening: trio.socket.SocketType) -> None:
        """Serves until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                nursery.start_soon(self._serve_one, await accept(listening))

    async def _serve_one(self, connection: trio.socket.SocketType) -> None:
        self.busy += 1
        undo = ExitStack()
        try:
            with connection:
                await self._converse(connection, undo)
        except* OSError as errors:  # the peer hung up; in a stream also as a group of the nursery's
            log.info("a control connection ended", why=str(errors.exceptions[0]))
        except* Exception:
            log.exception("a control connection failed")
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_run_undo, undo)
            self.busy -= 1

    async def _converse(self, connection: trio.socket.SocketType, undo: ExitStack) -> None:
        uid = sockets.peer_uid(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid != 0:
            await _send(connection, _refusal(f"uid {uid} may not use the control socket; only root may"))
            return
        while True:
            data, ancillary, flags, _ = await connection.recvmsg(
                CONTROL_MESSAGE_MAX, sockets.ANCILLARY, sockets.RECEIVE_FLAGS
            )
            fds = sockets.descriptors(ancillary)
            try:
                if not data:
                    return
                await self._answer(connection, data, flags, fds, undo)
            finally:
                sockets.close(fds)

    async def _answer(
        self, connection: trio.socket.SocketType, data: bytes, flags: int, fds: list[int], undo: ExitStack
    ) -> None:
        afterwards: list[Callable[[], None]] = []
        try:
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise WireError(
                    f"a message holds at most {CONTROL_MESSAGE_MAX} bytes and {sockets.MAX_FDS} descriptors"
                )
            body = decode(data)
            name = body.get("op")
            if isinstance(name, str) and name in self._streams:
                await self._stream(connection, self._streams[name], body)
                return
            reply = encode(await self._operate(name, Request(body, fds, undo, afterwards)))
        except InterceptorError as error:
            reply = encode(_refusal(str(error)))
        await connection.send(reply)
        for step in afterwards:
            step()

    async def _operate(self, name: object, request: Request) -> dict[str, Any]:
        operation = self._operations.get(name) if isinstance(name, str) else None
        if operation is None:
            known = ", ".join(sorted([*self._operations, *self._streams]))
            raise WireError(f"unknown operation {name!r}; there are {known}")
        try:
            return {"ok": True, **await trio.to_thread.run_sync(operation, request)}
        except OSError as error:
            return _refusal(f"{name}: {error}")
        except InterceptorError:
            raise
        except Exception:
            log.exception("operation failed", op=name)
            return _refusal(f"{name}: a fault of the supervisor's; see its log")

    async def _stream(self, connection: trio.socket.SocketType, stream: Stream, body: Mapping[str, Any]) -> None:
        """Runs `stream` until it ends or the peer hangs up."""

        async def send(message: Mapping[str, Any]) -> None:
            await _send(connection, message)

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


async def _send(connection: trio.socket.SocketType, message: Mapping[str, Any]) -> None:
    await connection.send(encode(message))


ERROR_MAX = 8192
"""Characters of an error, which may quote what the peer sent; escaped as JSON it must still fit into a message."""


def _refusal(error: str) -> dict[str, Any]:
    return {"ok": False, "error": error if len(error) <= ERROR_MAX else error[:ERROR_MAX] + " …"}


def _run_undo(undo: ExitStack) -> None:
    try:
        undo.close()
    except Exception:
        log.exception("undoing an unfinished operation failed")
