"""adjtimex(2), clock_adjtime(2): the clock is the host's, and an NTP client inside is told that its corrections are made.

The kernel refuses corrections from a user namespace, whatever capabilities are held in it. chronyd ends upon that,
systemd-timesyncd and ntpd log an error at each poll. What they would correct is the clock that the host corrects already:
success without an effect harms nobody, and they stay calm. The answer is what the kernel would write: the clock's own state,
with what was asked for in it.
Left to the kernel: whatever only reads; steps (ADJ_SETOFFSET), which whoever makes one sees, or makes again for ever; other
clocks than CLOCK_REALTIME.

Source: adjtimex(2), clock_adjtime(2); Linux kernel/time/ntp.c, kernel/time/timekeeping.c timekeeping_validate_timex(),
include/uapi/linux/timex.h, kernel/time/time.c get_old_timex32(), put_old_timex32().
"""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass
from struct import Struct

from interceptor.args import Int, Pointer
from interceptor.ports import Call, Cap, Namespace
from interceptor.registry import Masked, Needs, handles
from interceptor.verdict import Continue, Fail, Return, Verdict

CLOCK_REALTIME = 0


class Adjust(enum.IntFlag):
    """ADJ_* as the kernel reads `modes` (linux/timex.h; ADJ_ADJTIME and its reading form are the kernel's own names)."""

    OFFSET = 0x0001
    FREQUENCY = 0x0002
    MAXERROR = 0x0004
    ESTERROR = 0x0008
    STATUS = 0x0010
    TIMECONST = 0x0020
    TAI = 0x0080
    SETOFFSET = 0x0100
    READONLY = 0x2000
    """ADJ_OFFSET_READONLY where ADJTIME is set; else ADJ_NANO."""
    TICK = 0x4000
    ADJTIME = 0x8000
    """With OFFSET: adjtime(3)'s ADJ_OFFSET_SINGLESHOT."""


STATUS_UNSYNCHRONISED = 0x0040
STATUS_READ_ONLY = 0xFF00
"""STA_UNSYNC, STA_RONLY."""
TIME_OK, TIME_ERROR = 0, 5
TICKS = range(9_000, 11_001)
"""What `tick` may be, in µs with a USER_HZ of 100: 10 % more or less."""
MAX_FREQUENCY = 500 << 16
"""MAXFREQ, 500 ppm, as `freq` has it: parts per million in 2⁻¹⁶."""
FREQUENCY_OVERFLOW = (1 << 63) // (1000 << 16)
"""LLONG_MAX / PPM_SCALE."""

FIELDS = (
    "modes", "offset", "freq", "maxerror", "esterror", "status", "constant", "precision", "tolerance", "time_sec",
    "time_usec", "tick", "ppsfreq", "jitter", "shift", "stabil", "jitcnt", "calcnt", "errcnt", "stbcnt", "tai",
)  # fmt: skip
WIDE = Struct("=I4x4qi4x3q2q3qi4x5qi44x")
"""struct __kernel_timex."""
NARROW = Struct("=I20i44x")
"""struct old_timex32."""
ASKED = {
    Adjust.MAXERROR: "maxerror",
    Adjust.ESTERROR: "esterror",
    Adjust.TIMECONST: "constant",
    Adjust.TICK: "tick",
}
"""What is read back as it was given."""

Timex = dict[str, int]


@dataclass(frozen=True, slots=True)
class AdjtimexArgs:
    """The one register: a struct timex, read and written."""

    buf: Pointer


@dataclass(frozen=True, slots=True)
class ClockAdjtimeArgs:
    """The two registers of clock_adjtime(2)."""

    clk_id: Int
    buf: Pointer


NEEDS = Needs(Cap.SYS_TIME, owner_of=Namespace.MOUNT)
REALTIME = (Masked("clk_id", 0xFFFF_FFFF, CLOCK_REALTIME),)
NOTE = "Corrections of CLOCK_REALTIME succeed without an effect; reading, and steps (EPERM), are the kernel's."


