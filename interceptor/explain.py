"""What would happen to a call, without making it: which rule, on which line, on which rung (docs/design.md, section 2).

Nothing is decided here a second time. The filter and the table are asked as `stanza` compiled them, then the call goes
through the dispatcher itself, whose tracee is what the question says of the caller, and whose agent stops the answer
where it would begin to act: from there on the world decides.
"""

from __future__ import annotations

import enum
import errno
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from interceptor import stanza
from interceptor.args import Arch, quote
from interceptor.calltext import parse
from interceptor.container import Container, IdRange
from interceptor.dispatch import (
    Dispatcher,
    Outcome,
    Refused,
    Subject,
    conclude,
    explain_refusal,
    how_of,
    known,
    record_of,
    routes_of,
)
from interceptor.errors import ConfigError
from interceptor.notification import Notification
from interceptor.policy import Caller, Decision, Do, Policy
from interceptor.ports import AT_FDCWD, Call, Namespace
from interceptor.refusal import of_line
from interceptor.stanza import Action
from interceptor.trace.event import errno_name, mask
from interceptor.trace.record import REFUSED, How
from interceptor.verdict import Fail, Return, Verdict
from interceptor.wire import Anchor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from interceptor.args import Want
    from interceptor.calltext import CallText
    from interceptor.dispatch import Host
    from interceptor.policy import Case
    from interceptor.ports import Cap
    from interceptor.registry import Syscall


T = TypeVar("T")


class Rung(enum.StrEnum):
    """Who answers."""

    KERNEL = "kernel"
    """The call is not intercepted."""
    FILTER = "filter"
    """The BPF filter, alone."""
    TABLE = "table"
    """The compiled table, in C."""
    HANDLER = "handler"
    """The supervisor, in Python."""


@dataclass(frozen=True, slots=True)
class Asker:
    """What the question says of the caller."""

    caller: Caller = field(default_factory=lambda: Caller(uid=0))
    capable: bool = True
    """It has the capabilities that calls need (docs/syscalls.md, "needs")."""
    arch: Arch = Arch.X86_64


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer, as far as it is known before the call is made."""

    rung: Rung
    how: How
    """As a trace would say it; for what no trace shows (kernel, filter) what it amounts to."""
    rule: str
    """``file:line``, or what decided instead."""
    verdict: Verdict | None
    """None where the agent's action or the kernel gives it."""
    do: Do | None
    """None where no rule was asked."""
    why: str = ""
    remedy: str = ""
    asks: str = ""
    """What the handler asks of the tracee or the agent next, where its answer depends on that."""


def explained(body: Mapping[str, Any], policy: Policy, rows: Mapping[str, Syscall]) -> dict[str, Any]:
    """The question and the answer as JSON (docs/control.md). ConfigError for what is no call, or no caller."""
    asked = parse(_of(body, "call", str, ""), rows)
    caller = Caller(
        _of(body, "uid", int, 0), _of(body, "nested", bool, False), _of(body, "inner", bool, False),
        _of(body, "executable", str, "").encode(errors="surrogateescape"),
    )  # fmt: skip
    arch = next((a for a in Arch if a.name.lower() == body.get("arch", "x86_64")), None)
    if arch is None:
        raise ConfigError(f'explain: "arch" is {body["arch"]!r}; there are {", ".join(a.name.lower() for a in Arch)}')
    found = explain(asked, policy, Asker(caller, not _of(body, "incapable", bool, False), arch))
    verdict = found.verdict
    return {
        "policy": policy.name, "call": _without_secrets(body["call"], asked),
        "rung": str(found.rung), "how": str(found.how), "rule": found.rule,
        "do": found.do and str(found.do), "errno": errno_name(verdict.errno) if isinstance(verdict, Fail) else None,
        "result": verdict.value if isinstance(verdict, Return) else None, "why": found.why, "remedy": found.remedy,
        "asks": found.asks,
    }  # fmt: skip


def _without_secrets(text: str, asked: CallText) -> str:
    """The question as it was put, but for values that no trace would show either."""
    for data in asked.memory.values():
        shown, plain = quote(mask(data)), quote(data)
        if shown != plain and plain not in text:
            return f"{asked.row.name}(…)"
        text = text.replace(plain, shown) if shown != plain else text
    return text


