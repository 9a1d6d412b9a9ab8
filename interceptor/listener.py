"""Where OCI runtimes send notify fds: ``linux.seccomp.listenerPath``.

One ContainerProcessState per connection: JSON until the peer closes, the fd named ``seccompFd`` with the first message.
Runtimes differ in how they write it (pretty-printed, in one or several pieces, an empty connection as a probe), so all
of that is accepted; garbage costs the peer its connection and nobody else anything.

Source: OCI runtime-spec, config-linux.md "The Container Process State"; runc libcontainer/process_linux.go
sendContainerProcessState(); crun src/libcrun/seccomp_notify.c.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
import trio

from interceptor.accepting import accept as next_connection
from interceptor.errors import InterceptorError, WireError
from interceptor.native import sockets
from interceptor.wire import parse as parse_json

log = structlog.get_logger(__name__)

STATE_MAX = 1 << 20
"""Bytes of one ContainerProcessState: its annotations may be many."""
PATIENCE = 300.0
"""Seconds that a runtime may take to send it. crun connects before it makes the process (libcrun_container_run_internal(),
libcrun_container_exec()), so that all of that lies between. Only root connects, and who waits costs a task.
"""
FD_NAME = "seccompFd"
SO_PEEK_OFF = 42
"""MSG_PEEK goes on where the last one ended: socket(7), asm-generic/socket.h."""


@dataclass(frozen=True, slots=True)
class ProcessState:
    """What a runtime says about the process whose notifier it sends; `container` is the key, never `pid`."""

    container: str
    pid: int
    metadata: str


Accept = Callable[[ProcessState, int], None]
"""Takes over a notifier; raises InterceptorError when it is wanted by nobody (the fd is then closed)."""


async def serve(listening: trio.socket.SocketType, accept: Accept) -> None:
    """Serves until cancelled."""
    async with trio.open_nursery() as nursery:
        while True:
            nursery.start_soon(serve_one, await next_connection(listening), accept)


async def serve_one(connection: trio.socket.SocketType, accept: Accept, *, kept: bool = False) -> None:
    """Serves one connection. One that is `kept` elsewhere is only looked into: the next supervisor may read it again."""
    fds: list[int] = []
    try:
        with connection, trio.fail_after(PATIENCE):
            _check_peer(connection)
            if kept:
                connection.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, 0)
            data = await _receive(connection, fds, socket.MSG_PEEK if kept else 0)
        if data:
            state, index = parse(data, len(fds))
            accept(state, fds[index])
            del fds[index]
    except (InterceptorError, OSError, trio.TooSlowError) as error:
        log.error("a notifier was refused", why=str(error) or f"nothing complete came within {PATIENCE:g} s")
    finally:
        sockets.close(fds)


def _check_peer(connection: trio.socket.SocketType) -> None:
    uid = sockets.peer_uid(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if uid != 0:
        raise WireError(f"uid {uid} connected to the seccomp listener; only root may")


async def _receive(connection: trio.socket.SocketType, fds: list[int], flags: int) -> bytes:
    """Everything until the peer closes or the JSON is complete; descriptors are added to `fds`."""
    data = bytearray()
    while True:
        piece, ancillary, _, _ = await connection.recvmsg(65536, sockets.ANCILLARY, sockets.RECEIVE_FLAGS | flags)
        fds += sockets.descriptors(ancillary)
        data += piece
        if not piece or _complete(data):
            return bytes(data)
        if len(data) > STATE_MAX:
            raise WireError(f"more than {STATE_MAX} bytes of ContainerProcessState")


def _complete(data: bytearray) -> bool:
    """Whether a whole JSON value is there: some runtimes wait for us to close first."""
    try:
        parse_json(data)
    except WireError:
        return False
    return True


def parse(data: bytes, count: int) -> tuple[ProcessState, int]:
    """The state, and which of `count` received descriptors is the notifier. WireError names what is missing."""
    message = parse_json(data)
    state = _member(message, "state", dict)
    names = _member(message, "fds", list)
    if FD_NAME not in names:
        raise WireError(f"ContainerProcessState names the descriptors {names!r}; one must be {FD_NAME!r}")
    index = names.index(FD_NAME)
    if index >= count:
        raise WireError(f"ContainerProcessState promises {len(names)} descriptors; {count} came along")
    metadata = message.get("metadata", "")
    pid = message.get("pid", 0)
    return ProcessState(_member(state, "id", str), pid if isinstance(pid, int) else 0, str(metadata)), index


def _member(value: Any, name: str, kind: type[Any]) -> Any:
    member = value.get(name) if isinstance(value, dict) else None
    if not isinstance(member, kind):
        raise WireError(f"ContainerProcessState lacks {name!r} ({kind.__name__})")
    return member
