"""What a trace says about a call that a rule refused: which argument, and the change that would allow it.

Made when somebody reads, never while a tracee waits. The change is an entry of a policy file that allows as little as
possible: the arguments that the refusing rule tested, with the values of this call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from interceptor.args import Address, Buffer, Flags, String
from interceptor.policy_text import exactly, rule_entry, when_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from interceptor.args import Field
    from interceptor.policy import Decision, Policy, Rule
    from interceptor.registry import Syscall

LOCAL = "/etc/interceptor/policies"


class Refusal(NamedTuple):
    """For the trace."""

    why: str
    """Which arguments the rule looked at, with their values."""
    entry: str
    """The entry of a policy file that would allow the call."""


def refusal(
    row: Syscall, policy: Policy, decision: Decision, values: Mapping[str, Any], mask: Callable[[bytes], bytes]
) -> Refusal:
    """`values` are the decoded arguments by name, or as many as are known (registers only). `mask` hides secrets; what
    has one is not written into the change.
    """
    shown = {name: mask(value) if isinstance(value, bytes) else value for name, value in values.items()}
    values = {name: value for name, value in values.items() if shown[name] == value}
    rule = _rule(policy, row.name, decision)
    fields = {f.name: f for f in row.signature.fields}
    if rule is None:
        return Refusal(f"every {row.name}: no rule says otherwise", _entry(row, _telling(fields, values)))
    if rule.unconditional:
        return Refusal(f"every {row.name} that comes to this rule", _entry(row, _telling(fields, values)))
    tested = {name: values[name] for name, _ in rule.args if name in values}
    why = [f"{name} is {fields[name].kind.render(shown[name])}" for name, _ in rule.args if name in shown]
    why += [f"the caller's {name}" for name, _ in rule.caller]
    return Refusal(" and ".join(why), _entry(row, _same(rule, fields, tested)))


def _rule(policy: Policy, call: str, decision: Decision) -> Rule | None:
    """None for the policy's default."""
    return next((rule for rule in policy.rules.get(call, ()) if rule.decision == decision), None)


def of_line(policy: Policy, call: str, line: str) -> Decision | None:
    """The decision on `call` that stands in a line; None where the policy is another by now."""
    return next((rule.decision for rule in policy.ladder(call) if rule.decision.rule == line), None)


def _entry(row: Syscall, when: Mapping[str, str]) -> str:
    return f"calls: {{{row.name}: [{rule_entry(when, 'emulate')}]}}"


def _telling(fields: Mapping[str, Field], values: Mapping[str, Any]) -> dict[str, str]:
    """Conditions on what tells this call from others: its strings, short of mount's data; else its numbers."""
    strings = {n: values[n] for n, f in fields.items() if isinstance(f.kind, String | Buffer) and n in values}
    told = {name: value for name, value in strings.items() if not getattr(fields[name].kind, "partial", False)}
    numbers = {n: values[n] for n, f in fields.items() if not isinstance(f.kind, Address) and n in values}
    chosen = told or {name: value for name, value in numbers.items() if name not in strings}
    return _written(fields, chosen)


def _same(rule: Rule, fields: Mapping[str, Field], values: Mapping[str, Any]) -> dict[str, str]:
    """The rule's own conditions, with the values of this call for patterns and ranges. Flags stay as the rule has them."""
    own = when_of(rule, fields)
    return own | _written(fields, {n: v for n, v in values.items() if not isinstance(fields[n].kind, Flags)})


def _written(fields: Mapping[str, Field], values: Mapping[str, Any]) -> dict[str, str]:
    texts = {name: exactly(fields[name], value) for name, value in values.items()}
    return {name: text for name, text in texts.items() if text is not None}


def remedy(rule: str, entry: str, policy: str) -> str:
    """Where the change belongs: rules of a file are asked before those of what it extends."""
    file, _, line = rule.rpartition(":")
    if rule.startswith("/"):
        return f"to allow it, change line {line} of {file}, or say in a policy that extends [{policy}]: {entry}"
    return f"to allow it, say in a policy of {LOCAL} that extends [{policy}]: {entry}"
