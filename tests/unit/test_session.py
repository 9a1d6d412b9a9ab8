"""A session's threads: receiving, parking what is slow, settling what was answered; the notifier is a script."""

from __future__ import annotations

import errno
import os
import queue
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from support.fakes import container, policy
from support.policy_rows import ShutdownArgs, row, rows_of
from support.waiting import wait_for

from interceptor import session as module
from interceptor.args import Arch
from interceptor.dispatch import Dispatcher, Outcome, key_of, routes_of
from interceptor.errors import InterceptorError, NotificationGone
from interceptor.native.notifier import CONTINUE_FLAG, wire_form
from interceptor.notification import Notification
from interceptor.policy import Decision, Do
from interceptor.session import Parking, Session
from interceptor.trace.record import How
from interceptor.trace.ring import Ring
from interceptor.verdict import AddFd, Continue, Fail, Return, Verdict

ENDED = -errno.ENODEV
SHUTDOWN = 48


class Script:
    """A native.Notifier: `feed` what arrives; `answers` is what was sent; `gone` are ids that nobody waits for."""

    def __init__(self) -> None:
        self.fd = 33
        self.arrivals: queue.Queue[int] = queue.Queue()
        self.answers: dict[int, tuple[int, int, int] | Verdict] = {}
        self.answered_by: dict[int, str] = {}
        self.gone: set[int] = set()
        self.receiving: set[str] = set()
        self.most_receiving = 0
        self.closed = 0
        self.broken: dict[int, int] = {}
        """Id → errno of its separate answer."""

    def feed(self, *arrivals: int) -> None:
        """Ids of notifications, or a failure of the receive call."""
        for arrival in arrivals:
            self.arrivals.put(arrival)

    def receiver(self) -> Any:
        out = SimpleNamespace(
            id=0, key=0, tid=100, arch=Arch.X86_64, nr=SHUTDOWN, ip=1, args=(0,) * 6, sent=0, received=0
        )

        def following(_c: Any, answered: int, value: int, error: int, flags: int, _note: int, out: Any) -> int:
            out.sent = self._send(answered, (value, error, flags)) if answered else 0
            name = threading.current_thread().name + str(threading.get_ident())
            self.receiving.add(name)
            self.most_receiving = max(self.most_receiving, len(self.receiving))
            arrival = self.arrivals.get()
            self.receiving.discard(name)
            if arrival < 0:
                return arrival
            out.id, out.key = arrival, key_of(Arch.X86_64, SHUTDOWN)
            return 0

        def notification() -> Notification:
            return Notification(out.id, out.tid, out.arch, out.nr, out.ip, out.args)

        return SimpleNamespace(next=following, c=None, out=out, notification=notification)

    def _send(self, number: int, answer: Any) -> int:
        assert number not in self.answers, f"{number} is answered twice"
        self.answers[number] = answer
        self.answered_by[number] = str(threading.get_ident())
        return -errno.ENOENT if number in self.gone else 0

    def answer(self, number: int, verdict: Verdict) -> Verdict:
        if number in self.broken:
            raise InterceptorError(os.strerror(self.broken[number]))
        if self._send(number, verdict if isinstance(verdict, AddFd) else wire_form(verdict)):
            raise NotificationGone("gone")
        return Return(verdict.fd + 100) if isinstance(verdict, AddFd) else verdict

    def look(self, looks: Any) -> None:
        pass

    def parked(self, more: int) -> None:
        assert more in {1, -1}

    def hits(self) -> tuple[list[Any], int]:
        return [], 0

    def close(self) -> None:
        self.closed += 1


Handle = Callable[[Any, Notification], Verdict | None]


