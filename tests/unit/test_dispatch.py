"""One notification through the dispatcher: which way it goes, and what every kind of failure becomes."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from support.fakes import FakeAgent, FakeTracee, container, policy
from support.policy_rows import MountArgs, NameArgs, ShutdownArgs, row, rows_of

from interceptor import dispatch
from interceptor.args import Arch
from interceptor.contexts import Contexts
from interceptor.dispatch import Dispatcher, Outcome, record_of
from interceptor.errors import AgentError, InterceptorError, NothingToLend, NotificationGone
from interceptor.native.fd import Fd
from interceptor.native.journal import Reply
from interceptor.notification import Notification
from interceptor.policy import Decision, Do, FlagSet, Numbers, Rule, Text, Truth
from interceptor.ports import Cap, Namespace
from interceptor.registry import Masked, Needs, Redo, resolve
from interceptor.trace.record import How
from interceptor.verdict import AddFd, Continue, Fail, Return

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from interceptor.args import Want
    from interceptor.policy import Policy
    from interceptor.ports import Call
    from interceptor.registry import Syscall
    from interceptor.verdict import Verdict

MS_BIND = 4096
NUMBERS = {"mount": 165, "sethostname": 170, "shutdown": 48}
RULE = "default.yaml:7"
STRINGS = {0x1000: b"proc\0", 0x2000: b"/proc\0", 0x3000: b"proc\0"}


def notification(name: str, *registers: int, number: int = 1) -> Notification:
    six = (*registers, *[0] * (6 - len(registers)))
    return Notification(number, 100, Arch.X86_64, NUMBERS.get(name, 999), 0x401000, six)  # type: ignore[arg-type]


MOUNT = notification("mount", 0x1000, 0x2000, 0x3000, 2, 0)


@dataclass
class World:
    """A dispatcher whose tracees and agents are fakes."""

    handler: Callable[[Call, Any], Verdict] = lambda _call, _args: Return()
    policy: Policy = field(default_factory=lambda: policy(default=Decision(Do.EMULATE, RULE)))
    tracee: FakeTracee = field(default_factory=FakeTracee)
    agent: FakeAgent = field(default_factory=FakeAgent)
    needs: Needs | None = None
    when: tuple[Masked, ...] = ()
    memory: dict[int, bytes | None] = field(default_factory=lambda: dict(STRINGS))
    gone: bool = False
    """The tracee no longer waits when it is pinned."""
    pins: int = 0
    slow_calls: int = 0
    unless: list[int] = field(default_factory=list)
    redo: Redo = Redo.NEVER
    earlier: Any = None
    notifier_fd = 33

    def pin(
        self, _container: Any, _home: Any, notifier: int, _notification: Any, wants: Sequence[Want], _buffer: Any
    ) -> Any:
        assert notifier == 33
        self.pins += 1
        if self.gone:
            raise NotificationGone("pinning: it is gone")
        return self.tracee, [self.memory.get(address) for address, _, _ in wants]

    def slow(self) -> None:
        self.slow_calls += 1

    def _agent(self, _pool: Any, _tracee: Any, _slow: Any, unless: int, earlier: Any) -> FakeAgent:
        self.unless.append(unless)
        self.earlier = earlier
        return self.agent

    def rows(self) -> dict[str, Syscall]:
        rows = rows_of(row("mount", MountArgs, *self.when), row("sethostname", NameArgs), row("shutdown", ShutdownArgs))
        for made in rows.values():
            object.__setattr__(made, "handler", self.handler)
            object.__setattr__(made, "needs", self.needs)
            object.__setattr__(made, "redo", self.redo)
        return rows

    def dispatcher(self, monkeypatch: pytest.MonkeyPatch) -> Dispatcher:
        monkeypatch.setattr(dispatch, "pin", self.pin)
        monkeypatch.setattr(dispatch, "PinnedAgent", self._agent)
        return Dispatcher(container(), self.policy, dispatch.routes_of(self.rows(), self.policy), pool=None)  # type: ignore[arg-type]


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    def ask(what: Notification = MOUNT, *, world: World | None = None, **parts: Any) -> Outcome:
        world = world or World(**parts)
        return world.dispatcher(monkeypatch).answer(world, what, None)  # type: ignore[arg-type]

    return ask


Answer = "Callable[..., Outcome]"


def acting(call: Call, _args: Any) -> Verdict:
    call.agent.mount("proc", call.tracee.anchor(b"/proc"), source=None, flags=0, options=None)
    return Return(5)


def raising(error: BaseException) -> Callable[[Call, Any], Verdict]:
    def handler(_call: Call, _args: Any) -> Verdict:
        raise error

    return handler


# The ways


def test_a_handler_is_given_the_decoded_arguments_and_answers(answer: Answer) -> None:
    seen: list[Any] = []
    outcome = answer(handler=lambda _call, args: seen.append(args) or Return(3))
    assert seen == [MountArgs(b"proc", b"/proc", b"proc", 2, None)]
    assert (outcome.verdict, outcome.how, outcome.rule, outcome.call) == (Return(3), How.EMULATED, RULE, "mount")
    assert outcome.args == seen[0]
    assert outcome.comm == "sh"
    assert not outcome.acted
    assert not outcome.entered


def test_what_a_handler_says_is_in_the_trace(answer: Answer) -> None:
    def handler(call: Call, _args: Any) -> Verdict:
        call.rule = "default.yaml:55"
        return call.deny(errno.EACCES, "filesystem type 'nfs'")

    outcome = answer(handler=handler)
    assert (outcome.verdict, outcome.how) == (Fail(errno.EACCES), How.DENIED)
    assert (outcome.rule, outcome.why) == ("default.yaml:55", "filesystem type 'nfs'")


def test_a_handler_that_continues_left_it_to_the_kernel(answer: Answer) -> None:
    def handler(call: Call, _args: Any) -> Verdict:
        call.agent.mount_ids[call.tracee.anchor(b"/x")] = 3
        call.agent.mount_id(call.tracee.anchor(b"/x"), follow=True)
        return Continue(because="it is the kernel's")

    outcome = answer(handler=handler)
    assert (outcome.how, outcome.acted, bool(outcome.entered)) == (How.CONTINUED, False, True)
    assert record_of(outcome, "c1").why == "it is the kernel's"


def test_a_tracee_without_the_permission_is_left_to_the_kernel(answer: Answer) -> None:
    outcome = answer(
        handler=raising(AssertionError("not asked")),
        needs=Needs(Cap.SYS_ADMIN, Namespace.MOUNT),
        tracee=FakeTracee(capabilities={Namespace.MOUNT: False}),
    )
    assert isinstance(outcome.verdict, Continue)
    assert outcome.how is How.CONTINUED
    assert outcome.rule == "kernel: no CAP_SYS_ADMIN in the user namespace that owns its mnt namespace"


def test_what_it_lacks_is_told_before_what_cannot_be_read(answer: Answer) -> None:
    outcome = answer(
        needs=Needs(Cap.SYS_ADMIN, Namespace.MOUNT), tracee=FakeTracee(capabilities={Namespace.MOUNT: False}), memory={}
    )
    assert isinstance(outcome.verdict, Continue), "the kernel knows which it looks at first"
    assert answer(needs=Needs(Cap.SYS_ADMIN, Namespace.MOUNT), memory={}).verdict == Fail(errno.EFAULT)


def test_a_tracee_with_the_permission_is_served(answer: Answer) -> None:
    outcome = answer(needs=Needs(Cap.SYS_ADMIN, Namespace.MOUNT))
    assert outcome.verdict == Return(0)


@pytest.mark.parametrize(
    ("decision", "verdict", "how"),
    [
        (Decision(Do.DENY, RULE, errno.EPERM), Fail(errno.EPERM), How.DENIED),
        (Decision(Do.NATIVE, RULE), Continue(because="policy leaves it to the kernel"), How.NATIVE),
        (Decision(Do.EMULATE, RULE), Return(0), How.EMULATED),
        (Decision(Do.PRETEND, RULE), Return(0), How.PRETENDED),
        (Decision(Do.KILL, RULE), None, How.KILLED),
        (Decision(Do.STOP, RULE), None, How.KILLED),
    ],
)
def test_policy_decides(answer: Answer, decision: Decision, verdict: Verdict, how: How) -> None:
    rule = Rule(decision, args=(("fstype", Text(("pro*",))),))
    outcome = answer(policy=policy(rules={"mount": (rule,)}, default=Decision(Do.DENY, "default.yaml:9", errno.EDOM)))
    assert (outcome.verdict, outcome.how, outcome.rule) == (verdict, how, RULE)


@pytest.mark.parametrize(
    ("do", "init", "ended", "why"),
    [
        (Do.KILL, True, ["process"], "the process was killed"),
        (Do.STOP, True, ["container", "process"], "the container was stopped"),
        (Do.STOP, False, ["process"], "the process was killed"),
    ],
)
def test_what_is_killed(answer: Answer, do: Do, init: bool, ended: list[str], why: str) -> None:
    tracee = FakeTracee(container_init=init)
    ruled = policy(rules={"shutdown": (Rule(Decision(do, RULE)),)})
    outcome = answer(
        notification("shutdown", 1, 2), policy=ruled, tracee=tracee, handler=raising(AssertionError("not asked"))
    )
    assert (outcome.verdict, outcome.how, outcome.rule, outcome.why) == (None, How.KILLED, RULE, why)
    assert (tracee.ended, tracee.closed) == (ended, 1)


def test_a_rule_about_the_caller_looks_at_the_tracee(answer: Answer) -> None:
    rules = {
        "shutdown": (
            Rule(Decision(Do.DENY, RULE, errno.EPERM), caller=(("uid", Numbers(((1000, 1000),))),)),
            Rule(Decision(Do.DENY, RULE, errno.EACCES), caller=(("nested", Truth(value=True)),)),
            Rule(Decision(Do.DENY, RULE, errno.EBUSY), caller=(("inner", Truth(value=True)),)),
            Rule(Decision(Do.DENY, RULE, errno.ENXIO), caller=(("executable", Text(("*/mount",))),)),
        )
    }
    ruled = policy(rules=rules, default=Decision(Do.EMULATE, RULE))
    what = notification("shutdown")
    assert answer(what, policy=ruled, tracee=FakeTracee(uid_inside=1000)).verdict == Fail(errno.EPERM)
    assert answer(what, policy=ruled, tracee=FakeTracee(in_nested_user_namespace=True)).verdict == Fail(errno.EACCES)
    assert answer(what, policy=ruled, tracee=FakeTracee(in_inner_container=True)).verdict == Fail(errno.EBUSY)
    assert answer(what, policy=ruled, tracee=FakeTracee(executable=b"/bin/mount")).verdict == Fail(errno.ENXIO)
    assert answer(what, policy=ruled).verdict == Return(0)


def test_registers_alone_need_no_tracee(answer: Answer) -> None:
    world = World()
    assert answer(notification("shutdown", 3, 1), world=world).verdict == Return(0)
    assert world.pins == 0


def test_a_tracee_is_pinned_once_and_closed(answer: Answer) -> None:
    world = World(handler=acting, needs=Needs(Cap.SYS_ADMIN, Namespace.MOUNT))
    outcome = answer(world=world)
    assert (world.pins, world.tracee.closed) == (1, 1)
    assert (outcome.acted, bool(outcome.entered)) == (True, True)


NOT_BIND = (Masked("flags", MS_BIND, 0),)
BIND = notification("mount", 0x1000, 0x2000, 0, MS_BIND, 0)


def test_what_the_filter_should_not_have_sent_is_not_emulated(answer: Answer) -> None:
    outcome = answer(BIND, when=NOT_BIND, handler=raising(AssertionError("not asked")))
    assert isinstance(outcome.verdict, Continue)
    assert outcome.how is How.CONTINUED


def test_a_denial_that_widened_the_filter_is_obeyed(answer: Answer) -> None:
    """stanza.intercepts_all: a rule about bind mounts makes the filter send them."""
    rule = Rule(
        Decision(Do.DENY, RULE, errno.EPERM), args=(("flags", FlagSet(MS_BIND, 0)), ("target", Text(("/proc",))))
    )
    ruled = policy(rules={"mount": (rule,)}, default=Decision(Do.EMULATE, RULE))
    outcome = answer(BIND, when=NOT_BIND, policy=ruled)
    assert (outcome.verdict, outcome.how, outcome.rule) == (Fail(errno.EPERM), How.DENIED, RULE)


def test_an_unknown_call_is_enosys(answer: Answer) -> None:
    outcome = answer(notification("nonsense"))
    assert (outcome.verdict, outcome.how, outcome.call) == (Fail(errno.ENOSYS), How.FAILED, "syscall_999")


def test_every_architecture_has_its_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    routes = World().dispatcher(monkeypatch).routes
    for arch in Arch:
        number = resolve("mount", arch)
        assert number is not None
        assert routes[arch << 32 | number].row.name == "mount"


# Failures


@pytest.mark.parametrize(
    ("error", "number", "how"),
    [
        (OSError(errno.EBUSY, "busy"), errno.EBUSY, How.EMULATED),
        (OSError("without an errno"), errno.EIO, How.EMULATED),
        (AgentError("the agent died"), errno.EIO, How.FAILED),
        (InterceptorError("a fault"), errno.EIO, How.FAILED),
        (ZeroDivisionError("a bug"), errno.EIO, How.FAILED),
        (AssertionError(), errno.EIO, How.FAILED),
        (KeyError("x"), errno.EIO, How.FAILED),
    ],
)
@pytest.mark.parametrize("where", ["handler", "agent"])
def test_errors_have_their_errno_and_are_never_continued(
    answer: Answer, error: Exception, number: int, how: How, where: str
) -> None:
    world = World(handler=raising(error)) if where == "handler" else World(handler=acting, agent=FakeAgent(fails=error))
    outcome = answer(world=world)
    assert (outcome.verdict, outcome.how) == (Fail(number), how)
    assert outcome.acted is (where == "agent")
    assert world.tracee.closed == 1


@pytest.mark.parametrize("error", [ZeroDivisionError("secret"), KeyError("secret")])
def test_the_tracee_learns_nothing_of_a_bug(answer: Answer, error: Exception) -> None:
    outcome = answer(handler=raising(error))
    assert "secret" not in outcome.why
    assert "log" in outcome.why


def test_what_has_root_s_id_is_left_to_the_kernel(answer: Answer) -> None:
    outcome = answer(world=World(handler=acting, agent=FakeAgent(fails=NothingToLend("root"))))
    assert isinstance(outcome.verdict, Continue)
    assert outcome.how is How.CONTINUED


@pytest.mark.parametrize(
    "world",
    [
        World(gone=True),
        World(handler=raising(NotificationGone("gone"))),
        World(handler=acting, agent=FakeAgent(fails=NotificationGone("gone"))),
    ],
    ids=["before it was pinned", "in the handler", "before the agent acted"],
)
def test_who_is_gone_gets_no_answer(answer: Answer, world: World) -> None:
    outcome = answer(world=world)
    assert (outcome.verdict, outcome.how) == (None, How.GONE)


@pytest.mark.parametrize("address", STRINGS)
def test_memory_that_cannot_be_read_is_efault(answer: Answer, address: int) -> None:
    outcome = answer(memory={**STRINGS, address: None}, handler=raising(AssertionError("not asked")))
    assert outcome.verdict == Fail(errno.EFAULT)
    assert outcome.args is None


@pytest.mark.parametrize(
    ("target", "number"), [(b"\0", errno.ENOENT), (b"x" * 4096, errno.ENAMETOOLONG), (b"short", errno.EFAULT)]
)
def test_a_string_that_is_none_has_the_kernels_errno(answer: Answer, target: bytes, number: int) -> None:
    assert answer(memory={**STRINGS, 0x2000: target}).verdict == Fail(number)


# Repeats


def test_an_interrupted_call_finds_its_result(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(handler=acting)
    dispatcher = world.dispatcher(monkeypatch)
    first = dispatcher.answer(world, MOUNT, None)  # type: ignore[arg-type]
    dispatcher.settle(first, delivered=False)
    again = dispatcher.answer(world, MOUNT._replace(id=2), None)  # type: ignore[arg-type]
    assert (again.verdict, again.how, again.acted) == (Return(5), How.EMULATED, True)
    assert again.why == "done before a signal interrupted it"
    assert len(world.agent.done) == 1
    dispatcher.settle(again, delivered=True)
    third = dispatcher.answer(world, MOUNT._replace(id=3), None)  # type: ignore[arg-type]
    assert third.why == ""
    assert len(world.agent.done) == 2


def test_a_failure_is_a_result_too(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(handler=acting, agent=FakeAgent(fails=OSError(errno.EBUSY, "busy")))
    dispatcher = world.dispatcher(monkeypatch)
    dispatcher.settle(dispatcher.answer(world, MOUNT, None), delivered=False)  # type: ignore[arg-type]
    again = dispatcher.answer(world, MOUNT, None)  # type: ignore[arg-type]
    assert again.verdict == Fail(errno.EBUSY)
    assert len(world.agent.done) == 1


def test_a_starving_call_is_carried_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """When signals come faster than answers, the agent is at last not asked to look whether somebody waits."""
    world = World(handler=acting, agent=FakeAgent(fails=NotificationGone("gone")))
    dispatcher = world.dispatcher(monkeypatch)
    for _ in range(dispatch.PATIENCE):
        world.tracee.notification_id = 7
        dispatcher.settle(dispatcher.answer(world, MOUNT, None), delivered=False)  # type: ignore[arg-type]
        assert world.tracee.notification_id == 7
    world.agent.fails = None
    through = dispatcher.answer(world, MOUNT, None)  # type: ignore[arg-type]
    assert world.tracee.notification_id == 0
    assert through.verdict == Return(5)
    dispatcher.settle(through, delivered=False)
    done = len(world.agent.done)
    assert dispatcher.answer(world, MOUNT, None).verdict == Return(5)  # type: ignore[arg-type]
    assert len(world.agent.done) == done, "done once"


def test_those_left_behind_by_a_storm_do_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their thread has made the call again, and has its answer; whoever was late must not do it once more."""
    world = World(handler=acting)
    dispatcher = world.dispatcher(monkeypatch)
    newest = MOUNT._replace(id=MOUNT.id + 9)
    dispatcher.settle(dispatcher.answer(world, newest, None), delivered=True)  # type: ignore[arg-type]
    for late in range(dispatch.PATIENCE + 2):
        left = dispatcher.answer(world, MOUNT._replace(id=MOUNT.id + late), None)  # type: ignore[arg-type]
        assert (left.verdict, left.how, left.entered) == (None, How.GONE, ())
    assert len(world.agent.done) == 1


