"""The C loop on real notifications: table, answers, what is remembered, and the end."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import tracees
from support.tracees import GETPPID, GETPPID_32, X32, Session, Watched
from support.waiting import wait_for

from interceptor.args import Arch
from interceptor.errors import InterceptorError, NotificationGone
from interceptor.native import pin
from interceptor.native.notifier import CONTINUE_FLAG, UNHEARD, UNREAD, Table, ended, receive_returns
from interceptor.native.notifier import FULL as FULL_RING
from interceptor.stanza import Action, RegisterTest, TableRow
from interceptor.verdict import AddFd, Continue, Fail, Return

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

FULL = (1 << 64) - 1
HITS = 1024


def row(action: Action, number: int, *tests: tuple[int, int, int], nr: int = GETPPID, rule: str = "r") -> TableRow:
    return TableRow(nr, tuple(RegisterTest(*test) for test in tests), action, number, rule)


@pytest.fixture
def tracee() -> Iterator[Watched]:
    with tracees.watched() as made:
        yield made


@pytest.fixture
def session(tracee: Watched) -> Iterator[Session]:
    with tracees.session(tracee) as made:
        yield made


def test_a_miss_is_flattened_and_answered_with_the_next_receive(tracee: Watched, session: Session) -> None:
    args = (1, FULL, 1 << 63, 4, 5, 6)
    before = time.monotonic_ns()
    tracee.call(GETPPID, *args)
    assert session.next() == 0
    seen = session.receiver.notification()
    assert (seen.tid, seen.arch, seen.nr, seen.args) == (tracee.pid, Arch.X86_64, GETPPID, args)
    assert session.receiver.out.key == Arch.X86_64 << 32 | GETPPID
    assert before <= session.receiver.out.received <= time.monotonic_ns()
    for value, error, flags, expected in (
        (77, 0, 0, 77), (1 << 40, 0, 0, 1 << 40), (-5, 0, 0, -5), (9, errno.EDOM, 0, -errno.EDOM),
        (0, 0, CONTINUE_FLAG, os.getpid()),
    ):  # fmt: skip
        tracee.call(GETPPID)
        assert session.next(session.receiver.out.id, value, error, flags) == 0
        assert session.receiver.out.sent == 0
        assert tracee.result() == expected
    session.notifier.answer(session.receiver.out.id, Return(3))
    assert tracee.result() == 3


@pytest.mark.parametrize(
    ("verdict", "result"),
    [(Return(5), 5), (Return(-1), -1), (Fail(errno.EBUSY), -errno.EBUSY), (Continue(because="x"), os.getpid())],
)
def test_answers_in_a_call_of_their_own(tracee: Watched, session: Session, verdict: object, result: int) -> None:
    tracee.call(GETPPID)
    session.next()
    session.notifier.answer(session.receiver.out.id, verdict)  # type: ignore[arg-type]
    assert tracee.result() == result
    with pytest.raises(NotificationGone):
        session.notifier.answer(session.receiver.out.id, Return(1))


ROWS = [
    row(Action.ERRNO, errno.EDOM, (0, 0xFF, 5), rule="p:1"),
    row(Action.RETURN, 77, (1, 1, 1), (2, 0xF0, 0x20), rule="p:2"),
    row(Action.CONTINUE, 0, (3, FULL, 0xFFFFFFFF_00000001), rule="p:3"),
    row(Action.RETURN, 44, (5, FULL, 1 << 63), rule="p:4"),
    row(Action.RETURN, 55, (0, FULL, 5), nr=GETPPID_32, rule="p:5"),
    row(Action.RETURN, 66, (0, FULL, 0xDEADBEEF_00000006), nr=GETPPID_32, rule="never"),
]

CALLS: list[tuple[tuple[int, ...], int, str | None]] = [
    ((5,), -errno.EDOM, "p:1"),
    ((0x105,), -errno.EDOM, "p:1"),
    ((5, 1, 0x2F), -errno.EDOM, "p:1"),  # the first row wins
    ((4, 1, 0x2F), 77, "p:2"),
    ((4, 3, 0x120), 77, "p:2"),
    ((4, 1, 0x30), -1, None),  # one test of two
    ((4, 2, 0x20), -1, None),
    ((0, 0, 0, 0xFFFFFFFF_00000001), 0, "p:3"),
    ((0, 0, 0, 1), -1, None),
    ((0, 0, 0, 0, 0, 1 << 63), 44, "p:4"),
]


def test_the_table_answers_what_its_rows_say(tracee: Watched) -> None:
    with tracees.session(tracee, ROWS) as session:
        hits = []
        for args, expected, rule in CALLS:
            tracee.call(GETPPID, *args)
            tracee.call(GETPPID, 99, 99)  # a miss, which ends the receiving
            assert session.next() == 0
            if rule is None:
                assert session.receiver.notification().args[: len(args)] == args
                session.next(session.receiver.out.id, 0, -expected)
            else:
                hits.append((args, rule))
            assert tracee.result() == (os.getpid() if rule == "p:3" else expected)
            session.notifier.answer(session.receiver.out.id, Return())
            assert tracee.result() == 0
        seen, lost = session.notifier.hits()
        assert lost == 0
        assert [(hit.args[: len(args)], hit.rule) for hit, (args, _) in zip(seen, hits, strict=True)] == hits
        assert {(hit.tid, hit.arch, hit.nr, hit.note) for hit in seen} == {(tracee.pid, Arch.X86_64, GETPPID, None)}
        verdicts = {hit.rule: hit.verdict for hit in seen}
        assert verdicts == {"p:1": Fail(errno.EDOM), "p:2": Return(77), "p:3": Continue(because=""), "p:4": Return(44)}
        assert all(0 < hit.nanoseconds < 10**9 and abs(hit.time_ns - time.monotonic_ns()) < 60 * 10**9 for hit in seen)
        assert session.notifier.hits() == ([], 0)


def test_a_32_bit_call_has_its_own_rows_and_half_registers(tracee: Watched) -> None:
    with tracees.session(tracee, ROWS) as session:
        for args, expected in (((5,), 55), ((0xDEADBEEF_00000005,), 55)):
            tracee.call(GETPPID_32, *args, abi=32)
            tracee.call(GETPPID, 99)
            assert session.next() == 0
            assert tracee.result() == expected
            session.notifier.answer(session.receiver.out.id, Return())
            tracee.result()
        tracee.call(GETPPID_32, 0xDEADBEEF_00000006, abi=32)
        assert session.next() == 0
        seen = session.receiver.notification()
        assert (seen.arch, seen.nr) == (Arch.I386, GETPPID_32)
        assert seen.args[0] & 0xFFFFFFFF == 6
        session.notifier.answer(seen.id, Fail(errno.EPERM))
        assert tracee.result() == -errno.EPERM


def test_an_x32_call_does_not_exist(tracee: Watched, session: Session) -> None:
    tracee.call(GETPPID | X32)
    tracee.call(GETPPID)
    assert session.next() == 0
    assert tracee.result() == -errno.ENOSYS
    assert session.receiver.notification().nr == GETPPID
    session.notifier.answer(session.receiver.out.id, Return())


def test_a_new_table_answers_from_the_next_call_on(tracee: Watched) -> None:
    with tracees.session(tracee, ROWS) as session:
        session.notifier.use(Table({Arch.X86_64: [row(Action.RETURN, 9, (0, FULL, 5), rule="new:1")]}))
        tracee.call(GETPPID, 5)
        tracee.call(GETPPID, 4, 1, 0x20)
        assert session.next() == 0
        assert tracee.result() == 9
        session.notifier.answer(session.receiver.out.id, Return())
        assert [hit.rule for hit in session.notifier.hits()[0]] == ["new:1"]


def test_no_hit_is_lost_for_want_of_room(tracee: Watched) -> None:
    with tracees.session(tracee, [row(Action.RETURN, 1, (0, FULL, 5))]) as session:
        collected = 0
        for number in range(3 * HITS):
            tracee.call(GETPPID, 5, number)
            if number % 100 == 99:  # keeps the tracee's pipes from filling
                tracee.call(GETPPID)
                while (result := session.next()) == FULL_RING:
                    session.notifier.collect()
                    collected += 1
                assert result == 0
                session.notifier.answer(session.receiver.out.id, Return())
                assert [tracee.result() for _ in range(101)] == [1] * 100 + [0]
        hits, lost = session.notifier.hits()
        assert (collected, lost) == (2, 0)
        answered = 3 * HITS // 100 * 100
        assert [hit.args[1] for hit in hits] == list(range(answered))
        assert session.notifier.hits() == ([], 0)


def test_hits_that_nobody_reads_are_counted(tracee: Watched) -> None:
    with tracees.session(tracee, [row(Action.RETURN, 1, (0, FULL, 5))]) as session:
        for number in range(UNREAD + 2):
            tracee.call(GETPPID, 5, number)
            tracee.call(GETPPID)
            assert session.next() == 0
            session.notifier.collect()
            session.notifier.answer(session.receiver.out.id, Return())
            assert [tracee.result(), tracee.result()] == [1, 0]
        hits, lost = session.notifier.hits()
        assert (len(hits), lost) == (UNREAD, 2)
        assert hits[0].args[1] == 2


def test_an_answer_from_registers_is_remembered_with_its_note(tracee: Watched, session: Session) -> None:
    tracee.call(GETPPID, 8)
    assert session.next() == 0
    tracee.call(GETPPID)
    assert session.next(session.receiver.out.id, 6, 0, 0, note=3) == 0
    assert tracee.result() == 6
    [hit], _ = session.notifier.hits()
    assert (hit.note, hit.rule, hit.verdict, hit.args[0]) == (3, "", Return(6), 8)
    session.notifier.answer(session.receiver.out.id, Return())


@pytest.mark.parametrize("poll_first", [False, True])
def test_the_end_comes_when_all_tracees_are_gone(tracee: Watched, poll_first: bool) -> None:
    if not poll_first and not receive_returns():
        pytest.skip("this kernel's RECV does not return when all tracees are gone")
    with tracees.session(tracee, poll_first=poll_first) as session:
        tracee.call(GETPPID)
        assert session.next() == 0
        tracee.end()
        failure = session.next(session.receiver.out.id, 1)
        assert failure == -errno.ENODEV
        assert ended(failure)


@pytest.mark.parametrize("poll_first", [False, True])
def test_a_tracee_that_is_killed_ends_it_too(tracee: Watched, poll_first: bool) -> None:
    if not poll_first and not receive_returns():
        pytest.skip("this kernel's RECV does not return when all tracees are gone")
    with tracees.session(tracee, poll_first=poll_first) as session:
        tracee.call(GETPPID)
        assert session.next() == 0
        number = session.receiver.out.id
        assert pin.waits(session.notifier.fd, number)
        tracee.kill()
        assert not pin.waits(session.notifier.fd, number)
        with pytest.raises(NotificationGone):
            session.notifier.answer(number, Return(1))
        assert session.next(number, 1) == UNHEARD
        assert session.receiver.out.sent == -errno.ENOENT
        assert session.next() == -errno.ENODEV


def test_other_failures_are_ours() -> None:
    with pytest.raises(InterceptorError, match="Bad file descriptor"):
        ended(-errno.EBADF)


@pytest.mark.parametrize("cloexec", [True, False])
def test_a_descriptor_is_added_and_returned(tracee: Watched, session: Session, cloexec: bool, tmp_path: Path) -> None:
    with (tmp_path / "given").open("w") as file:
        tracee.call(GETPPID)
        session.next()
        answered = session.notifier.answer(session.receiver.out.id, AddFd(file.fileno(), cloexec))
        number = tracee.result()
        assert answered == Return(number)
        assert Path(f"/proc/{tracee.pid}/fd/{number}").readlink() == Path(file.name)
        flags = Path(f"/proc/{tracee.pid}/fdinfo/{number}").read_text().split("flags:")[1].split()[0]
        assert bool(int(flags, 8) & os.O_CLOEXEC) is cloexec


def test_a_full_descriptor_table_is_the_tracees_failure(tracee: Watched, session: Session) -> None:
    import resource  # noqa: PLC0415 - only here

    resource.prlimit(tracee.pid, resource.RLIMIT_NOFILE, (3, 1024))
    tracee.call(GETPPID)
    session.next()
    assert session.notifier.answer(session.receiver.out.id, AddFd(0)) == Fail(errno.EMFILE)
    assert tracee.result() == -errno.EMFILE
    tracee.call(GETPPID)
    assert session.next() == 0, "the session goes on"
    session.notifier.answer(session.receiver.out.id, Return(4))
    assert tracee.result() == 4


def test_the_probe_leaves_nothing() -> None:
    def state() -> tuple[set[str], str]:
        return set(os.listdir("/proc/self/fd")), Path(f"/proc/self/task/{os.getpid()}/children").read_text()

    before = state()
    assert receive_returns() in {True, False}
    assert state() == before


def test_closing_once_is_enough(tracee: Watched) -> None:
    with tracees.session(tracee) as session:
        fd = session.notifier.fd
        session.notifier.close()
        assert session.notifier.fd == -1
        with Path("/dev/null").open() as other:
            os.dup2(other.fileno(), fd)  # somebody else gets the number
        session.notifier.close()
        assert fcntl.fcntl(fd, fcntl.F_GETFD) >= 0
        os.close(fd)
    tracee.call(GETPPID)
    wait_for(lambda: tracee.result() == -errno.ENOSYS, "without a listener", within=5)
