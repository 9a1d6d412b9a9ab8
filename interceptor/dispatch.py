"""One notification through decoder, policy, handler: the one place where errors become answers.

`OSError` is the tracee's own failure and becomes its errno; `NotificationGone` is nobody's; `InterceptorError`, and
whatever else a handler of ours gets wrong, becomes EIO. None of them becomes CONTINUE.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cache, partial
from operator import attrgetter
from threading import Condition
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import structlog

from interceptor.agent_pool import GRACE_MS, AgentPool, PinnedAgent
from interceptor.args import Address, Arch, Decoder, Want
from interceptor.contexts import ContextsOf
from interceptor.device_programs import Programs, ProgramsOf
from interceptor.errors import InterceptorError, NothingToLend, NotificationGone
from interceptor.modules import HostModules
from interceptor.native import agentlink, journal
from interceptor.native.looks import Looks
from interceptor.native.numbers import block
from interceptor.policy import Caller, Decision, Do, Policy
from interceptor.ports import Call, Namespace
from interceptor.refusal import of_line, refusal
from interceptor.refusal import remedy as remedy_of
from interceptor.registry import Redo
from interceptor.shortcut import Ending, Plan, plan
from interceptor.stanza import RegisterTests, outside, reach, whole_call
from interceptor.trace.event import mask
from interceptor.trace.record import How, Record
from interceptor.tracee import Home, Pinned, pin
from interceptor.verdict import AddFd, Continue, Fail, Return, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from interceptor.container import Container
    from interceptor.native.journal import Reply, Unfinished
    from interceptor.native.notifier import Hit
    from interceptor.native.pin import Buffer
    from interceptor.notification import Notification
    from interceptor.ports import Fresh, Launcher, Shown
    from interceptor.registry import Syscall

log = structlog.get_logger(__name__)

MEMORY = 5.0
"""Seconds for which a restarted call is told which mount its earlier self made: a signal handler may run that long."""
KEPT_SECONDS = 60.0
"""Seconds for which a result waits for the restarted call."""
REPEATS = 256
"""How many results of interrupted calls are remembered per container."""
PATIENCE = 3
"""After so many attempts that a signal interrupted before anything was done, the next goes on to its end."""


class Host(Protocol):
    """What the dispatcher asks of the session that brought the notification."""

    @property
    def notifier_fd(self) -> int: ...

    def slow(self) -> None:
        """The call takes long: somebody else must receive meanwhile."""


@dataclass(slots=True)
class Outcome:
    """What became of one notification, for the answer and the trace."""

    notification: Notification
    verdict: Verdict | None = None
    how: How = How.EMULATED
    rule: str = ""
    why: str = ""
    call: str = ""
    args: Any = None
    comm: str = ""
    acted: bool = False
    """Something was done that must not be done twice."""
    attached: int = 0
    """Number of the mount that was made."""
    entered: Key = ()
    """Its key, once something may have been done: its thread's next call waits until `Dispatcher.settle` says what
    became of the answer."""
    decision: Decision | None = None
    """Policy's; None where it was not asked."""
    refused: Refused | None = None
    resumed: Resumed | None = None
    time_ns: int = 0
    """CLOCK_MONOTONIC when it was answered, and how long that took, ns."""
    elapsed_ns: int = 0


class Resumed(NamedTuple):
    """An earlier supervisor died in it."""

    reply: Reply | None
    """What its agent had replied; None: it was not asked for anything that matters."""


class Known(NamedTuple):
    """What is known of a call that an earlier supervisor left."""

    verdict: Verdict | None
    """None: to be done (again)."""
    why: str
    reply: Reply | None = None


class Refused(NamedTuple):
    """What explains a refusal, when somebody reads the trace."""

    row: Syscall
    policy: Policy
    decision: Decision | None
    """The rule's; None when the handler found a reason of its own in the policy."""
    allow: str = ""
    """The handler's own proposal, ports.Call.allow."""


Key = tuple[int, ...]
"""(notify fd, thread, architecture, number, instruction pointer, registers …): what a restarted call shares with its
earlier self. Its first two are whose call it is."""


HOME_ROLES = {agentlink.MNTNS: Namespace.MOUNT, agentlink.USERNS: Namespace.USER}


class Memory(Protocol):
    """Which mounts were made for calls, as a session's C loop keeps it for those that it decides itself: who then sees
    such a call made again must see what the other did. See native.notifier.Notifier.
    """

    def made(self, call: Sequence[int], text: bytes) -> int: ...

    def remember(self, call: Sequence[int], text: bytes, mount_id: int, seconds: float) -> None: ...