@handles("adjtimex", needs=NEEDS, note=NOTE)
def adjtimex(call: Call, args: AdjtimexArgs) -> Verdict:
    return _adjust(call, args.buf, _native_layout(call), written_back=True)


@handles("clock_adjtime", when=REALTIME, needs=NEEDS, note="As adjtimex.")
def clock_adjtime(call: Call, args: ClockAdjtimeArgs) -> Verdict:
    return _adjust(call, args.buf, _native_layout(call))


@handles("clock_adjtime64", when=REALTIME, needs=NEEDS, note="As adjtimex, by 32-bit programs.")
def clock_adjtime64(call: Call, args: ClockAdjtimeArgs) -> Verdict:
    return _adjust(call, args.buf, WIDE)


def _native_layout(call: Call) -> Struct:
    return NARROW if call.tracee.long_bits == 32 else WIDE  # noqa: PLR2004 - bits


def _adjust(call: Call, buf: int, layout: Struct, *, written_back: bool = False) -> Verdict:
    """`written_back`: also with an error, so that EFAULT comes before it."""
    data = call.tracee.read(buf, layout.size)
    asked = unpacked(layout, data)
    modes = asked["modes"]
    if not modes or (modes & Adjust.ADJTIME and modes & Adjust.READONLY):
        return Continue(
            because="only reads, which is everybody's; a correction in its place would be the kernel's to refuse"
        )
    if modes & Adjust.SETOFFSET:
        return Continue(because="a step of the clock, which the kernel refuses")
    if _is_invalid(asked):
        if written_back:
            call.tracee.write(buf, data)
        return Fail(errno.EINVAL)
    state, now = call.tracee.clock()
    found = {**unpacked(WIDE, now), **_as_asked(asked, unpacked(WIDE, now))}
    call.tracee.write(buf, packed(layout, found))
    call.why = "the clock is the host's, which corrects it"
    return Return(_state(asked, state))


def _is_invalid(asked: Timex) -> bool:
    """What timekeeping_validate_timex() says EINVAL to."""
    modes = asked["modes"]
    if modes & Adjust.ADJTIME:
        return not modes & Adjust.OFFSET
    if modes & Adjust.TICK and asked["tick"] not in TICKS:
        return True
    return bool(modes & Adjust.FREQUENCY) and abs(asked["freq"]) > FREQUENCY_OVERFLOW


def _as_asked(asked: Timex, now: Timex) -> Timex:
    """The fields that the correction would have changed, as they would be read back."""
    modes = asked["modes"]
    if modes & Adjust.ADJTIME:
        return {"modes": modes, "offset": 0}  # what is left of an earlier adjtime(3)
    found = {"modes": modes} | {name: asked[name] for mode, name in ASKED.items() if modes & mode}
    if modes & Adjust.STATUS:
        found["status"] = now["status"] & STATUS_READ_ONLY | asked["status"] & ~STATUS_READ_ONLY
    if modes & Adjust.FREQUENCY:
        found["freq"] = max(-MAX_FREQUENCY, min(asked["freq"], MAX_FREQUENCY))
    return found


def _state(asked: Timex, state: int) -> int:
    """The clock's state: whether it is synchronised follows from the status that was asked for, if one was."""
    if asked["modes"] & Adjust.ADJTIME or not asked["modes"] & Adjust.STATUS:
        return state
    return TIME_ERROR if asked["status"] & STATUS_UNSYNCHRONISED else TIME_OK


def unpacked(layout: Struct, data: bytes) -> Timex:
    """A struct timex by the names of its fields."""
    return dict(zip(FIELDS, layout.unpack(data), strict=True))


def packed(layout: Struct, values: Timex) -> bytes:
    """The same back; what is too wide for a 32-bit program is cut off, as the kernel does."""
    modes, *rest = (values[name] for name in FIELDS)
    if layout is NARROW:
        rest = [(value + (1 << 31)) % (1 << 32) - (1 << 31) for value in rest]
    return layout.pack(modes, *rest)
