"""Files in which programs write what poll(2) is to wait for, as in /proc/pressure: each open file has its own."""

from __future__ import annotations

import errno
import os
import select
import socket
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import pytest
from support import oci
from support.waiting import PATIENCE, wait_for

from interceptor.native import fuse
from interceptor.native import mounts as mount_calls
from interceptor.native.fd import Fd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.root, pytest.mark.kernel]

if os.geteuid() != 0:
    pytest.skip("needs root", allow_module_level=True)

ENOUGH_MS = int(20_000 * PATIENCE)
WITHOUT = select.POLLIN | select.POLLOUT | select.POLLRDNORM | select.POLLWRNORM
MAX = 32
"""watches.c, WATCHES_MAX."""


class Bells:
    """Whoever writes gets what rings when `ring` is called: a connection with urgent data, which is POLLPRI."""

    def __init__(self, undo: ExitStack) -> None:
        self._undo = undo
        self._listener = undo.enter_context(closing(socket.create_server(("127.0.0.1", 0))))
        self._ends: dict[bytes, socket.socket] = {}

    def content(self, _node: int) -> bytes:
        return b"some\n"

    def written(self, _node: int, data: bytes, *, tid: int, uid: int) -> Fd:
        assert (tid > 0, uid) == (True, 0)
        if data == b"nothing":
            raise OSError(errno.EOPNOTSUPP, "nothing rings")
        end = socket.create_connection(self._listener.getsockname())
        other, _ = self._listener.accept()
        self._ends[data] = self._undo.enter_context(closing(other))
        return Fd(end.detach())

    def ring(self, name: bytes) -> None:
        self._ends[name].send(b"!", socket.MSG_OOB)


class Keeper:
    """ports.Keeper, for one process."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], int] = {}

    def keep(self, kind: str, key: str, fd: int) -> None:
        self.kept[kind, key] = os.dup(fd)

    def drop(self, kind: str, key: str) -> None:
        os.close(self.kept.pop((kind, key)))

    def watches(self) -> list[str]:
        return [key for kind, key in self.kept if kind == fuse.WATCHES]


class Served:
    def __init__(self, undo: ExitStack, path: Path) -> None:
        self.bells, self.keeper, self.server = Bells(undo), Keeper(), fuse.Server()
        self.path = path
        self._undo = undo
        mount = self.server.mount(
            self.bells, name="test", owner=(0, 0), direct=True, kept=(self.keeper, "test/write")
        )
        mount.add([(2, "file", 0o666 | fuse.WATCHED), (3, "other", 0o644)])
        assert mount.tree is not None
        mount_calls.move_mount(mount.tree.fileno(), str(path.parent))

    def close(self) -> None:
        self.server.close()

    def open(self, name: bytes = b"") -> int:
        fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        self._undo.callback(_close, fd)
        if name:
            os.write(fd, name)
        return fd

    def serve_anew(self) -> None:
        """By another server, which gets what was kept."""
        self.server.close()
        self.server = fuse.Server()
        kept = self.keeper.kept.pop((fuse.KEPT, "test/write"))
        mount = self.server.inherit(self.bells, kept, owner=(0, 0), direct=True, kept=(self.keeper, "test/write"))
        mount.add([(2, "file", 0o666 | fuse.WATCHED), (3, "other", 0o644)])
        for key in self.keeper.watches():
            mount.watch_again(key, os.dup(self.keeper.kept[fuse.WATCHES, key]))
        mount.begin()


def _close(fd: int) -> None:
    try:
        os.close(fd)
    except OSError as error:
        assert error.errno == errno.EBADF  # noqa: PT017 - the test has closed it


@pytest.fixture
def served() -> Iterator[Served]:
    with oci.directory() as at, ExitStack() as undo:
        made = Served(undo, at / "file")
        undo.callback(made.close)
        undo.callback(mount_calls.unmount, str(at))
        with ExitStack() as files:
            made._undo = files
            yield made


def _polled(fd: int, timeout_ms: int, events: int = select.POLLPRI) -> int:
    waiting = select.poll()
    waiting.register(fd, events)
    return dict(waiting.poll(timeout_ms)).get(fd, 0)


def test_who_has_written_nothing_hears_so(served: Served) -> None:
    """psi_trigger_poll(): there is no trigger."""
    fd = served.open()
    assert _polled(fd, ENOUGH_MS) == select.POLLPRI | select.POLLERR
    assert os.read(fd, 100) == b"some\n"


def test_other_files_are_always_ready(served: Served) -> None:
    with served.path.with_name("other").open("rb") as file:
        assert _polled(file.fileno(), ENOUGH_MS, WITHOUT | select.POLLPRI) == WITHOUT


def test_each_open_file_waits_for_its_own(served: Served) -> None:
    one, two = served.open(b"one"), served.open(b"two")
    assert (_polled(one, 0), _polled(two, 0)) == (0, 0)
    served.bells.ring(b"two")
    assert _polled(two, ENOUGH_MS) == select.POLLPRI
    assert (_polled(one, 0), _polled(two, 0)) == (0, 0), "it is told once"
    served.bells.ring(b"one")
    assert _polled(one, ENOUGH_MS) == select.POLLPRI
    assert _polled(one, 0, WITHOUT) == WITHOUT


def test_epoll(served: Served) -> None:
    fd = served.open(b"one")
    with closing(select.epoll()) as epoll:
        epoll.register(fd, select.EPOLLPRI)
        for _ in range(3):
            assert epoll.poll(0) == []
            served.bells.ring(b"one")
            assert epoll.poll(ENOUGH_MS / 1000) == [(fd, select.EPOLLPRI)]


def test_what_is_refused(served: Served) -> None:
    fd = served.open()
    with pytest.raises(OSError, match="not supported"):
        os.write(fd, b"nothing")
    assert os.write(fd, b"one") == 3
    with pytest.raises(OSError, match="busy"):
        os.write(fd, b"two")


def test_there_are_so_many_at_most(served: Served) -> None:
    for number in range(MAX):
        served.open(b"%d" % number)
    fd = served.open()
    with pytest.raises(OSError, match="memory"):
        os.write(fd, b"more")
    served.bells.ring(b"31")


def test_another_server_goes_on(served: Served) -> None:
    fd, later = served.open(b"one"), served.open(b"later")
    with closing(select.epoll()) as epoll:
        epoll.register(fd, select.EPOLLPRI)
        assert len(served.keeper.watches()) == 2
        served.serve_anew()
        served.bells.ring(b"one")
        assert epoll.poll(ENOUGH_MS / 1000) == [(fd, select.EPOLLPRI)]
        assert _polled(later, 0) == 0
        served.bells.ring(b"later")
        assert _polled(later, ENOUGH_MS) == select.POLLPRI
    for each in (fd, later):
        os.close(each)
    wait_for(lambda: not served.keeper.watches(), "nothing is kept", within=20)