class Made(NamedTuple):
    """A mount that a call made, which was answered, and perhaps not heard."""

    args: Any
    mount_id: int
    expires: float


@dataclass(slots=True)
class Repeats:
    """Calls that a signal interrupted: the kernel restarts them under a new id (without WAIT_KILLABLE_RECV).

    * A thread makes one call at a time, so what is still being done for its earlier one is waited for, whatever it calls
      now; and what turns out to be for an earlier one than the newest is dropped before anything is done for it.
    * What was done, and found nobody waiting for the answer, is not done again: the result waits for the restarted call.
    * An answer that the kernel took may still be lost, because the tracee was woken by a signal a moment before
      (seccomp_do_user_notification() does not look at the answer then). So a call that is made again tells the agent which
      mount its earlier self made: where that is the target already, nothing is mounted over it.
    * A call that is interrupted again and again before anything is done is carried through after a few attempts, so that
      a storm of signals cannot starve it.

    Source: seccomp_unotify(2), "Interaction with SA_RESTART signal handlers".
    """

    _results: OrderedDict[Key, tuple[Outcome, float]] = field(default_factory=OrderedDict)
    """With the time (CLOCK_MONOTONIC, s) until which it is believed: a thread's number may be another's by then."""
    _attempts: OrderedDict[Key, int] = field(default_factory=OrderedDict)
    _made: OrderedDict[Key, Made] = field(default_factory=OrderedDict)
    _newest: OrderedDict[Key, int] = field(default_factory=OrderedDict)
    _shared: dict[int, Memory] = field(default_factory=dict)
    """By notify fd: takes the place of `_made`, and of results of calls that made a mount."""
    _running: set[Key] = field(default_factory=set)
    _changed: Condition = field(default_factory=Condition)

    @staticmethod
    def key(fd: int, notification: Notification) -> Key:
        return (fd, notification.tid, notification.arch, notification.nr, notification.ip, *notification.args)

    def share(self, fd: int, memory: Memory) -> None:
        """From now on `memory` remembers the mounts that were made for calls of that notifier."""
        with self._changed:
            self._shared[fd] = memory

    def begin(self, who: Key, number: int, host: Host, timeout: float) -> None:
        """A call of thread `who` has come, as notification `number`: its earlier one must be over first."""
        with self._changed:
            if number > self._newest.get(who, 0):
                _remember(self._newest, who, number)
            if who in self._running:
                host.slow()
                self._changed.wait_for(lambda: who not in self._running, timeout)

    def enter(self, key: Key, number: int, args: Any, host: Host, timeout: float) -> Outcome | None:
        """Before anything is done for a call: the result of its earlier self, which nobody has received yet; None: do it.

        NotificationGone when the thread has made another call since. Numbers of one notifier only grow.
        """
        who = key[:2]
        with self._changed:
            if who in self._running:
                host.slow()
                self._changed.wait_for(lambda: who not in self._running, timeout)
            if number < self._newest.get(who, 0):
                raise NotificationGone("interrupted, and made again meanwhile")
            self._running.add(who)
            earlier, expires = self._results.get(key, _NOTHING)
        return earlier if earlier is not None and earlier.args == args and time.monotonic() < expires else None

    def made(self, key: Key, args: Any) -> int:
        """Number of the mount that the same call made a while ago; 0: none."""
        with self._changed:
            made, memory = self._made.get(key), self._shared.get(key[0])
        if memory is not None:
            return memory.made(key[1:], _text(args))
        return made.mount_id if made and made.args == args and time.monotonic() < made.expires else 0

    def announce(self, key: Key, args: Any, mount_id: int) -> None:
        """The answer is about to be sent: the very next call that C receives may be the same one."""
        memory = self._shared.get(key[0])
        if memory is not None:
            memory.remember(key[1:], _text(args), mount_id, MEMORY)

    def answered(self, key: Key, args: Any = None, mount_id: int = 0) -> None:
        """The kernel took the answer."""
        with self._changed:
            self._results.pop(key, None)
            self._attempts.pop(key, None)
            if mount_id and key[0] not in self._shared:
                _remember(self._made, key, Made(args, mount_id, time.monotonic() + MEMORY))
            self._leave(key)

    def unclaimed(self, key: Key, outcome: Outcome) -> None:
        """The tracee was gone when the answer came: keep it."""
        with self._changed:
            memory = self._shared.get(key[0])
            if outcome.attached and memory is not None:  # the restarted call then finds it mounted
                memory.remember(key[1:], _text(outcome.args), outcome.attached, KEPT_SECONDS)
            else:
                _remember(self._results, key, (outcome, time.monotonic() + KEPT_SECONDS))
            self._leave(key)

    def interrupted(self, key: Key) -> None:
        """Nothing was done, because a signal came first."""
        with self._changed:
            _remember(self._attempts, key, self._attempts.get(key, 0) + 1)
            self._leave(key)

    def nothing_done(self, key: Key) -> None:
        """It entered, and enters again."""
        with self._changed:
            self._leave(key)

    def _leave(self, key: Key) -> None:
        self._running.discard(key[:2])
        self._changed.notify_all()

    def carry_through(self, key: Key) -> bool:
        """Whether the call was interrupted so often that it is now done whether or not somebody waits."""
        with self._changed:
            if self._attempts.get(key, 0) < PATIENCE:
                return False
            del self._attempts[key]
            return True

    def forget(self, fd: int) -> None:
        """A session has ended: its notifier's number may be another's soon."""
        with self._changed:
            self._shared.pop(fd, None)
            for table in (self._results, self._attempts, self._made, self._newest):
                for key in [key for key in table if key[0] == fd]:
                    del table[key]