class Scripted(Dispatcher):
    """A Dispatcher whose decisions are the test's; real repeats, real routes."""

    def __init__(self, handle: Handle, *, rows: dict[str, Any] | None = None) -> None:
        chosen = policy(default=Decision(Do.EMULATE, "r:1"))
        super().__init__(container(), chosen, routes_of(rows or {}, chosen), pool=None)  # type: ignore[arg-type]
        self.handle = handle
        self.settled: list[tuple[int, bool]] = []
        self.acted: set[int] = set()

    def answer(self, host: Any, notification: Notification, _buffer: Any) -> Outcome:
        outcome = Outcome(
            notification, entered=(1,) if notification.id in self.acted else (), acted=notification.id in self.acted
        )
        outcome.verdict = self.handle(host, notification)
        outcome.call = "shutdown"
        outcome.how = How.GONE if outcome.verdict is None else How.EMULATED
        return outcome

    def settle(self, outcome: Outcome, *, delivered: bool) -> None:
        self.settled.append((outcome.notification.id, delivered))


class World:
    def __init__(self, handle: Handle = lambda _host, _n: Return(), *, parked: int = 8, rows: Any = None) -> None:
        self.notifier = Script()
        self.dispatcher = Scripted(handle, rows=rows)
        self.parking = Parking(parked)
        self.ring = Ring("c1")
        self.ended: list[Session] = []
        self.session = Session(self.notifier, self.dispatcher, self.parking, self.ring, self.ended.append)  # type: ignore[arg-type]

    def run(self, *arrivals: int) -> None:
        """Everything that arrives, to the end."""
        self.notifier.feed(*arrivals, ENDED)
        self.session.start()
        self.wait_ended()

    def wait_ended(self) -> None:
        wait_for(lambda: self.ended, "the session's end", within=5)
        assert self.ended == [self.session]
        assert self.notifier.closed == 1
        assert self.parking.count == 0


def test_each_notification_is_answered_and_the_end_closes_the_notifier() -> None:
    verdicts = {1: Return(3), 2: Fail(errno.EPERM), 3: Continue(because="x"), 4: None}
    world = World(lambda _host, n: verdicts[n.id])
    world.run(1, 2, 3, 4)
    assert world.notifier.answers == {1: (3, 0, 0), 2: (0, errno.EPERM, 0), 3: (0, 0, CONTINUE_FLAG)}
    assert [record.how for record in world.ring.history()] == [How.EMULATED] * 3 + [How.GONE]


def test_only_what_entered_is_settled_and_always_once() -> None:
    verdicts = {1: Return(), 2: Return(), 3: None, 4: Return(), 5: Fail(errno.EBUSY)}
    world = World(lambda _host, n: verdicts[n.id])
    world.dispatcher.acted = {1, 2, 3, 5}
    world.notifier.gone = {2}
    world.run(1, 2, 3, 4, 5)
    assert world.dispatcher.settled == [(1, True), (2, False), (3, False), (5, True)]


