"""One notifier's life: a thread that loops in one C function and answers what the table cannot.

A notification is answered on the thread that received it. When its action is slow, the thread starts a successor that
receives from then on, finishes its own call and ends: the number of calls parked like that is bounded per container,
and beyond it the kernel queues.

Nothing is formatted, and nothing handed to a reader, between receipt and answer: what happened is kept as it is, and
`drain` makes records of it when the control plane asks.
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import closing
from functools import partial
from threading import Lock, Thread, get_ident
from typing import TYPE_CHECKING

import structlog

from interceptor.args import Arch, Want
from interceptor.dispatch import Dispatcher, Outcome, Route, record_of
from interceptor.errors import InterceptorError, NotificationGone
from interceptor.native.notifier import (
    FULL,
    LOST,
    SLOW,
    UNHEARD,
    UNTAKEN,
    WANTED,
    Hit,
    Notifier,
    Receiver,
    Table,
    ended,
    wire_form,
)
from interceptor.native.pin import Buffer, close
from interceptor.trace.clock import since_epoch
from interceptor.trace.record import How, Record
from interceptor.verdict import AddFd, Fail, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from interceptor.native.journal import Unfinished
    from interceptor.ports import Call
    from interceptor.trace.ring import Ring

log = structlog.get_logger(__name__)

UNREAD = 16384
"""Outcomes kept until the next drain; the control plane drains every second."""


class Parking:
    """How many calls of one container wait for slow actions; shared by its sessions."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = Lock()
        self.count = 0

    def allow(self, limit: int) -> None:
        """From now on; those that wait already may stay."""
        self._limit = limit

    def enter(self) -> bool:
        with self._lock:
            if self.count >= self._limit:
                return False
            self.count += 1
            return True

    def leave(self) -> None:
        with self._lock:
            self.count -= 1