_NOTHING: tuple[Outcome | None, float] = (None, 0.0)


def _text(args: Any) -> bytes:
    """The strings of decoded args as C keeps them: each with its NUL, in the order in which they are copied."""
    kind: Any = type(args)
    return b"".join([value + b"\0" for value in _copied(kind)(args) if isinstance(value, bytes)])


@cache
def _copied(kind: type[Any]) -> Callable[[Any], Sequence[Any]]:
    """What yields all fields of an args class, strings in the order in which they are copied."""
    names = getattr(kind, "COPIED", None) or tuple(getattr(kind, "__slots__", ()))
    return attrgetter(*names) if len(names) > 1 else lambda args: [getattr(args, name) for name in names]


def _remember(table: OrderedDict[Key, Any], key: Key, value: Any) -> None:
    table[key] = value
    table.move_to_end(key)
    while len(table) > REPEATS:
        table.popitem(last=False)


class LazyCaller:
    """A `policy.Caller` that pins the tracee only when a rule asks."""

    __slots__ = ("_subject",)

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    @property
    def uid(self) -> int:
        return self._subject.pinned.uid_inside

    @property
    def nested(self) -> bool:
        return self._subject.pinned.in_nested_user_namespace

    @property
    def inner(self) -> bool:
        return self._subject.pinned.in_inner_container

    @property
    def executable(self) -> bytes:
        return self._subject.pinned.executable


class Subject:
    """The tracee of one notification: pinned when something is asked of it, at the latest with its memory."""

    __slots__ = ("_buffer", "_dispatcher", "_fd", "_notification", "_pinned")

    def __init__(self, dispatcher: Dispatcher, fd: int, notification: Notification, buffer: Buffer) -> None:
        self._dispatcher, self._fd, self._notification, self._buffer = dispatcher, fd, notification, buffer
        self._pinned: Pinned | None = None

    @property
    def pinned(self) -> Pinned:
        if self._pinned is None:
            self.read(())
        assert self._pinned is not None  # noqa: S101 - read() pins or raises
        return self._pinned

    @property
    def comm(self) -> str:
        """The tracee's name when it was pinned; empty otherwise."""
        return self._pinned.comm if self._pinned else ""

    def read(self, wants: Sequence[Want]) -> Sequence[bytes | None]:
        """An args.Reader: pins the tracee and copies its memory, once."""
        dispatcher = self._dispatcher
        self._pinned, pieces = pin(
            dispatcher.container, dispatcher.home, self._fd, self._notification, wants, self._buffer
        )
        return pieces

    def close(self) -> None:
        if self._pinned is not None:
            self._pinned.close()


class Route(NamedTuple):
    """What is known of one call on one architecture before it comes: the row, its decoder, what policy says anyway."""

    row: Syscall
    decode: Decoder
    when: RegisterTests
    """Which calls the handler is for."""
    whole: Decision | None
    """The decision, when it is the same for every call."""
    quick: Any
    """For a pure handler that policy always asks: its one args value when the call has no arguments, else None."""
    note: int
    """The route's number, for `Receiver.next`; -1 when it is not quick."""


