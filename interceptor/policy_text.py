"""Conditions and rules written as policies write them: the way back from values to YAML.

For the change that a trace proposes after a denial, and for the policies that `interceptor policy learn` writes. What is
written here, `policy_grammar` reads as what it was.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from interceptor.args import Flags, Integer
from interceptor.policy import FlagSet, Numbers, Text, Truth, Within

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from interceptor.args import Field, Kind
    from interceptor.policy import Condition, Rule


def literal(value: bytes | None) -> str:
    """A pattern that matches just this; bytes that are no UTF-8, and NUL, cannot be written and become ``?``."""
    if value is None:
        return "null"
    text, rest = "", value
    while rest:
        try:
            good, bad = rest.decode(), b""
        except UnicodeDecodeError as error:
            good, bad = rest[: error.start].decode(), rest[error.start : error.start + 1]
        text += "".join(f"[{c}]" if c in "*?[" else c for c in good).replace("\0", "?") + "?" * len(bad)
        rest = rest[len(good.encode()) + len(bad) :]
    return quoted(text)


def quoted(text: str) -> str:
    """A YAML scalar that is this text: as it stands where that is certain, else in double quotes."""
    plain = text.isascii() and all(c.isalnum() or c in "_./" for c in text) and text[:1].isalpha()
    if plain and text.lower() not in {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}:
        return text
    escaped = json.dumps(text, ensure_ascii=False)
    return "".join(c if c < "\x7f" else f"\\U{ord(c):08x}" for c in escaped)  # beyond \uffff JSON has pairs, YAML has not


def exactly(argument: Field, value: Any) -> str | None:
    """A condition that holds of this value; None for what no rule can test."""
    if isinstance(value, bytes) or (value is None and getattr(argument.kind, "null", False)):
        return literal(value)
    if isinstance(argument.kind, Flags):
        return _all_flags(argument.kind, value)
    return number(value, argument.kind) if isinstance(argument.kind, Integer) else None


def _all_flags(kind: Flags, value: int) -> str:
    """All of the flags that have names, and none of the others."""
    known = 0
    for member in kind.names:
        known |= int(member)
    return f"{{mask: {known:#x}, is: {value & known:#x}}}"


def condition(asked: Condition, kind: Kind | None) -> str:
    """`asked` in flow style; `kind` is the argument's, None for a property of the caller."""
    match asked:
        case Text(patterns):
            return _one_or_more("null" if p is None else quoted(p) for p in patterns)
        case Within(networks):
            return f"{{cidr: {_one_or_more(quoted(n) for n in networks)}}}"
        case Numbers(ranges):
            return _one_or_more(number(a, kind) if a == b else f'"{a}..{b}"' for a, b in ranges)
        case Truth(value):
            return "true" if value else "false"
        case FlagSet(has, lacks):
            return _flag_set(has, lacks, kind)
        case _:
            raise TypeError(f"{asked!r} has no form in a policy")


def number(value: int, kind: Kind | None) -> str:
    """By its name where it has one."""
    return kind.render(value) if isinstance(kind, Integer) and kind.names else str(value)


def _flag_set(has: int, lacks: int, kind: Kind | None) -> str:
    if not isinstance(kind, Flags) or not (_named(kind, has) and _named(kind, lacks)):
        return f"{{mask: {has | lacks:#x}, is: {has:#x}}}"
    parts = [f"{key}: [{', '.join(kind.render(bits).split('|'))}]" for key, bits in (("has", has), ("not", lacks)) if bits]
    return f"{{{', '.join(parts)}}}"


def _named(kind: Flags, bits: int) -> bool:
    """Whether every bit has a name."""
    return all(part in kind.names.__members__ for part in kind.render(bits).split("|")) if bits else True


def _one_or_more(parts: Iterable[str]) -> str:
    texts = list(parts)
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


def rule_entry(when: Mapping[str, str], do: str) -> str:
    """``{when: {…}, do: …}``."""
    conditions = f"when: {{{', '.join(f'{name}: {text}' for name, text in when.items())}}}, " if when else ""
    return f"{{{conditions}do: {do}}}"


def when_of(rule: Rule, fields: Mapping[str, Field]) -> dict[str, str]:
    """The conditions of a rule as they would be written."""
    found = {name: condition(asked, fields[name].kind) for name, asked in rule.args}
    if rule.caller:
        found["caller"] = f"{{{', '.join(f'{name}: {condition(asked, None)}' for name, asked in rule.caller)}}}"
    return found
