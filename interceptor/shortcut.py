"""What native/shortcut.c may decide of a container's calls, as values: rows of the C table, the table of filesystem types.

A handler says of its plain case what C knows to look at (`registry.Shortcut`); here policy is asked whether that case is
one: whether nothing but the filesystem's entry decides, and nobody wants a line in the log. Everything here is a function
of values; `native.looks` writes them down for C.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from interceptor.policy import Do, Mount, Policy
from interceptor.registry import Look, Masked, Syscall
from interceptor.stanza import ACTIONS, Action, RegisterTest, TableRow, register_tests
from interceptor.trace.record import How

if TYPE_CHECKING:
    from collections.abc import Mapping

    from interceptor.args import Arch

LOOKS = {Look.MOUNT: 1, Look.UMOUNT: 2}
"""enum ic_look (native/shortcut.h)."""

NAME_MAX = 31
"""Bytes of a filesystem type's name that an ic_type holds."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a call ended that was looked at: what the trace says of it."""

    how: How
    rule: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Type:
    """What a mount of one filesystem type gets without the handler; `ending` None: the handler is asked."""

    name: str
    """Empty for whatever has no entry."""
    ending: Ending | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What C is told of one policy."""

    types: tuple[Type, ...]
    """The last one is for all others."""
    unmounted: Ending
    """Of umount2(2) for a mount that is not immutable."""
    immutable_mounts: bool = True


def plan(table: Mapping[str, Syscall], policy: Policy) -> Plan:
    """The plan of one policy; which calls it is used for, `rows` says."""
    rows = {row.shortcut.look: (row, row.shortcut) for row in table.values() if row.shortcut}
    types: tuple[Type, ...] = (Type("", None),)
    unmounted = Ending(How.CONTINUED, "")
    if Look.MOUNT in rows:
        types = filesystem_types(policy, rows[Look.MOUNT][1].because)
    if Look.UMOUNT in rows:
        row, shortcut = rows[Look.UMOUNT]
        unmounted = Ending(How.CONTINUED, policy.ladder(row.name)[-1].decision.rule, shortcut.because)
    return Plan(types, unmounted, policy.immutable_mounts)


def filesystem_types(policy: Policy, because: str) -> tuple[Type, ...]:
    """Policy's filesystems as far as C can tell them apart: those that are the kernel's, and those with a stand-in."""
    if any(len(name.encode()) > NAME_MAX for name in policy.filesystems):
        return (Type("", None),)
    names = sorted({name for name in policy.filesystems if name != "*"} | policy.device_types)
    return tuple(_type(name, policy, because) for name in [*names, ""])


def _type(name: str, policy: Policy, because: str) -> Type:
    choice = policy.filesystem(name.encode())
    if name in policy.device_types:
        return Type(name, None)
    match choice.mount:
        case Mount.NATIVE:
            return Type(name, Ending(How.CONTINUED, choice.rule, because))
        case Mount.STAND_IN if name:
            return Type(name, Ending(How.EMULATED, choice.rule))
        case _:
            return Type(name, None)


def rows(table: Mapping[str, Syscall], policy: Policy, arch: Arch) -> list[TableRow]:
    """The rows that follow those of `stanza.table`: which calls are looked at."""
    return [
        TableRow(number, _tests(row, row.shortcut.when, arch), Action.LOOK, LOOKS[row.shortcut.look], "")
        for _, row in sorted(table.items())
        if row.shortcut and (number := row.number(arch)) is not None and _handlers(row, policy, arch)
    ]


def _handlers(row: Syscall, policy: Policy, arch: Arch) -> bool:
    """Whether every call that the rows before leave over is the handler's to decide, and nobody's to log."""
    *leading, last = policy.ladder(row.name)
    compiled = all(
        rule.decision.do in ACTIONS and not rule.decision.log and register_tests(row, rule, arch) is not None
        for rule in leading
    )
    return compiled and last.decision.do is Do.EMULATE and not last.decision.log


def _tests(row: Syscall, when: Masked | None, arch: Arch) -> tuple[RegisterTest, ...]:
    if when is None:
        return ()
    index = next(field.register for field in row.signature.fields if field.name == when.field)
    mask = int(when.mask) & arch.register_mask
    return (RegisterTest(index, mask, int(when.value) & mask),)