@dataclass(frozen=True, slots=True)
class Routes:
    """What follows from a policy alone; shared by its containers."""

    known: Mapping[int, Route]
    """By ic_notification.key: architecture << 32 | number."""
    quick: Mapping[int, Route]
    """By Route.note."""
    plan: Plan


def routes_of(rows: Mapping[str, Syscall], policy: Policy, arches: Iterable[Arch] = Arch) -> Routes:
    """Takes a millisecond."""
    known = {
        key_of(arch, number): _route(row, policy, arch)
        for arch in arches
        for row in rows.values()
        if (number := row.number(arch)) is not None
    }
    quick = {route.note: route for route in known.values() if route.note >= 0}
    return Routes(known, quick, plan(rows, policy))


def _route(row: Syscall, policy: Policy, arch: Arch) -> Route:
    whole = whole_call(policy, row.name)
    decode = row.signature.decoder(arch)
    if row.pure and whole is not None and whole.do is Do.EMULATE:
        nothing = None if row.signature.fields else row.signature.args()
        return Route(row, decode, reach(row), whole, nothing, block(1))
    return Route(row, decode, reach(row), whole, None, -1)


class Dispatcher:
    """Answers the notifications of one container; shared by its sessions."""

    def __init__(
        self, container: Container, policy: Policy, routes: Routes, pool: AgentPool,
        before: Dispatcher | None = None, launch: Launcher | None = None,
    ) -> None:  # fmt: skip
        """`before`: the one whose place this takes, after a reload of the policies; calls may still be with it."""
        self.container = container
        self.policy = policy
        self.pool = pool
        self.launch: Launcher | None = launch or (before.launch if before else None)
        self.repeats: Repeats = before.repeats if before else Repeats()
        self.patience = policy.limits.agent_deadline_ms / 1000
        """Seconds: how long a thread's call waits for its earlier one."""
        self.shown: Shown | None = before.shown if before else None
        self.fresh: Fresh | None = before.fresh if before else None
        self.home: Home = before.home if before else {}
        self.device_programs: Programs = before.device_programs if before else Programs()
        self.routes = routes.known
        self.quick = routes.quick
        self._plan = routes.plan
        self._looks: Looks | None = None
        self._immutable: Collection[int] | None = None
        if pool is not None:
            pool.home = self._home

    def _home(self) -> Mapping[int, int] | None:
        """The container's own namespaces, once both are held."""
        held = {role: self.home.get(namespace) for role, namespace in HOME_ROLES.items()}
        return {role: fd.fileno() for role, fd in held.items() if fd is not None} if all(held.values()) else None

    def close(self) -> None:
        """Ends the container's agents and lets go of its namespaces."""
        self.pool.close()
        self.device_programs.close()
        self.home.clear()

    @property
    def looks(self) -> Looks | None:
        """What C may know of the container by now; None before it is created. Cheap when nothing has changed."""
        container = self.container
        if container.immutable and container.immutable is not self._immutable:
            deadline = self.policy.limits.agent_deadline_ms + GRACE_MS
            self._looks = Looks(self._plan, container, self.pool.slot, deadline)
            self._immutable = container.immutable
        return self._looks

    def looked(self, hit: Hit) -> tuple[Ending, Any]:
        """What the trace says of a call that C looked at, and its decoded args."""
        assert hit.looked is not None  # noqa: S101 - whoever asks has seen it
        decode = self.routes[key_of(hit.arch, hit.nr)].decode
        return hit.looked, decode(hit.args, lambda _wants: hit.texts)

    def name_of(self, arch: int, number: int) -> str:
        """The call's name, for the trace."""
        route = self.routes.get(key_of(arch, number))
        return route.row.name if route else f"syscall_{number}"

    def pure_call(self, route: Route) -> Call:
        """What a pure handler is given: it asks it for nothing."""
        assert route.whole is not None  # noqa: S101 - true of every quick route
        return Call(self.container, self.policy, route.whole, Unreachable())

    def answer(
        self, host: Host, notification: Notification, buffer: Buffer, resumed: Resumed | None = None
    ) -> Outcome:
        """Never raises: what cannot be answered has `verdict` None."""
        outcome = Outcome(notification, resumed=resumed)
        route = self.routes.get(key_of(notification.arch, notification.nr))
        if route is None:
            outcome.call, outcome.how = self.name_of(notification.arch, notification.nr), How.FAILED
            outcome.verdict, outcome.why = Fail(errno.ENOSYS), "intercepted, but no handler knows it"
            return outcome
        outcome.call = route.row.name
        subject = self.subject(host, notification, buffer)
        self.repeats.begin((host.notifier_fd, notification.tid), notification.id, host, self.patience)
        try:
            self._guard(outcome, partial(self._decide, route, outcome, subject, host))
        finally:
            outcome.comm = subject.comm
            subject.close()
        if outcome.decision is not None and outcome.decision.log:
            self.log(outcome)
        return outcome

    def resume(
        self, host: Host, notification: Notification, buffer: Buffer, handed: tuple[str, Sequence[bytes]]
    ) -> Outcome:
        """As `answer`, for a call that C has sent to the agent, where it takes long: with its name and strings."""
        comm, texts = handed
        route = self.routes[key_of(notification.arch, notification.nr)]
        outcome = Outcome(notification, call=route.row.name, comm=comm)
        self.repeats.begin((host.notifier_fd, notification.tid), notification.id, host, self.patience)
        self._guard(outcome, partial(self._take_over, route, outcome, texts, host))
        if outcome.verdict is None and outcome.how is not How.GONE:
            return self.answer(host, notification, buffer)
        return outcome

    def _take_over(self, route: Route, outcome: Outcome, texts: Sequence[bytes], host: Host) -> None:
        notification = outcome.notification
        args = outcome.args = route.decode(notification.args, lambda _wants: texts)
        key = outcome.entered = Repeats.key(host.notifier_fd, notification)
        outcome.rule = self.policy.filesystem(args.fstype).rule
        self.repeats.enter(key, notification.id, args, host, self.patience)
        outcome.acted = True
        attached = self.pool.take_over(notification.id, host.slow)
        if attached is None:
            self.repeats.nothing_done(key)
        else:
            outcome.attached, outcome.verdict = attached, Return()

    def _guard(self, outcome: Outcome, decide: Callable[[], None]) -> None:
        """The one place where errors become answers."""
        try:
            decide()
        except NotificationGone:
            outcome.verdict, outcome.how = None, How.GONE
        except OSError as error:
            outcome.verdict = Fail(error.errno or errno.EIO)
            outcome.why = outcome.why or (error.strerror or "")
        except InterceptorError as error:
            self._failed(outcome, str(error))
        except Exception:
            log.exception("handler failed", call=outcome.call, container=self.container.id)
            self._failed(outcome, "a fault of the supervisor's; see its log")

    def subject(self, host: Host, notification: Notification, buffer: Buffer) -> Subject:
        """Whom the notification is about."""
        return Subject(self, host.notifier_fd, notification, buffer)

    def log(self, outcome: Outcome) -> None:
        """What a rule with ``log: true`` asks for."""
        log.info("call", call=outcome.call, container=self.container.id, rule=outcome.rule, how=outcome.how.value)

    def refused_by_table(self, arch: int, number: int, registers: Sequence[int], rule: str) -> tuple[str, str]:
        """`explain_refusal` for what the compiled table answered; empty where policy is another by now."""
        route = self.routes.get(key_of(arch, number))
        decision = of_line(self.policy, route.row.name, rule) if route else None
        if route is None or decision is None or decision.do is not Do.DENY:
            return "", ""
        return explain_refusal(Refused(route.row, self.policy, decision), rule, known(route.row, registers, Arch(arch)))

    def recover(self, host: Host, unfinished: Unfinished, buffer: Buffer) -> Outcome:
        """As `answer`, for what an earlier supervisor had received: nothing may be done twice."""
        notification = unfinished.notification
        verdict, why, reply = self._known(unfinished, self.subject(host, notification, buffer))
        if verdict is None:
            outcome = self.answer(host, notification, buffer, Resumed(reply))
            for left in reply.given if reply else ():  # it was held before: the outcome lives until it is traced
                left.close()
        else:
            outcome = Outcome(notification, verdict, call=self.name_of(notification.arch, notification.nr))
            self.pool.contexts.drop_attached()
        unfinished.settle()
        outcome.why = f"{outcome.why}; {why}" if outcome.why else why
        log.info("recovered", container=self.container.id, call=outcome.call, how=why, answer=str(outcome.verdict))
        return outcome

    def _known(self, unfinished: Unfinished, subject: Subject) -> Known:
        if unfinished.answer is not None:
            return Known(unfinished.answer, "done by an earlier supervisor")
        given = unfinished.given()
        if given is not None:
            answer, mount = given
            self.pool.contexts.give(mount)
            return Known(answer, f"an earlier supervisor had {'it ready' if isinstance(answer, AddFd) else 'given it'}")
        if not unfinished.acting:
            return Known(None, "an earlier supervisor had only received it")
        route = self.routes.get(key_of(unfinished.notification.arch, unfinished.notification.nr))
        redo = route.row.redo if route else Redo.NEVER
        if redo is Redo.HARMLESS:
            return Known(None, "done again: that is harmless")
        reply = unfinished.reply(self.patience) if redo is not Redo.NEVER else None
        return self._seen(unfinished, subject) if reply is None else _replied(reply, redo)

    def _seen(self, unfinished: Unfinished, subject: Subject) -> Known:
        """As `_known`, when agent and supervisor have died in it: by what is to be seen of it."""
        there = None
        if unfinished.unmounting:
            try:
                there = subject.pinned.has_mount(unfinished.unmounting)
            except (NotificationGone, InterceptorError, OSError):
                log.info("nobody can look", container=self.container.id)
            finally:
                subject.close()
        if there is None:
            return Known(Fail(errno.EINTR), "an earlier supervisor died in it, and nobody knows what was done")
        if there:
            return Known(None, "what an earlier supervisor was to unmount is there")
        return Known(Return(), "the agent of an earlier supervisor had unmounted it")

    def announce(self, outcome: Outcome) -> None:
        """To be told before the answer of an outcome that `entered`."""
        if outcome.attached and not self.container.wait_killable:
            self.repeats.announce(outcome.entered, outcome.args, outcome.attached)

    def settle(self, outcome: Outcome, *, delivered: bool) -> None:
        """To be told once for each outcome that `entered`: whether the tracee was still there for its answer."""
        key = outcome.entered
        if delivered:
            self.repeats.answered(key, outcome.args, 0 if self.container.wait_killable else outcome.attached)
        elif outcome.acted and not (outcome.verdict is None or isinstance(outcome.verdict, AddFd)):
            self.repeats.unclaimed(key, outcome)
        else:
            self.repeats.interrupted(key)

    def _failed(self, outcome: Outcome, why: str) -> None:
        outcome.verdict, outcome.how, outcome.why = Fail(errno.EIO), How.FAILED, why
        log.error("call failed", call=outcome.call, container=self.container.id, why=why)

    def _decide(self, route: Route, outcome: Outcome, subject: Subject, host: Host) -> None:
        """Decode, the kernel's own permission, policy; then the handler."""
        row, registers = route.row, outcome.notification.args
        try:
            args = outcome.args = route.decode(registers, subject.read)
        except OSError:
            if not _lacks(row, outcome, subject):
                raise
            return
        if _lacks(row, outcome, subject):
            return
        decision = route.whole or self.policy.decide(row.name, args, _caller(subject))
        outcome.decision, outcome.rule = decision, decision.rule
        match decision.do:
            case Do.DENY:
                outcome.verdict, outcome.how = Fail(decision.errno), How.DENIED
                outcome.refused = Refused(row, self.policy, decision)
            case Do.NATIVE:
                outcome.verdict, outcome.how = Continue(because="policy leaves it to the kernel"), How.NATIVE
            case Do.PRETEND:
                outcome.verdict, outcome.how = Return(), How.PRETENDED
            case Do.KILL | Do.STOP:
                self._end(row, outcome, subject, decision)
            case Do.EMULATE if outside(route.when, registers):
                outcome.verdict, outcome.how = Continue(because="the filter is wider than the handler"), How.CONTINUED
            case Do.EMULATE:
                self._handle(row, outcome, subject, decision, host)

    def _end(self, row: Syscall, outcome: Outcome, subject: Subject, decision: Decision) -> None:
        """No answer: nobody is left to hear it."""
        outcome.how, outcome.why = How.KILLED, "the process was killed"
        outcome.refused = Refused(row, self.policy, decision)
        if decision.do is Do.STOP and subject.pinned.stop_container():
            outcome.why = "the container was stopped"
        subject.pinned.kill()

    def _handle(self, row: Syscall, outcome: Outcome, subject: Subject, decision: Decision, host: Host) -> None:
        """The handler, unless the result of the same, interrupted call is waiting."""
        reach = Reached(self, outcome, subject, host)
        call = Call(self.container, self.policy, decision, reach, self.shown, self.fresh, resumed=outcome.resumed is not None)
        try:
            outcome.verdict = row.handler(call, outcome.args)
            outcome.how = how_of(call, outcome.verdict)
        except NothingToLend:
            outcome.verdict = Continue(because="a process of the host's root: the kernel's own check")
            outcome.how = How.CONTINUED
        except _DoneBefore as done:
            earlier = done.outcome
            outcome.verdict, outcome.how, outcome.acted = earlier.verdict, earlier.how, True
            outcome.attached = earlier.attached
            outcome.why = "done before a signal interrupted it"
        finally:
            outcome.acted = outcome.acted or (reach.asked and outcome.how is not How.CONTINUED)
            outcome.attached = outcome.attached or reach.attached
            conclude(outcome, row, call)


