"""A resolved policy in words: what decides, in which order, and where that is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from interceptor import stanza
from interceptor.args import Flags, Integer
from interceptor.explain import Rung
from interceptor.limits import RLIM_INFINITY, LentDevice
from interceptor.policy import Do, FlagSet, Mount, Numbers, Policy, Text, Truth, Within
from interceptor.policy_limits import KNOWN_DEVICES, RLIMITS, UNLIMITED
from interceptor.policy_text import number
from interceptor.printable import printable
from interceptor.trace.event import errno_name
from interceptor.trace.record import How

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from interceptor.args import Kind
    from interceptor.limits import Device, Limits
    from interceptor.policy import Condition, Decision, FilesystemDecision, Rule
    from interceptor.registry import Syscall

_COLUMN = 52
"""Where the places stand."""


def describe(policy: Policy, rows: Mapping[str, Syscall]) -> str:
    """Several lines; rules in the order in which they are asked. `rows` is the registry: it knows the flags' names."""
    lines = [f"{policy.name}: {policy.description}" if policy.description else policy.name, *_settings(policy)]
    for call in sorted(policy.rules):
        kinds = _kinds(rows, call)
        lines += ["", call, *(_placed(_rule(rule, kinds), rule.decision.rule) for rule in policy.ladder(call))]
    lines += ["", "every other intercepted call", _placed(_decision(policy.default), policy.default.rule)]
    if policy.filesystems:
        lines += ["", "filesystems"]
        width = max(map(len, policy.filesystems))
        for fstype, decision in sorted(policy.filesystems.items(), key=lambda item: (item[0] == "*", item[0])):
            lines.append(_placed(f"{fstype.ljust(width)}  {_filesystem(decision)}", decision.rule))
    if policy.devices:
        lines += ["", "devices that can be mounted"]
        lines += [_placed(_lent(name, device), device.rule) for name, device in sorted(policy.devices.items())]
    return "\n".join(printable(line) for line in lines)


def _lent(name: str, device: LentDevice) -> str:
    return f"{name}  {device.fstype} of {device.host}{', read-only' if device.read_only else ''}"


def compiled(policy: Policy, rows: Mapping[str, Syscall]) -> str:
    """Who answers each call (docs/design.md, section 2), rule by rule in the order in which they are asked."""
    lines = [f"{policy.name}: who answers what"]
    for name, row in sorted(rows.items()):
        lines += ["", name, *_rungs(row, policy, _kinds(rows, name))]
    return "\n".join(printable(line) for line in lines)


def _rungs(row: Syscall, policy: Policy, kinds: Mapping[str, Kind]) -> Iterator[str]:
    whole = stanza.whole_call(policy, row.name)
    if row.lends and not stanza.conditions(row, policy) and (whole is None or whole.do is Do.EMULATE):
        yield _placed(f"{Rung.KERNEL:8} {Do.NATIVE}", "(no ceiling)")
    elif not stanza.rules({row.name: row}, policy) and whole is not None:
        yield _placed(f"{Rung.KERNEL:8} {_decision(whole)}", whole.rule)
    elif whole is not None and not whole.do.passes and whole.do not in (Do.KILL, Do.STOP):
        yield _placed(f"{Rung.FILTER:8} {_decision(whole)}", whole.rule)
    else:
        reaching = [_masks(masks, row) for masks in stanza.conditions(row, policy)]
        yield f"  {Rung.FILTER:8} sends {' or '.join(reaching)}"
        for rung, rule in stanza.ladder_rungs(row, policy):
            yield _placed(f"{Rung.TABLE if rung else Rung.HANDLER:8} {_rule(rule, kinds)}", rule.decision.rule)


def _masks(masks: stanza.Masks, row: Syscall) -> str:
    names = {f.register: f for f in row.signature.fields}
    parts = [f"{names[r].name} {_condition(FlagSet(v, m & ~v), names[r].kind)}" for r, (m, v) in sorted(masks.items())]
    return f"what {' and '.join(parts)}" if parts else "everything"


_OUTCOME = {
    How.EMULATED: "the handler answers it",
    How.CONTINUED: "the kernel performs it",
    How.NATIVE: "the kernel performs it",
    How.DENIED: "it is refused",
    How.PRETENDED: "it succeeds, and nothing is done",
    How.KILLED: "the process is killed",
    How.FAILED: "a fault of interceptor's own",
    How.TABLE: "answered by the table",
    How.RELOADED: "",
    How.GONE: "",
}
_RUNGS = {
    Rung.KERNEL: "the kernel: it does not leave it",
    Rung.FILTER: "the BPF filter alone",
    Rung.TABLE: "the compiled table, from registers",
    Rung.HANDLER: "the supervisor, by the call's handler",
}


def explanation(found: Mapping[str, Any]) -> str:
    """What `interceptor policy explain` prints."""
    result = found["errno"] or (f"= {found['result']}" if found["result"] is not None else "")
    outcome = found["asks"] and f"it asks for {found['asks']}, and goes by that"
    do = f" ({found['do']})" if found["do"] else ""
    lines = [
        found["call"],
        f"  policy   {found['policy']}",
        f"  rung     {_RUNGS[Rung(found['rung'])]}",
        f"  rule     {found['rule'] or '-'}{do}",
        f"  outcome  {outcome or _OUTCOME[How(found['how'])]} {result}".rstrip(),
        *([f"  because  {found['why']}"] if found["why"] else []),
        *([f"  remedy   {found['remedy']}"] if found["remedy"] else []),
    ]
    return "\n".join(printable(line) for line in lines)


