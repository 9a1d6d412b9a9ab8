"""clock_settime(2), settimeofday(2), stime(2): the time of day is the host's.

The kernel refuses it from a user namespace with EPERM, which is the truth: whoever sets a clock looks at it next. NTP
clients step a clock only when it is far off, and then the message is due. A policy may answer otherwise (`pretend`, for an
image whose scripts insist on `date -s`). The time namespace's offsets are the engine's, and fixed once it has inhabitants.

Source: clock_settime(2), settimeofday(2), stime(2), time_namespaces(7); Linux kernel/time/posix-timers.c,
kernel/time/time.c do_sys_settimeofday64(), security/commoncap.c cap_settime().
"""

from __future__ import annotations

from dataclasses import dataclass

from interceptor.args import Int, Pointer
from interceptor.ports import Call, Cap, Namespace
from interceptor.registry import Masked, Needs, handles
from interceptor.verdict import Continue, Verdict

CLOCK_REALTIME = 0


@dataclass(frozen=True, slots=True)
class ClockSettimeArgs:
    """The two registers of clock_settime(2)."""

    clk_id: Int
    tp: Pointer


@dataclass(frozen=True, slots=True)
class SettimeofdayArgs:
    """The two registers of settimeofday(2)."""

    tv: Pointer
    tz: Pointer


@dataclass(frozen=True, slots=True)
class StimeArgs:
    """The one register of stime(2)."""

    t: Pointer


NEEDS = Needs(Cap.SYS_TIME, owner_of=Namespace.MOUNT)
REALTIME = (Masked("clk_id", 0xFFFF_FFFF, CLOCK_REALTIME),)
NOTE = "The kernel's EPERM; a policy may answer otherwise."


@handles("clock_settime", when=REALTIME, needs=NEEDS, note=NOTE)
def clock_settime(_call: Call, _args: ClockSettimeArgs) -> Verdict:
    return _refused()


@handles("clock_settime64", when=REALTIME, needs=NEEDS, note="As clock_settime, by 32-bit programs.")
def clock_settime64(_call: Call, _args: ClockSettimeArgs) -> Verdict:
    return _refused()


@handles("settimeofday", needs=NEEDS, note=NOTE)
def settimeofday(_call: Call, _args: SettimeofdayArgs) -> Verdict:
    return _refused()


@handles("stime", needs=NEEDS, note="As settimeofday, by 32-bit programs.")
def stime(_call: Call, _args: StimeArgs) -> Verdict:
    return _refused()


def _refused() -> Verdict:
    return Continue(because="the time of day is the host's, and the kernel refuses it")