def _lacks(row: Syscall, outcome: Outcome, subject: Subject) -> bool:
    """Whether the tracee has not the capability that the kernel asks for: it is then told so by the kernel, which may find
    that sooner than what else is wrong.
    """
    needs = row.needs
    if not needs or subject.pinned.capable(needs.cap, needs.owner_of):
        return False
    outcome.rule = f"kernel: no CAP_{needs.cap.name} in the user namespace that owns its {needs.owner_of} namespace"
    outcome.verdict, outcome.how = Continue(because="the kernel refuses it by itself"), How.CONTINUED
    return True


def key_of(arch: int, number: int) -> int:
    """ic_notification.key (native/notify.h)."""
    return arch << 32 | number


def conclude(outcome: Outcome, row: Syscall, call: Call) -> None:
    """What a handler left in its call, besides the verdict."""
    outcome.rule, outcome.why = call.rule or outcome.rule, outcome.why or call.why
    if call.denied:
        outcome.refused = Refused(row, call.policy, None, call.allow)


def known(row: Syscall, registers: Sequence[int], arch: Arch) -> dict[str, Any]:
    """The arguments that registers alone tell, by name."""
    values = row.signature.registers(registers, arch)
    return {
        f.name: values[f.name] for f in row.signature.fields if not f.kind.pointer and not isinstance(f.kind, Address)
    }


