"""A listener for OCI seccomp notify fds that answers everything with one errno and remembers what it saw.

Source: OCI runtime-spec config-linux.md, "Seccomp"; seccomp_unotify(2).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import select
import socket
import struct
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOTIF_RECV, NOTIF_SEND = 0xC0502100, 0xC0182101
"""SECCOMP_IOCTL_NOTIF_RECV and _SEND (linux/seccomp.h), for structs of 80 and 24 bytes."""

ANSWER = errno.EBADFD
"""What no kernel answers to the calls of the tests."""


class Seen(NamedTuple):
    nr: int
    arch: int
    args: tuple[int, ...]


@dataclass
class Listener:
    """What came in so far."""

    path: Path
    states: list[dict[str, Any]] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)


@contextlib.contextmanager
def notify_listener(path: Path) -> Iterator[Listener]:
    """Listens at `path` until the end of the block; its threads end there too."""
    found = Listener(path)
    stop_read, stop_write = os.pipe()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        path.chmod(0o600)
        server.listen()
        thread = threading.Thread(target=_serve, args=(server, stop_read, found))
        thread.start()
        try:
            yield found
        finally:
            os.close(stop_write)
            thread.join()
            os.close(stop_read)
            path.unlink()


def _serve(server: socket.socket, stop: int, found: Listener) -> None:
    """Everything on one thread: connections and notifiers."""
    poll = select.poll()
    poll.register(server, select.POLLIN)
    poll.register(stop, select.POLLIN | select.POLLHUP)
    notifiers: set[int] = set()
    while True:
        for fd, events in poll.poll():
            if fd == stop:
                for notifier in notifiers:
                    os.close(notifier)
                return
            if fd == server.fileno():
                notifier = _accept(server, found)
                notifiers.add(notifier)
                poll.register(notifier, select.POLLIN)
            elif events & select.POLLIN:
                _answer(fd, found)
            else:
                poll.unregister(fd)
                notifiers.discard(fd)
                os.close(fd)


def _accept(server: socket.socket, found: Listener) -> int:
    connection, _ = server.accept()
    with connection:
        data, fds, _, _ = socket.recv_fds(connection, 65536, 8)
        while (state := _parsed(data)) is None:  # `runc run` keeps the connection open while the container lives
            data += connection.recv(65536)
    found.states.append(state)
    wanted = fds.pop(state["fds"].index("seccompFd"))
    for other in fds:
        os.close(other)
    return wanted


def _parsed(data: bytes) -> dict[str, Any] | None:
    """The state, once all of it is there."""
    try:
        state: dict[str, Any] = json.loads(data)
    except ValueError:
        return None
    return state


def _answer(notifier: int, found: Listener) -> None:
    notification = bytearray(80)
    try:
        fcntl.ioctl(notifier, NOTIF_RECV, notification)
        identity, _pid, _flags, nr, arch, _ip, *args = struct.unpack("=QIIiIQ6Q", notification)
        found.seen.append(Seen(nr, arch, tuple(args)))
        fcntl.ioctl(notifier, NOTIF_SEND, struct.pack("=QqiI", identity, 0, -ANSWER, 0))
    except OSError as error:
        if error.errno != errno.ENOENT:  # the tracee is gone
            raise
