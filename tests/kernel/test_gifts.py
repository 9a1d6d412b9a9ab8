"""A descriptor that is given to a tracee while the supervisor is killed: the tracee has it once, and hears its number."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest
from interceptor.native._native import ffi, lib
from support import tracees
from support.fakes import Memory
from support.tracees import GETPPID, Session, Watched

from interceptor.native.journal import Journal, Unfinished
from interceptor.verdict import AddFd, Return

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


class Sending(Memory):
    """What a child keeps is its parent's."""

    def __init__(self, before: Memory, to: socket.socket) -> None:
        super().__init__()
        self.held, self._to = before.held, to

    def keep(self, kind: str, key: str, fd: int, _note: str = "") -> None:
        socket.send_fds(self._to, [f"{kind} {key}".encode()], [fd])


@pytest.fixture
def tracee() -> Iterator[Watched]:
    with tracees.watched() as tracee:
        yield tracee


@pytest.fixture
def session(tracee: Watched) -> Iterator[Session]:
    with tracees.session(tracee) as session:
        yield session


@pytest.fixture
def call(tracee: Watched, session: Session) -> int:
    """The notification's id."""
    tracee.call(GETPPID)
    session.next()
    return int(session.receiver.out.id)


def give_and_die(keeper: Memory, session: Session, fd: int, give: Callable[[], int]) -> NoReturn:
    journal = Journal(keeper)
    slot = journal.open(7)
    assert slot is not None
    slot.enter()
    slot.c.id = session.receiver.out.id
    ffi.cast("uint32_t *", ffi.addressof(slot.c, "id"))[2] = session.receiver.out.tid  # struct seccomp_notif, pid

    def killed() -> int:
        give()
        os.kill(os.getpid(), signal.SIGKILL)
        return -1

    journal.give(AddFd(fd), killed)
    raise AssertionError("it is dead")


def left(keeper: Memory, session: Session, fd: int, give: Callable[[], int]) -> Unfinished:
    """What a supervisor leaves that was killed in that."""
    Journal(keeper)  # so that there is one
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        try:
            give_and_die(Sending(keeper, theirs), session, fd, give)
        finally:
            os._exit(1)
    with ours, theirs:
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        message, (kept,), _, _ = socket.recv_fds(ours, 100, 1)
        keeper.keep(*message.decode().split(), kept)
        os.close(kept)
    (unfinished,) = Journal(keeper).unfinished()[7]
    unfinished.slot.enter()
    return unfinished


def test_what_the_tracee_has_is_answered_with_its_number(tracee: Watched, session: Session, call: int, tmp_path: Path) -> None:
    with (tmp_path / "given").open("w") as file:
        keeper, fd = Memory(), file.fileno()
        unfinished = left(keeper, session, fd, lambda: lib.ic_give_fd(session.notifier.fd, call, fd, 1, 0))
    given = unfinished.given()
    assert given is not None
    answer, _ = given
    assert isinstance(answer, Return)
    assert Path(f"/proc/{tracee.pid}/fd/{answer.value}").readlink() == tmp_path / "given"
    assert [kind for kind, _ in keeper.held] == ["journal"]
    session.notifier.answer(call, answer)
    assert tracee.result() == answer.value


def test_what_the_tracee_has_not_is_given_to_it(tracee: Watched, session: Session, call: int, tmp_path: Path) -> None:
    with (tmp_path / "given").open("w") as file:
        unfinished = left(Memory(), session, file.fileno(), lambda: 0)
    given = unfinished.given()
    assert given is not None
    answer, _ = given
    assert isinstance(answer, AddFd)
    session.notifier.answer(call, answer)
    os.close(answer.fd)
    number = tracee.result()
    assert Path(f"/proc/{tracee.pid}/fd/{number}").readlink() == tmp_path / "given"