def try_cases(policy: Policy, rows: Mapping[str, Syscall]) -> Iterator[tuple[Case, str]]:
    """The policy's own tests, each with what is otherwise than expected; empty when it holds."""
    for case in policy.cases:
        try:
            found = explain(parse(case.call, rows), policy, Asker(case.caller))
        except ConfigError as error:
            yield case, str(error)
            continue
        got, wanted = gets(found), (case.expected.do, case.expected.errno)
        if got != wanted:
            yield case, f"expected {_words(*wanted)}, gets {_words(*got)} ({found.rung}, {found.rule or 'no rule'})"
        elif case.rung and case.rung != found.rung:
            yield case, f"expected of the {case.rung}, decided by the {found.rung} ({found.rule or 'no rule'})"
        else:
            yield case, ""


def gets(found: Explanation) -> tuple[Do, int]:
    """What a call gets, in the words of policies: whoever decides it."""
    if found.how is How.PRETENDED or (found.how is How.TABLE and isinstance(found.verdict, Return)):
        return Do.PRETEND, 0
    if found.how in REFUSED or (found.how is How.TABLE and isinstance(found.verdict, Fail)):
        return (Do.DENY, found.verdict.errno) if isinstance(found.verdict, Fail) else (found.do or Do.KILL, 0)
    if not found.asks and (found.rung is Rung.KERNEL or found.how in (How.NATIVE, How.CONTINUED, How.TABLE)):
        return Do.NATIVE, 0
    return Do.EMULATE, 0


def _words(do: Do, number: int) -> str:
    return f"deny with {errno_name(number)}" if do is Do.DENY else str(do)


def _of(body: Mapping[str, Any], name: str, kind: type[T], default: T) -> T:
    value = body.get(name, default)
    if type(value) is not kind:
        raise ConfigError(f"explain: {name!r} is {value!r}; it must be {_KINDS[kind]}")
    return value


_KINDS: Mapping[type, str] = {str: "text", int: "a number", bool: "true or false"}


def explain(asked: CallText, policy: Policy, asker: Asker | None = None) -> Explanation:
    """What would become of the call in a container under `policy`."""
    asker = asker or Asker()
    row, arch = asked.row, asker.arch
    number = row.number(arch)
    if stanza.unwritten(row, policy):
        return Explanation(Rung.FILTER, How.DENIED, "libseccomp", Fail(errno.ENOSYS), None, stanza.UNWRITTEN)
    if number is None:
        return Explanation(Rung.KERNEL, How.CONTINUED, "", None, None, f"{arch.name.lower()} has no {row.name}")
    asked = replace(asked, registers=tuple(r & arch.register_mask for r in asked.registers))
    answered = stanza.filtered(row, policy, asked.registers)
    if answered is not None:
        return _by_filter(row, answered, asked, policy)
    hit = stanza.looked_up(row, policy, arch, asked.registers, asked.read)
    if hit is not None:
        return _by_table(row, hit, asked, policy)
    return _Dry(policy, asked, asker).explanation(number)


def _by_filter(row: Syscall, decision: Decision, asked: CallText, policy: Policy) -> Explanation:
    if decision.do is Do.NATIVE:
        return Explanation(Rung.KERNEL, How.NATIVE, decision.rule, None, decision.do, "the filter does not intercept it")
    if decision.do is Do.PRETEND:
        return Explanation(Rung.FILTER, How.PRETENDED, decision.rule, Return(), decision.do)
    why, remedy = _refused(row, policy, decision, asked)
    return Explanation(Rung.FILTER, How.DENIED, decision.rule, Fail(decision.errno), decision.do, why, remedy)


def _by_table(row: Syscall, hit: stanza.TableRow, asked: CallText, policy: Policy) -> Explanation:
    decision = of_line(policy, row.name, hit.rule)
    if hit.action is Action.CONTINUE:
        return Explanation(Rung.TABLE, How.TABLE, hit.rule, None, Do.NATIVE)
    if hit.action is Action.RETURN:
        return Explanation(Rung.TABLE, How.TABLE, hit.rule, Return(hit.number), Do.PRETEND)
    why, remedy = _refused(row, policy, decision, asked) if decision else ("", "")
    return Explanation(Rung.TABLE, How.TABLE, hit.rule, Fail(hit.number), Do.DENY, why, remedy)


def _refused(row: Syscall, policy: Policy, decision: Decision, asked: CallText) -> tuple[str, str]:
    """By registers: all that filter and table see."""
    return explain_refusal(Refused(row, policy, decision), decision.rule, known(row, asked.registers, Arch.X86_64))


class _Asks(Exception):  # noqa: N818 - not an error: where the handler would begin to act
    """What was asked of the world."""


class _Agent:
    """ports.Agent and Contexts that do nothing: the first action is as far as an explanation goes."""

    def __getattr__(self, name: str) -> Any:
        def action(*args: object, **options: object) -> NoReturn:
            parts = [*map(_shown, args), *(f"{key}={_shown(value)}" for key, value in options.items() if value)]
            raise _Asks(f"{name}({', '.join(parts)})")

        return action


