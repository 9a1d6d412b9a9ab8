"""The supervisor's end of the link to its keeper (keeper.c): what must outlive this process is kept there.

Without a keeper (a supervisor in the foreground, a test) everything works, and ends with this process.

Source: keeper.c for the messages; unix(7), SCM_RIGHTS.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import structlog

from interceptor.errors import InterceptorError
from interceptor.native.children import Popen

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

log = structlog.get_logger(__name__)

MESSAGE_MAX = 8192


class Kept(NamedTuple):
    """A descriptor that an earlier supervisor left, or a connection that came in: the receiver's to close."""

    kind: str
    key: str
    fd: int
    note: str


class Keeper:
    """Satisfies ports.Keeper. Methods may be called from any thread."""

    def __init__(self, link: int | None) -> None:
        """Takes ownership of `link`, a SOCK_SEQPACKET socket to the keeper; None: there is none."""
        self._link = None if link is None else socket.socket(fileno=link)
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, str], tuple[int, str]] = {}
        """What would have to be told to another keeper: descriptors are their users', until they are dropped."""
        self._left: list[Kept] = []
        self._child: Popen[bytes] | None = None
        if self._link is not None:
            self._link.set_inheritable(False)
            while (kept := self._receive(self._link, 0)) is not None:
                self._left.append(kept)

    @property
    def exists(self) -> bool:
        return self._link is not None

    def fileno(self) -> int:
        """Readable when `take` has something; ValueError without a keeper."""
        if self._link is None:
            raise ValueError("there is no keeper")
        return self._link.fileno()

    def keep(self, kind: str, key: str, fd: int, note: str = "") -> None:
        """From now on the keeper holds a duplicate of `fd`, in the place of an earlier one of that kind and key.

        `fd` stays the caller's, who drops it before closing it. InterceptorError for names that a message cannot carry.
        """
        message = b"K" + _name(kind, key, note)
        with self._lock:
            self._kept[kind, key] = fd, note
            self._send(message, [fd])

    def drop(self, kind: str, key: str) -> None:
        """The keeper closes its duplicate; idempotent."""
        with self._lock:
            self._kept.pop((kind, key), None)
            self._send(b"D" + _name(kind, key, ""))

    @property
    def left(self) -> bool:
        """Whether an earlier supervisor left anything that nobody has inherited yet."""
        return bool(self._left)

    def inherited(self, kind: str) -> Mapping[str, Kept]:
        """What an earlier supervisor kept of a kind, by key; each is given out once, and the caller's to close. It stays
        kept until it is dropped.
        """
        with self._lock:
            found = {kept.key: kept for kept in self._left if kept.kind == kind}
            self._left = [kept for kept in self._left if kept.kind != kind]
            self._kept |= {(kept.kind, kept.key): (kept.fd, kept.note) for kept in found.values()}
        return found

    def drop_unclaimed(self) -> None:
        """What an earlier supervisor kept and nobody inherited is nobody's."""
        with self._lock:
            left, self._left = self._left, []
        for kept in left:
            log.info("nobody inherits what was kept", kind=kept.kind, key=kept.key)
            self.drop(kept.kind, kept.key)
            os.close(kept.fd)

    def serving(self) -> None:
        """Tells that this supervisor serves: its start has not failed."""
        with self._lock:
            self._send(b"R")

    def let_go(self) -> None:
        """Tells that the end of this process is meant: no other is started, what is kept is closed."""
        with self._lock:
            self._send(b"B")

    def succeed(self, program: str) -> None:
        """Tells that the end of this process is meant, and that `program` ("": the same) is to go on with what is kept; should
        that not serve within some seconds, the present one is started again.
        """
        with self._lock:
            self._send(b"P" + program.encode() + b"\0")

    def take(self) -> Kept | None:
        """What the keeper accepted meanwhile; None when nothing is there now. EOFError when the keeper has ended."""
        assert self._link is not None  # noqa: S101 - fileno() was asked before
        try:
            return self._receive(self._link, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None

    def replace(self, program: Callable[[], str], *, service: bool) -> None:
        """The keeper has ended: starts another, which adopts this process, and tells it everything again."""
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            command = [program(), "keep", "--adopt", str(os.getpid()), "--link-fd", str(its.fileno())]
            child = Popen[bytes](
                command + ["--service"] * service, pass_fds=[its.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
            )
        with self._lock:
            dead, self._link = self._link, ours
            for (kind, key), (fd, note) in self._kept.items():
                self._send(b"K" + _name(kind, key, note), [fd])
            self._send(b"R")
        if dead is not None:
            dead.close()
        if self._child is not None:
            self._child.wait()
        self._child = child

    def _send(self, message: bytes, fds: list[int] | None = None) -> None:
        """With the lock. A keeper that has ended is noticed by `take`, and told later."""
        if self._link is not None:
            with suppress(BrokenPipeError, ConnectionResetError):
                socket.send_fds(self._link, [message], fds or [])

    @staticmethod
    def _receive(link: socket.socket, flags: int) -> Kept | None:
        data, fds, _, _ = socket.recv_fds(link, MESSAGE_MAX, 1, flags | socket.MSG_CMSG_CLOEXEC)
        if not data:
            raise EOFError
        if data[:1] != b"E" or not fds:
            return None
        kind, key, note, _ = data[1:].decode().split("\0")
        return Kept(kind, key, fds[0], note)


def _name(kind: str, key: str, note: str) -> bytes:
    name = f"{kind}\0{key}\0{note}\0".encode()
    if len(name) >= MESSAGE_MAX or name.count(b"\0") != 3:  # noqa: PLR2004 - one ends each
        raise InterceptorError(f"the keeper cannot note {kind!r} {key[:64]!r}: a NUL, or {len(name)} of {MESSAGE_MAX} bytes")
    return name
