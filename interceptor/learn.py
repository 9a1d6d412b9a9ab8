"""The smallest policy that allows what a trace has seen.

It builds on the policy under which the trace was made, and narrows it: of the calls that this one intercepts, what was seen
is allowed, with the strings that were seen, and the rest is refused. Calls that it leaves to the kernel never come into a
trace and stay the kernel's. What was refused in the trace is allowed by the result: read it before it is used.

A policy is a text here, because somebody will read and change it.
"""

from __future__ import annotations

import os.path
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from interceptor import stanza
from interceptor.args import Address, Arch, Buffer, Flags, String
from interceptor.calltext import CallText, parse
from interceptor.errors import ConfigError
from interceptor.policy import Do, Mount
from interceptor.policy_grammar import FILESYSTEM
from interceptor.policy_text import literal, number, quoted
from interceptor.trace.record import How

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from interceptor.args import Field
    from interceptor.policy import Policy
    from interceptor.registry import Syscall

VALUES_MAX = 12
"""Strings that a rule lists; of more, what they have in common."""
FILESYSTEM_ARGUMENTS = ("fstype", "fsname")
"""Arguments that name a type of `filesystems`."""


@dataclass(slots=True)
class Seen:
    """What a trace shows of one call."""

    count: int = 0
    calls: list[CallText] = field(default_factory=list)
    """Those whose arguments are known."""
    values: dict[str, set[Any]] = field(default_factory=dict)
    """Argument → its values."""
    unknown: bool = False
    """Some were answered from registers: what their strings were, nobody looked."""
    native: bool = True
    """All of them were the kernel's by a rule."""


@dataclass(frozen=True, slots=True)
class Learned:
    """A policy's text, and the calls that it was made for."""

    text: str
    calls: tuple[CallText, ...]


def learn(events: Iterable[Mapping[str, Any]], base: Policy, rows: Mapping[str, Syscall], of: str) -> Learned:
    """`events` as `interceptor trace --json` prints them; `of` says in the policy where it was learned."""
    seen = _seen(events, rows)
    total = sum(s.count for s in seen.values())
    lines = [
        f"description: {quoted(f'Learned from {total} calls of {of}')}",
        f"extends: [{quoted(base.name)}]",
        *_filesystems(seen, base),
        "calls:",
    ]
    for name, row in sorted(rows.items()):
        if not _decided(row, base):
            continue
        own = [_rule(row, seen[name])] if name in seen else []
        own += [rest] if (rest := _rest(row)) and not (own and own[0].startswith("do:")) else []
        lines += [f"  {name}:", *(f"    - {rule}" for rule in own)] if own else []
    return Learned("\n".join(lines) + "\n", tuple(call for s in seen.values() for call in s.calls))


def _decided(row: Syscall, base: Policy) -> bool:
    """Whether `base` has a say in the call that could be narrowed: neither the kernel's nor a constant answer."""
    whole = stanza.whole_call(base, row.name)
    return whole is None or whole.do is Do.EMULATE


def _seen(events: Iterable[Mapping[str, Any]], rows: Mapping[str, Syscall]) -> dict[str, Seen]:
    seen: dict[str, Seen] = {}
    for event in events:
        if event.get("call") in rows and event.get("how") not in (How.GONE, How.RELOADED, How.FAILED):
            _note(seen.setdefault(event["call"], Seen()), event, rows[event["call"]])
    return seen


def _note(seen: Seen, event: Mapping[str, Any], row: Syscall) -> None:
    seen.count += 1
    seen.native = seen.native and event["how"] == How.NATIVE
    try:
        call = parse(f"{row.name}({event['arguments']})", {row.name: row})
        args = row.signature.decode(call.registers, Arch.X86_64, call.read)
    except (ConfigError, OSError):
        seen.unknown = True
        return
    types = [getattr(args, name, None) or b"" for name in FILESYSTEM_ARGUMENTS]
    if any(fstype and not FILESYSTEM.fullmatch(fstype.decode(errors="replace")) for fstype in types):
        return  # no kernel has such a filesystem; nothing is to be allowed for it
    seen.calls.append(call)
    for argument in row.signature.fields:
        seen.values.setdefault(argument.name, set()).add(getattr(args, argument.name))