def _replied(reply: Reply, redo: Redo) -> Known:
    """As Dispatcher._known, when what the agent did is known."""
    if not reply.asked:
        return Known(None, "an earlier supervisor died before it asked its agent")
    if not reply.done:
        return Known(None, "the agent of an earlier supervisor had done nothing")
    if redo is Redo.RESUMED:
        return Known(None, "gone on with from where an earlier supervisor died", reply)
    return Known(Fail(reply.error) if reply.error else Return(), "the agent of an earlier supervisor had done it")


class Unreachable:
    """ports.Reach of a pure handler."""

    @property
    def tracee(self) -> Pinned:
        raise InterceptorError("a pure handler asked for its tracee: register it without pure")

    @property
    def agent(self) -> PinnedAgent:
        raise InterceptorError("a pure handler asked for the agent: register it without pure")

    @property
    def contexts(self) -> ContextsOf:
        raise InterceptorError("a pure handler asked for contexts: register it without pure")

    @property
    def programs(self) -> LaunchedPrograms:
        raise InterceptorError("a pure handler asked for programs: register it without pure")

    @property
    def names(self) -> HostNames:
        raise InterceptorError("a pure handler asked for names: register it without pure")

    @property
    def modules(self) -> HostModules:
        raise InterceptorError("a pure handler asked for modules: register it without pure")

    @property
    def device_programs(self) -> ProgramsOf:
        raise InterceptorError("a pure handler asked for device programs: register it without pure")