def test_an_added_descriptor_is_closed_whether_or_not_it_arrived(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []
    monkeypatch.setattr(module, "close", closed.append)
    world = World(lambda _host, n: AddFd(40 + n.id))
    world.notifier.gone = {2}
    world.run(1, 2)
    assert closed == [41, 42]
    assert world.notifier.answers == {1: AddFd(41), 2: AddFd(42)}


def test_a_slow_call_leaves_the_receiving_to_a_successor() -> None:
    gate = threading.Event()

    def handle(host: Any, notification: Notification) -> Verdict:
        if notification.id == 1:
            host.slow()
            host.slow()  # once is enough
            assert gate.wait(5)
        return Return(notification.id)

    world = World(handle)
    world.dispatcher.acted = {1}
    world.notifier.feed(1, 2, 3)
    world.session.start()
    wait_for(lambda: {2, 3} <= set(world.notifier.answers), "others are answered meanwhile", within=5)
    assert 1 not in world.notifier.answers
    assert world.parking.count == 1
    gate.set()
    wait_for(lambda: 1 in world.notifier.answers, "the parked answer", within=5)
    wait_for(lambda: world.parking.count == 0, "its place is free", within=5)
    assert world.dispatcher.settled == [(1, True)]
    world.notifier.feed(ENDED)
    world.wait_ended()
    assert world.notifier.answered_by[1] != world.notifier.answered_by[2] == world.notifier.answered_by[3]
    assert world.notifier.most_receiving == 1, "never two receive"


def test_a_parked_call_that_outlives_its_session_closes_it() -> None:
    gate = threading.Event()

    def handle(host: Any, _notification: Notification) -> Verdict:
        host.slow()
        assert gate.wait(5)
        return Return()

    world = World(handle)
    world.notifier.feed(1, ENDED)
    world.session.start()
    wait_for(lambda: world.session._over, "the successor sees the end", within=5)
    assert world.notifier.closed == 0, "somebody still has to answer"
    gate.set()
    world.wait_ended()


def test_parking_is_bounded_and_beyond_it_the_kernel_queues() -> None:
    gate = threading.Event()
    started: list[int] = []

    def handle(host: Any, notification: Notification) -> Verdict:
        started.append(notification.id)
        host.slow()
        assert gate.wait(5)
        return Return()

    world = World(handle, parked=2)
    world.notifier.feed(1, 2, 3, 4)
    world.session.start()
    wait_for(lambda: len(started) == 3, "two are parked, the third holds its thread", within=5)
    assert world.parking.count == 2
    assert world.notifier.arrivals.qsize() == 1, "the fourth is not received"
    gate.set()
    world.notifier.feed(ENDED)
    world.wait_ended()
    assert sorted(world.notifier.answers) == [1, 2, 3, 4]


def test_a_session_that_can_have_no_more_threads_goes_on_without_a_successor(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(lambda host, n: (host.slow(), Return(n.id))[1])
    world.notifier.feed(1, 2)
    world.session.start()
    monkeypatch.setattr(module.Thread, "start", _refuse)
    world.notifier.feed(3, ENDED)
    world.wait_ended()
    assert set(world.notifier.answers) == {1, 2, 3}


def _refuse(_thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_a_session_that_cannot_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.Thread, "start", _refuse)
    with pytest.raises(InterceptorError, match="thread"):
        World().session.start()


def test_a_fault_in_receiving_ends_the_session() -> None:
    world = World()
    world.notifier.feed(1, -errno.EBADF)
    world.session.start()
    world.wait_ended()
    assert 1 in world.notifier.answers


# Answers from registers alone


def pure(handler: Callable[[Any, Any], Verdict]) -> dict[str, Any]:
    made = row("shutdown", ShutdownArgs)
    for name, value in (("handler", handler), ("pure", True)):
        object.__setattr__(made, name, value)
    # ShutdownArgs has a pointer that is not followed: that is a register.
    return rows_of(made)


def test_a_pure_handler_is_asked_on_the_shortest_way() -> None:
    world = World(lambda _host, _n: Fail(errno.EIO), rows=pure(lambda _call, args: Return(args.fd + 5)))
    world.run(1, 2)
    assert world.notifier.answers == {1: (5, 0, 0), 2: (5, 0, 0)}


def test_a_pure_handler_that_fails_is_asked_again_where_errors_have_answers() -> None:
    def broken(_call: Any, _args: Any) -> Verdict:
        raise ZeroDivisionError

    world = World(lambda _host, _n: Fail(errno.EIO), rows=pure(broken))
    world.run(1)
    assert world.notifier.answers == {1: (0, errno.EIO, 0)}


def test_an_undelivered_pure_answer_is_nobody_elses() -> None:
    """The call before it was delivered: its result must not be kept."""
    fails = iter([ZeroDivisionError(), None])

    def handler(_call: Any, _args: Any) -> Verdict:
        error = next(fails)
        if error:
            raise error
        return Return(1)

    world = World(lambda _host, _n: Return(7), rows=pure(handler))
    world.dispatcher.acted = {1}
    world.notifier.gone = {2}
    world.run(1, 2)
    assert world.notifier.answers == {1: (7, 0, 0), 2: (1, 0, 0)}
    assert world.dispatcher.settled == [(1, True)]
