"""Our answer to one notification: a sum type with four cases.

Source: seccomp_unotify(2), struct seccomp_notif_resp and seccomp_notif_addfd.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Return:
    """The call returns `value` (``__s64 val``)."""

    value: int = 0


@dataclass(frozen=True, slots=True)
class Fail:
    """The call fails with `errno` (a positive number from `errno`; the wire form negates it)."""

    errno: int


@dataclass(frozen=True, slots=True)
class AddFd:
    """The call returns a new descriptor of the tracee: a duplicate of our `fd` (SECCOMP_IOCTL_NOTIF_ADDFD).

    `fd` is closed by the session after the answer. `cloexec` sets O_CLOEXEC on the tracee's descriptor. `delivered` is
    called once the tracee has it.
    """

    fd: int
    cloexec: bool = True
    delivered: Callable[[], None] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Continue:
    """The kernel executes the call itself, re-reading its memory; `because` is why that grants nothing of ours."""

    because: str


Verdict: TypeAlias = Return | Fail | AddFd | Continue