class Session:
    """Owns a notifier and its receiving thread. `ended` is called once, from that thread, when all tracees are gone."""

    def __init__(
        self, notifier: Notifier, dispatcher: Dispatcher, parking: Parking, ring: Ring, ended: Callable[[Session], None]
    ) -> None:
        self.notifier = notifier
        self.dispatcher = dispatcher
        self._notes: dict[int, str] = {}
        """Rule by the number that a quick route noted."""
        self.outcomes: deque[Outcome] = deque(maxlen=UNREAD)
        self._parking = parking
        self._ring = ring
        self._ended = ended
        self._lock = Lock()
        self._drain_lock = Lock()
        self._threads = 0
        self._over = False
        self._busy: dict[int, int] = {}
        """Thread → since when it handles a call (CLOCK_MONOTONIC, ns)."""
        dispatcher.repeats.share(notifier.fd, notifier)

    @property
    def container_id(self) -> str:
        return self.dispatcher.container.id

    def start(self) -> None:
        """Starts a receiving thread: the first, or the successor of one that is parked.

        InterceptorError when there can be no more threads (RLIMIT_NPROC, pids.max).
        """
        self._start(self._receive)

    def finish(self, unfinished: Unfinished) -> None:
        """Answers, on a thread of its own, what an earlier supervisor had received; as `start`."""
        self._start(partial(self._recover, unfinished))

    def _receive(self) -> None:
        with closing(self.notifier.receiver()) as receiver:
            Worker(self, receiver).receive()

    def _recover(self, unfinished: Unfinished) -> None:
        self._parked(1)
        try:
            with closing(self.notifier.receiver(unfinished.slot)) as receiver:
                Worker(self, receiver).recover(unfinished)
        finally:
            self._parked(-1)

    def _start(self, work: Callable[[], None]) -> None:
        with self._lock:
            self._threads += 1
        try:
            Thread(target=self._run, args=(work,), name=f"session {self.container_id[:12]}", daemon=True).start()
        except RuntimeError as error:
            with self._lock:
                self._threads -= 1
            raise InterceptorError(f"container {self.container_id}: {error}") from error

    def drain(self) -> None:
        """Publishes what was answered since the last time, in order of time."""
        self.refresh()
        with self._drain_lock:
            outcomes = [self.outcomes.popleft() for _ in range(len(self.outcomes))]
            hits, lost = self.notifier.hits()
            since = since_epoch()
            records = [record_of(outcome, self.container_id, since) for outcome in outcomes] + [
                self._record(hit, since) for hit in hits
            ]
            for record in sorted(records, key=lambda record: record.time_ns):
                self._ring.publish(record)
            if lost:
                self._ring.skipped(lost)

    def adopt(self, dispatcher: Dispatcher, table: Table) -> None:
        """From the next notification on another policy decides. What was begun before, the one before ends."""
        self.dispatcher = dispatcher
        self.notifier.use(table)
        self.refresh()

    def note(self, routes: Mapping[int, Route]) -> None:
        """A worker answers by these, see `Worker.receive`."""
        self._notes |= {number: route.whole.rule for number, route in routes.items() if route.whole is not None}

    def busy(self) -> list[tuple[int, int]]:
        """(thread, since when it handles a call); on any thread."""
        return list(self._busy.items())

    def started(self, time_ns: int) -> None:
        """The calling thread handles a call that came at that time."""
        self._busy[get_ident()] = time_ns

    def ended(self) -> None:
        """The calling thread has handled it."""
        del self._busy[get_ident()]

    def refresh(self) -> None:
        """Tells the notifier what is known of the container by now."""
        asked = None
        while asked is not self.dispatcher:  # a reload may come between the two
            asked = self.dispatcher
            looks = asked.looks
            if looks is not None:
                self.notifier.look(looks)

    def _record(self, hit: Hit, since: int) -> Record:
        name = self.dispatcher.name_of(hit.arch, hit.nr)
        how, rule, why, remedy, args = How.TABLE, hit.rule, "", "", None
        if hit.note is not None:
            how, rule = How.EMULATED, self._notes.get(hit.note, "")
        elif hit.looked is not None:
            ending, args = self.dispatcher.looked(hit)
            how, rule, why = ending.how if hit.verdict else How.GONE, ending.rule, ending.why
        elif isinstance(hit.verdict, Fail):
            why, remedy = self.dispatcher.refused_by_table(hit.arch, hit.nr, hit.args, rule)
        return Record(
            hit.time_ns + since, self.container_id, hit.tid, hit.comm, name, args, hit.args, Arch(hit.arch), hit.verdict, how,
            rule, hit.nanoseconds / 1000, why, remedy,
        )  # fmt: skip

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except InterceptorError as error:
            log.error("session ends", container=self.container_id, why=str(error))
            self._over = True
        except Exception:
            log.exception("session ends", container=self.container_id)
            self._over = True
        finally:
            self._leave()

    def over(self) -> None:
        """All tracees are gone."""
        self._over = True

    def _leave(self) -> None:
        """The last thread out closes the notifier, so that none is ever used after it was closed."""
        with self._lock:
            self._threads -= 1
            last = self._threads == 0 and self._over
        if last:
            self.drain()
            self.dispatcher.repeats.forget(self.notifier.fd)
            self._ended(self)
            self.notifier.close()

    def park(self) -> bool:
        """One more call waits; starts the successor. False when there is no room: then nobody receives meanwhile."""
        if not self._parking.enter():
            return False
        self._parked(1)
        try:
            self.start()
        except InterceptorError as error:
            self.unpark()
            log.warning("a slow call holds its session up", why=str(error))
            return False
        return True

    def unpark(self) -> None:
        self._parked(-1)
        self._parking.leave()

    def _parked(self, more: int) -> None:
        with self._lock:
            self.notifier.parked(more)


