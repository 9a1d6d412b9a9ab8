"""swapon(2), swapoff(2): a container has no swap of its own to add or to take away.

After swapoff of anything no swap of the container's is there, so that it succeeds: scripts that prepare a host for
Kubernetes insist on it. swapon cannot do what it says, and stays what the kernel says (EPERM).

Source: swapon(2), swapoff(2); Linux mm/swapfile.c.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Annotated

from interceptor.args import Flags, MaybeStr, Path
from interceptor.ports import Call, Cap, Namespace
from interceptor.registry import Needs, handles
from interceptor.verdict import Continue, Return, Verdict


class SwapFlag(enum.IntFlag):
    """The flags of swapon(2) (linux/swap.h); the low 15 bits are a priority."""

    SWAP_FLAG_PREFER = 0x8000
    SWAP_FLAG_DISCARD = 0x10000
    SWAP_FLAG_DISCARD_ONCE = 0x20000
    SWAP_FLAG_DISCARD_PAGES = 0x40000


@dataclass(frozen=True, slots=True)
class SwaponArgs:
    """The two registers of swapon(2)."""

    specialfile: MaybeStr
    swap_flags: Annotated[int, Flags(SwapFlag, bits=32)]


@dataclass(frozen=True, slots=True)
class SwapoffArgs:
    """The one register of swapoff(2)."""

    specialfile: Path


@handles(
    "swapon",
    needs=Needs(Cap.SYS_ADMIN, owner_of=Namespace.MOUNT),
    note="The kernel's EPERM; a policy may answer otherwise.",
)
def swapon(_call: Call, _args: SwaponArgs) -> Verdict:
    return Continue(because="swap is the host's, and the kernel refuses it")


@handles(
    "swapoff",
    needs=Needs(Cap.SYS_ADMIN, owner_of=Namespace.MOUNT),
    note="Succeeds without an effect: no swap is the container's.",
)
def swapoff(call: Call, _args: SwapoffArgs) -> Verdict:
    call.why = "there is no swap of the container's"
    return Return()