class _DoneBefore(Exception):  # noqa: N818 - not an error: the way out of a handler whose work was done already
    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self.outcome = outcome


class LaunchedPrograms:
    """ports.Programs for one call."""

    def __init__(self, dispatcher: Dispatcher, host: Host) -> None:
        self._dispatcher, self._host = dispatcher, host

    def run(self, argv: Sequence[bytes]) -> tuple[int, str]:
        dispatcher = self._dispatcher
        if dispatcher.launch is None:
            raise InterceptorError("no plugin knows how to run a program in a container")
        self._host.slow()
        journal.alone()
        return dispatcher.launch(dispatcher.container.id, argv, dispatcher.patience)


class HostNames:
    """ports.Names for one call."""

    def __init__(self, slow: Callable[[], None]) -> None:
        self._slow = slow

    def addresses(self, host: str) -> Sequence[str]:
        self._slow()
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise OSError(errno.EHOSTUNREACH, f"{host}: {error}") from None
        return list(dict.fromkeys(str(ipaddress.ip_address(str(row[4][0]).partition("%")[0])) for row in found))


class Reached:
    """ports.Reach for one call. The agent is what changes the world, so whoever first asks for it has to know whether
    the same call was there before.
    """

    __slots__ = ("_agent", "_dispatcher", "_host", "_outcome", "_subject")

    def __init__(self, dispatcher: Dispatcher, outcome: Outcome, subject: Subject, host: Host) -> None:
        self._dispatcher, self._outcome, self._subject, self._host = dispatcher, outcome, subject, host
        self._agent: PinnedAgent | None = None

    @property
    def tracee(self) -> Pinned:
        return self._subject.pinned

    @property
    def agent(self) -> PinnedAgent:
        if self._agent is None:
            self._agent = self._enter()
        return self._agent

    @property
    def programs(self) -> LaunchedPrograms:
        _entered = self.agent  # what is run may change the world as an agent does
        return LaunchedPrograms(self._dispatcher, self._host)

    @property
    def names(self) -> HostNames:
        return HostNames(self._host.slow)

    @property
    def modules(self) -> HostModules:
        return HostModules(self._slow_and_acting, self._dispatcher.patience)

    @property
    def contexts(self) -> ContextsOf:
        return ContextsOf(self._dispatcher.pool.contexts, self.tracee)

    @property
    def device_programs(self) -> ProgramsOf:
        dispatcher = self._dispatcher
        return ProgramsOf(dispatcher.device_programs, dispatcher.container, self.tracee, self._alone)

    def _alone(self) -> None:
        _entered = self.agent
        journal.alone()

    def _slow_and_acting(self) -> None:
        _entered = self.agent  # what others do for us changes the world as an agent does
        self._host.slow()

    @property
    def attached(self) -> int:
        return self._agent.attached if self._agent is not None else 0

    @property
    def asked(self) -> bool:
        """Whether the agent may have changed something."""
        return self._agent is not None

    def _enter(self) -> PinnedAgent:
        dispatcher, outcome, tracee = self._dispatcher, self._outcome, self.tracee
        repeats, key = dispatcher.repeats, Repeats.key(self._host.notifier_fd, outcome.notification)
        earlier = repeats.enter(key, outcome.notification.id, outcome.args, self._host, dispatcher.patience)
        outcome.entered = key
        if earlier is not None:
            raise _DoneBefore(earlier)
        if repeats.carry_through(key):
            tracee.notification_id = 0  # nobody is asked any more whether the tracee still waits
        made = 0 if dispatcher.container.wait_killable else repeats.made(key, outcome.args)
        replied = outcome.resumed.reply if outcome.resumed is not None else None
        return PinnedAgent(dispatcher.pool, tracee, self._host.slow, made, replied)