def _shown(value: object) -> str:
    if isinstance(value, list):  # of options
        return ",".join(mask(key.encode() + b"=" + (text or b"")).decode(errors="backslashreplace") for key, text in value)
    if isinstance(value, Anchor):
        return value.path.decode(errors="backslashreplace")
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


class _Tracee:
    """ports.Tracee of a caller of whom only the question is known."""

    tid = 0
    comm = ""

    def __init__(self, asker: Asker, container: Container) -> None:
        self._asker, self._container = asker, container
        caller = asker.caller
        self.uid_inside, self.in_nested_user_namespace = caller.uid, caller.nested
        self.in_inner_container, self.executable = caller.inner, caller.executable

    def __getattr__(self, name: str) -> Any:
        raise _Asks(f"the caller's {name.replace('_', ' ')}")

    def capable(self, _cap: Cap, _owner_of: Namespace) -> bool:
        return self._asker.capable

    def owns(self, _namespace: Namespace) -> bool:
        return True

    def namespace_id(self, namespace: Namespace) -> int:
        if self._asker.caller.nested and namespace is not Namespace.PID:
            return -1
        return {Namespace.MOUNT: self._container.mount_namespace or 0, Namespace.USER: self._container.user_namespace or 0}.get(
            namespace, 0
        )

    def anchor(self, path: bytes, at: int = AT_FDCWD) -> Anchor:
        if at != AT_FDCWD and not path.startswith(b"/"):
            raise _Asks(f"the caller's descriptor {at}")
        return Anchor(path)

    def covered(self, fstype: str) -> Sequence[bytes]:
        return (b"/" + fstype.encode(),)

    def kill(self) -> None:
        pass

    def stop_container(self) -> bool:
        return True

    def close(self) -> None:
        pass


class _Subject(Subject):
    """The question as a dispatcher sees it."""

    __slots__ = ("_asked", "_tracee")

    def __init__(self, asked: CallText, tracee: _Tracee) -> None:  # its own state only: nothing is pinned
        self._asked, self._tracee = asked, tracee
        self._pinned = None

    @property
    def pinned(self) -> Any:
        return self._tracee

    def read(self, wants: Sequence[Want]) -> Sequence[bytes | None]:
        return self._asked.read(wants)

    def close(self) -> None:
        pass


class _Reach:
    def __init__(self, tracee: _Tracee) -> None:
        self.tracee: Any = tracee
        self.agent: Any = _Agent()
        self.contexts: Any = _Agent()
        self.programs: Any = _Agent()
        self.names: Any = _Agent()
        self.modules: Any = _Agent()
        self.device_programs: Any = _Agent()


class _NoHost:
    """dispatch.Host."""

    notifier_fd = -1

    def slow(self) -> None:
        pass


_IDS = IdRange(1 << 20, 1 << 16)


class _Dry(Dispatcher):
    """The dispatcher of a container that does not exist."""

    def __init__(self, policy: Policy, asked: CallText, asker: Asker) -> None:
        container = Container("", _IDS, policy.name, mount_namespace=1, user_namespace=2, pid_namespace=3)
        container.immutable = frozenset({1})
        routes = routes_of({asked.row.name: asked.row}, policy)
        super().__init__(container, policy, routes, pool=None)  # type: ignore[arg-type] # never asked
        self._asked, self._asker = asked, asker
        self._tracee = _Tracee(asker, container)
        self._asks = ""

    def explanation(self, number: int) -> Explanation:
        arch = self._asker.arch
        notification = Notification(0, os.getpid(), arch, number, 0, self._asked.registers)  # type: ignore[arg-type] # six of them
        outcome = self.answer(_NoHost(), notification, None)  # type: ignore[arg-type] # no memory is read
        record = record_of(outcome, "")
        return Explanation(
            Rung.HANDLER, outcome.how, outcome.rule, None if self._asks else outcome.verdict,
            outcome.decision.do if outcome.decision else None, record.why, record.remedy, self._asks,
        )  # fmt: skip

    def subject(self, _host: Host, _notification: Notification, _buffer: Any) -> Subject:
        return _Subject(self._asked, self._tracee)

    def log(self, outcome: Outcome) -> None:
        pass

    def _handle(self, row: Syscall, outcome: Outcome, _subject: Subject, decision: Decision, _host: Host) -> None:
        call = Call(self.container, self.policy, decision, _Reach(self._tracee))
        try:
            outcome.verdict = row.handler(call, outcome.args)
            outcome.how = how_of(call, outcome.verdict)
        except _Asks as asks:
            self._asks = str(asks)
        finally:
            conclude(outcome, row, call)