class Worker:
    """One receiving thread of a session; the dispatcher's host."""

    def __init__(self, session: Session, receiver: Receiver) -> None:
        self._session = session
        self._receiver = receiver
        self._buffer = Buffer()
        self._parked = False
        self._handed = False
        self.notifier_fd = session.notifier.fd

    def slow(self) -> None:
        self._parked = self._parked or self._session.park()

    def recover(self, unfinished: Unfinished) -> None:
        """Answers what an earlier supervisor had received: with its answer, by doing it again, or with EINTR."""
        self._parked = True  # others receive
        unfinished.slot.enter()
        self._session.started(time.monotonic_ns())
        outcome = self._session.dispatcher.recover(self, unfinished, self._buffer)
        self._session.ended()
        outcome.time_ns = time.monotonic_ns()
        self._session.outcomes.append(outcome)
        self._answer(outcome)

    def receive(self) -> None:  # noqa: C901 - one loop, for the reason below
        """Until all tracees are gone, or until a successor took over.

        The quick branch is the round trip that bench/roundtrip.py holds against a bare C loop: every name in it is local.
        """
        receiver = self._receiver
        following, c, out = receiver.next, receiver.c, receiver.out
        session, dispatcher = self._session, None
        quick: dict[int, tuple[Callable[[], Verdict] | None, int]] = {}
        pending: Outcome | None = None
        last: Verdict | None = None
        answer = (0, 0, 0)
        failure = following(c, 0, 0, 0, 0, -1, out)
        while True:
            if pending is not None:
                self._settle(pending, delivered=not out.sent)
                pending = None
            if failure and (failure := self._go_on(failure, receiver)):
                break
            if session.dispatcher is not dispatcher:
                dispatcher = session.dispatcher
                quick, last = self._quick_answers(dispatcher), None
            ask, note = quick.get(out.key, _NOT_QUICK)
            if ask is not None:
                try:
                    verdict = ask()
                except Exception:  # noqa: BLE001, S110 - it has no effects: below it is asked again, where errors have answers
                    pass
                else:
                    if verdict is not last:
                        last, answer = verdict, wire_form(verdict)
                    failure = following(c, out.id, *answer, note, out)
                    continue
            outcome = self._outcome(receiver)
            if self._parked:
                self._finish(outcome)
                return
            pending, failure = self._answer_and_receive(outcome, receiver)
        if ended(failure):
            self._session.over()

    def _go_on(self, failure: int, receiver: Receiver) -> int:
        """Does what C cannot do itself; 0 when there is a notification then."""
        session = self._session
        while failure in _NOTHING_CAME:
            if failure == FULL:
                session.notifier.collect()
            elif failure == WANTED:
                session.dispatcher.pool.wanted()
            failure = receiver.next(receiver.c, 0, 0, 0, 0, -1, receiver.out)
        if failure == UNTAKEN:
            session.dispatcher.pool.lost()
        elif failure in _HANDED:
            self._handed = True
        elif failure:
            return failure
        return 0

    def _answer_and_receive(self, outcome: Outcome, receiver: Receiver) -> tuple[Outcome | None, int]:
        """In one C call where the verdict allows it: then `receive` sees in `sent` what became of the outcome returned."""
        verdict = outcome.verdict
        if verdict is None or isinstance(verdict, AddFd):
            self._answer(outcome)
            return None, receiver.next(receiver.c, 0, 0, 0, 0, -1, receiver.out)
        if outcome.entered:
            self._session.dispatcher.announce(outcome)
        return outcome, receiver.next(receiver.c, outcome.notification.id, *wire_form(verdict), -1, receiver.out)

    def _quick_answers(self, dispatcher: Dispatcher) -> dict[int, tuple[Callable[[], Verdict] | None, int]]:
        """For each pure route, by its key: what answers the notification in the receiver's buffer, and its note."""
        self._session.note(dispatcher.quick)
        return {
            key: (self._asker(route, dispatcher.pure_call(route)), route.note)
            for key, route in dispatcher.routes.items()
            if route.note >= 0
        }

    def _asker(self, route: Route, call: Call) -> Callable[[], Verdict]:
        handler = route.row.handler
        if route.quick is not None:
            return partial(handler, call, route.quick)
        receiver, decode = self._receiver, route.decode
        return lambda: handler(call, decode(receiver.notification().args, _unreadable))

    def _outcome(self, receiver: Receiver) -> Outcome:
        session = self._session
        session.refresh()
        session.started(receiver.out.received)
        if self._handed:
            self._handed = False
            outcome = session.dispatcher.resume(self, receiver.notification(), self._buffer, receiver.handed())
        else:
            outcome = session.dispatcher.answer(self, receiver.notification(), self._buffer)
        session.ended()
        outcome.time_ns = time.monotonic_ns()
        outcome.elapsed_ns = outcome.time_ns - receiver.out.received
        session.outcomes.append(outcome)
        return outcome

    def _finish(self, outcome: Outcome) -> None:
        """Answers a parked call; somebody else receives."""
        try:
            self._answer(outcome)
        finally:
            self._session.unpark()

    def _answer(self, outcome: Outcome) -> None:
        """In a call of its own."""
        delivered, verdict = False, outcome.verdict
        try:
            if outcome.entered:
                self._session.dispatcher.announce(outcome)
            if verdict is not None:
                outcome.verdict = self._session.notifier.answer(outcome.notification.id, verdict)
                delivered = True
                if isinstance(verdict, AddFd) and verdict.delivered is not None:
                    verdict.delivered()
        except NotificationGone:
            pass
        finally:
            if isinstance(verdict, AddFd):
                close(verdict.fd)
            self._settle(outcome, delivered=delivered)

    def _settle(self, outcome: Outcome, *, delivered: bool) -> None:
        """A tracee that was interrupted after we acted asks again: then it must find the result."""
        if outcome.entered:
            self._session.dispatcher.settle(outcome, delivered=delivered)


_NOTHING_CAME = frozenset({FULL, WANTED, UNHEARD})
_HANDED = frozenset({SLOW, LOST})
_NOT_QUICK: tuple[None, int] = (None, -1)


def _unreadable(_wants: Sequence[Want]) -> Sequence[bytes | None]:
    """A pure handler's args have no pointers."""
    raise InterceptorError("a pure handler's arguments are registers")
