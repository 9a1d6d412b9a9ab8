"""A resolved policy in words: what decides, in which order, and where that is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interceptor.args import Flags, Integer
from interceptor.limits import RLIM_INFINITY
from interceptor.policy import Do, FlagSet, Mount, Numbers, Policy, Text, Truth, Within
from interceptor.policy_limits import KNOWN_DEVICES, RLIMITS, UNLIMITED
from interceptor.printable import printable
from interceptor.trace.event import errno_name

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
    return "\n".join(printable(line) for line in lines)


def _settings(policy: Policy) -> Iterator[str]:
    yield f"  file              {policy.origin}"
    yield f"  selectable        {'yes' if policy.selectable else 'no'}"
    yield f"  capabilities      {policy.capabilities}"
    yield f"  engine's profile  {policy.engine_profile}"
    yield f"  immutable mounts  {'yes' if policy.immutable_mounts else 'no'}"
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
    yield f"  ceilings          {', '.join(parts) or 'the kernel’s'}"
    listed = [_device(d) for d in devices.listed] + (["those of its device cgroup"] if devices.cgroup else [])
    yield f"  devices           {', '.join(listed) or 'none'}"
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
            return f"is {' or '.join(str(a) if a == b else f'{a}..{b}' for a, b in ranges)}"
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