def _filesystems(seen: Mapping[str, Seen], base: Policy) -> Iterator[str]:
    """The types that were mounted, with what they get; all others are refused."""
    types = {t for s in seen.values() for name in FILESYSTEM_ARGUMENTS for t in s.values.get(name, ()) if t}
    if not types or any(s.unknown for name, s in seen.items() if name in ("mount", "fsopen")):
        return
    yield "filesystems:"
    yield '  "*": deny'
    for fstype in sorted(types):
        choice = base.filesystem(fstype)
        what = f"{{fuse: {quoted(choice.program)}}}" if choice.mount is Mount.FUSE else str(choice.mount)
        yield f"  {quoted(fstype.decode(errors='replace'))}: {'emulate' if choice.mount is Mount.DENY else what}"


def _rule(row: Syscall, seen: Seen) -> str:
    """One rule that allows all that was seen of a call."""
    do = "native" if seen.native else "emulate"
    when = {} if seen.unknown else {f.name: c for f in _telling(row) if (c := _values(f, seen.values.get(f.name, set())))}
    if not when:
        return f"do: {do}"
    conditions = ", ".join(f"{name}: {text}" for name, text in when.items())
    return f"{{when: {{{conditions}}}, do: {do}}}"


def _rest(row: Syscall) -> str:
    """A rule that refuses all else; of a call of which the filter sends a part, all else of that part (policies/README.md,
    "What the filter leaves to the kernel"): by a string that may be any. Empty where there is none.
    """
    if not row.when:
        return "do: deny"
    argument = next((f for f in row.signature.fields if isinstance(f.kind, String | Buffer)), None)
    if argument is None:
        return ""
    anything = '[null, "*"]' if getattr(argument.kind, "null", False) else '"*"'
    return f"{{when: {{{argument.name}: {anything}}}, do: deny}}"


def _telling(row: Syscall) -> list[Field]:
    """The arguments by which calls are told apart: strings, short of mount's data; where there are none, numbers."""
    fields = row.signature.fields
    strings = [f for f in fields if isinstance(f.kind, String | Buffer) and not getattr(f.kind, "partial", False)]
    return strings or [f for f in fields if not isinstance(f.kind, Address | Flags)]


def _values(argument: Field, values: set[Any]) -> str:
    """A condition that holds of all values; empty when nothing short does."""
    if not isinstance(argument.kind, String | Buffer):
        numbers = sorted(values)
        return f"[{', '.join(number(n, argument.kind) for n in numbers)}]" if 0 < len(numbers) <= VALUES_MAX else ""
    texts = {value for value in values if value is not None}
    patterns = [literal(text) for text in sorted(texts)] if len(texts) <= VALUES_MAX else _common(texts)
    if not patterns and texts:
        return ""
    return f"[{', '.join([*patterns, *(['null'] if None in values else [])])}]"


def _common(texts: set[bytes]) -> list[str]:
    """Fewer patterns for many strings: any number for a number, then what is below a directory; none if that is all."""
    numbered = Counter(re.sub(r"[0-9]+", "*", _escaped(text)) for text in texts)
    if len(numbered) <= VALUES_MAX:
        return [quoted(pattern) for pattern in sorted(numbered)]
    shared = os.path.commonprefix([_escaped(text) for text in texts])  # noqa: RUF071 - cut off at its last slash
    prefix = shared.rpartition("/")[0]
    return [quoted(f"{prefix}/*")] if prefix else []


def _escaped(text: bytes) -> str:
    """The pattern for just this text, without quotes."""
    return "".join(f"[{c}]" if c in "*?[" else "?" if c in "\0\ufffd" else c for c in text.decode(errors="replace"))