def _settings(policy: Policy) -> Iterator[str]:
    yield f"  file              {policy.origin}"
    yield f"  selectable        {'yes' if policy.selectable else 'no'}"
    yield f"  capabilities      {policy.capabilities}"
    yield f"  engine's profile  {policy.engine_profile}"
    if policy.overlay_nodes:
        yield "  overlay nodes     yes"
    yield f"  immutable mounts  {'yes' if policy.immutable_mounts else 'no'}"
    yield f"  kmsg              {policy.kmsg}"
    yield f"  leaves            {policy.leaves}"
    yield f"  hidden            {', '.join(policy.hidden) or 'nothing'}"
    yield f"  ids               {policy.id_range_size}"
    yield from _limits(policy.limits)


def _limits(limits: Limits) -> Iterator[str]:
    ceilings, devices = limits.ceilings, limits.devices
    rate = f", notifications {limits.notifications}/s" if limits.notifications else ""
    deadline = f"agent-deadline {limits.agent_deadline_ms}ms"
    yield f"  limits            parked {limits.parked}, agents {limits.agents}, {deadline}{rate}"
    names = {number: name for name, number in RLIMITS.items()}
    parts = [
        f"{names[n]} {UNLIMITED if value == RLIM_INFINITY else value}" for n, value in sorted(ceilings.rlimits.items())
    ]
    parts += [f"nice {ceilings.nice}"] if ceilings.nice is not None else []
    parts += [f"realtime-priority {ceilings.realtime_priority}"] if ceilings.realtime_priority else []
    parts += [f"io-realtime {ceilings.io_realtime}"] if ceilings.io_realtime is not None else []
    parts += [f"{name} {most}" for name, most in sorted(ceilings.sysctls.items())]
    parts += [f"oom-score-adj {ceilings.oom_score_adj}"] if ceilings.oom_score_adj is not None else []
    yield f"  ceilings          {', '.join(parts) or 'the kernel’s'}"
    listed = [_device(d) for d in devices.listed] + (["those of its device cgroup"] if devices.cgroup else [])
    yield f"  devices           {', '.join(listed) or 'none'}"
    if limits.modules:
        yield f"  modules           {', '.join(module.names for module in limits.modules)}"
    if limits.loop_devices:
        yield f"  loop devices      {limits.loop_devices}"
    for fstype, servers in sorted(limits.servers.items()):
        for server in servers:
            yield _placed(f"  {fstype} from {server.host}, {server.export}", server.rule)


def _device(device: Device) -> str:
    numbers = (device.kind, device.major, device.minor)
    name = next((name for name, known in KNOWN_DEVICES.items() if known == numbers), None)
    return name or "{} {}:{}".format(*("*" if n is None else n for n in numbers))


def _placed(text: str, rule: str) -> str:
    return f"  {text.ljust(_COLUMN)}  {rule}"


def _kinds(rows: Mapping[str, Syscall], call: str) -> dict[str, Kind]:
    return {f.name: f.kind for f in rows[call].signature.fields} if call in rows else {}


def _rule(rule: Rule, kinds: Mapping[str, Kind]) -> str:
    asked = [*rule.args, *((f"caller.{name}", condition) for name, condition in rule.caller)]
    when = " and ".join(f"{name} {_condition(condition, kinds.get(name, Integer(0)))}" for name, condition in asked)
    return f"{_decision(rule.decision)}{f' when {when}' if when else ''}"


def _decision(decision: Decision) -> str:
    what = _failing("deny", decision.errno) if decision.do is Do.DENY else str(decision.do)
    return f"{what}, logged" if decision.log else what


def _filesystem(decision: FilesystemDecision) -> str:
    if decision.mount is Mount.DENY:
        return _failing("deny", decision.errno)
    return f"{decision.mount} {decision.program}".rstrip()


def _failing(what: str, errno: int) -> str:
    return f"{what} with {errno_name(errno)}"


def _condition(condition: Condition, kind: Kind) -> str:  # noqa: PLR0911 - a table
    match condition:
        case Text(patterns):
            return f"is {' or '.join('NULL' if p is None else repr(p) for p in patterns)}"
        case Numbers(ranges):
            return f"is {' or '.join(number(a, kind) if a == b else f'{a}..{b}' for a, b in ranges)}"
        case FlagSet(has, lacks) if not isinstance(kind, Flags):
            return f"& {has | lacks:#x} is {has:#x}"
        case FlagSet(has, lacks):
            parts = [f"has {kind.render(has)}" if has else "", f"lacks {kind.render(lacks)}" if lacks else ""]
            return " and ".join(p for p in parts if p)
        case Within(networks):
            return f"is within {' or '.join(networks)}"
        case Truth(value):
            return f"is {'true' if value else 'false'}"
        case _:
            return f"fulfils {condition}"