def how_of(call: Call, verdict: Verdict) -> How:
    if call.denied:
        return How.DENIED
    return How.CONTINUED if isinstance(verdict, Continue) else How.EMULATED


def _caller(subject: Subject) -> Caller:
    caller: Any = LazyCaller(subject)
    return caller  # type: ignore[no-any-return]


def record_of(outcome: Outcome, container_id: str, since_epoch: int = 0) -> Record:
    """The trace's form of an outcome, made when somebody reads it. `since_epoch`: what makes CLOCK_REALTIME of its time."""
    notification, verdict = outcome.notification, outcome.verdict
    why = verdict.because if isinstance(verdict, Continue) and not outcome.why else outcome.why
    arch = Arch(notification.arch) if notification.arch in _ARCHES else Arch.X86_64
    remedy = ""
    if outcome.refused is not None:
        row, args = outcome.refused.row, outcome.args
        values = {f.name: getattr(args, f.name) for f in row.signature.fields} if args is not None else {}
        argument, remedy = explain_refusal(outcome.refused, outcome.rule, values)
        why = "; ".join(filter(None, (argument, why)))
    return Record(
        outcome.time_ns + since_epoch, container_id, notification.tid, outcome.comm, outcome.call, outcome.args,
        notification.args, arch, verdict, outcome.how, outcome.rule, outcome.elapsed_ns / 1000, why, remedy,
    )  # fmt: skip


def explain_refusal(refused: Refused, rule: str, values: Mapping[str, Any]) -> tuple[str, str]:
    """Which argument was refused (empty where the handler has said it), and what would allow it."""
    row, policy, decision, allow = refused
    if decision is None:
        return "", remedy_of(rule, allow, policy.name) if allow else ""
    why, entry = refusal(row, policy, decision, values, mask)
    return why, remedy_of(rule, entry, policy.name)


_ARCHES = frozenset(Arch)