@pytest.mark.parametrize("wait_killable", [False, True])
def test_a_repeat_names_the_mount_that_its_earlier_self_made(
    monkeypatch: pytest.MonkeyPatch, *, wait_killable: bool
) -> None:
    """The kernel may drop an answer that it took; with WAIT_KILLABLE_RECV it never does."""
    world = World(handler=acting)
    dispatcher = world.dispatcher(monkeypatch)
    dispatcher.container.wait_killable = wait_killable
    world.agent.attached = 4711
    dispatcher.settle(dispatcher.answer(world, MOUNT, None), delivered=True)  # type: ignore[arg-type]
    dispatcher.answer(world, MOUNT._replace(id=MOUNT.id + 1), None)  # type: ignore[arg-type]
    assert world.unless == [0, 0 if wait_killable else 4711]


def test_what_was_only_looked_at_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def handler(call: Call, _args: Any) -> Verdict:
        asked.append(call.agent)
        return Continue(because="it is the kernel's")

    world = World(handler=handler)
    dispatcher = world.dispatcher(monkeypatch)
    for _ in range(2):
        dispatcher.settle(dispatcher.answer(world, MOUNT, None), delivered=False)  # type: ignore[arg-type]
    assert len(asked) == 2


def test_a_descriptor_is_never_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is closed after the answer, delivered or not."""

    def handler(call: Call, _args: Any) -> Verdict:
        acting(call, None)
        return AddFd(3)

    world = World(handler=handler)
    dispatcher = world.dispatcher(monkeypatch)
    for _ in range(2):
        dispatcher.settle(dispatcher.answer(world, MOUNT, None), delivered=False)  # type: ignore[arg-type]
    assert len(world.agent.done) == 2


# What an earlier supervisor left


@dataclass
class Left:
    """native.journal.Unfinished, of which an agent was asked to act."""

    said: Reply | None = None
    unmounting: int = 0
    notification: Notification = MOUNT
    answer: Verdict | None = None
    acting: bool = True
    settled: bool = False
    gift: tuple[AddFd | Return, int] | None = None

    def given(self) -> tuple[AddFd | Return, int] | None:
        return self.gift

    def settle(self) -> None:
        self.settled = True

    def reply(self, _patience: float) -> Reply | None:
        return self.said


def recovered(monkeypatch: pytest.MonkeyPatch, left: Left, redo: Redo, **parts: Any) -> Outcome:
    world = World(handler=acting, redo=redo, **parts)
    dispatcher = world.dispatcher(monkeypatch)
    dispatcher.pool = SimpleNamespace(contexts=Contexts())  # type: ignore[assignment]
    return dispatcher.recover(world, left, None)  # type: ignore[arg-type]


AGAIN, UNKNOWN = Return(5), Fail(errno.EINTR)


@pytest.mark.parametrize(
    ("left", "redo", "verdict"),
    [
        (Left(acting=False), Redo.NEVER, AGAIN),
        (Left(acting=False, answer=Return(7)), Redo.NEVER, Return(7)),
        (Left(), Redo.NEVER, UNKNOWN),
        (Left(), Redo.HARMLESS, AGAIN),
        (Left(), Redo.DETECTABLE, UNKNOWN),
        (Left(Reply(0, done=True, value=42)), Redo.DETECTABLE, Return()),
        (Left(Reply(errno.EBUSY, done=True, value=0)), Redo.DETECTABLE, Fail(errno.EBUSY)),
        (Left(Reply(0, done=False, value=8)), Redo.DETECTABLE, AGAIN),
        (Left(Reply(0, done=False, value=0, asked=False)), Redo.DETECTABLE, AGAIN),
        (Left(acting=False, gift=(Return(9), 0)), Redo.NEVER, Return(9)),
        (Left(acting=False, gift=(AddFd(9), 0)), Redo.NEVER, AddFd(9)),
        (Left(unmounting=77), Redo.DETECTABLE, Return()),
        (Left(unmounting=78), Redo.DETECTABLE, AGAIN),
        (Left(unmounting=79), Redo.DETECTABLE, UNKNOWN),
    ],
)
def test_what_becomes_of_what_an_earlier_supervisor_left(
    monkeypatch: pytest.MonkeyPatch, left: Left, redo: Redo, verdict: Verdict
) -> None:
    tracee = FakeTracee(there={77: False, 78: True})
    assert recovered(monkeypatch, left, redo, tracee=tracee).verdict == verdict


def test_a_call_goes_on_from_what_the_agent_has_replied(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []

    def handler(call: Call, _args: Any) -> Verdict:
        told.append(call.resumed)
        return acting(call, None)

    given = Fd(os.dup(0))
    world, left = World(handler=handler, redo=Redo.RESUMED), Left(Reply(0, done=True, value=0, given=(given,)))
    outcome = world.dispatcher(monkeypatch).recover(world, left, None)  # type: ignore[arg-type]
    assert (outcome.verdict, world.earlier, told, left.settled) == (AGAIN, left.said, [True], True)
    assert given.closed, "or the mount is busy until the call is traced"
    assert world.dispatcher(monkeypatch).answer(world, MOUNT, None).verdict == AGAIN  # type: ignore[arg-type]
    assert (world.earlier, told) == (None, [True, False])


def test_what_is_done_without_an_agent_is_told_to_the_journal_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that mounts is not run a second time by the next supervisor."""
    order: list[str] = []
    monkeypatch.setattr(dispatch.journal, "alone", lambda: order.append("told"))

    def launch(_container: str, _argv: Sequence[bytes], _seconds: float) -> tuple[int, str]:
        order.append("run")
        return 0, ""

    def handler(call: Call, _args: Any) -> Verdict:
        call.programs.run([b"squashfuse"])
        return Return()

    world = World(handler=handler)
    dispatcher = world.dispatcher(monkeypatch)
    dispatcher.launch = launch
    assert dispatcher.answer(world, MOUNT, None).verdict == Return()  # type: ignore[arg-type]
    assert order == ["told", "run"]


def test_who_has_gone_meanwhile_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    assert recovered(monkeypatch, Left(unmounting=77), Redo.DETECTABLE, gone=True).verdict == UNKNOWN


# The trace


def test_a_record_has_everything(answer: Answer) -> None:
    outcome = answer()
    outcome.time_ns, outcome.elapsed_ns = 12, 3500
    record = record_of(outcome, "c1")
    assert (record.time_ns, record.container, record.tid, record.comm, record.call) == (12, "c1", 100, "sh", "mount")
    assert (record.args, record.registers, record.arch) == (outcome.args, MOUNT.args, Arch.X86_64)
    assert (record.verdict, record.how, record.rule, record.micros) == (Return(0), How.EMULATED, RULE, 3.5)
