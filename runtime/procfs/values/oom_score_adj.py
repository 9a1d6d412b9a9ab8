"""/proc/PID/oom_score_adj inside a container: what the kernel accepts, what is really set, what is shown.

Lowering needs CAP_SYS_RESOURCE of the host (fs/proc/base.c, __set_oom_adj()), which no container has, but inner runc,
sshd and systemd units lower it and some give up. So a value below the container's floor, which is what its init was
started with, is set to the floor: protection from the OOM killer inside, never before anything outside. It is shown as
it was written.

Source: proc(5), "/proc/pid/oom_score_adj"; Linux fs/proc/base.c, oom_score_adj_write(); include/uapi/linux/oom.h.
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from typing import Final

OOM_SCORE_ADJ_MIN: Final = -1000
OOM_SCORE_ADJ_MAX: Final = 1000

_BUFFER: Final = 13
"""PROC_NUMBUF: of a longer write the kernel looks at this much, less one."""
_NUMBER: Final = re.compile(rb"([-+]?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)")


@dataclass(frozen=True, slots=True)
class Adjustment:
    """What follows from a write."""

    shown: int
    real: int
    """What is to be written to the host's file."""


def parse(written: bytes) -> int:
    """The number in a write; OSError(EINVAL), or ERANGE for what is no `int`, as the kernel."""
    text = written[: _BUFFER - 1].partition(b"\0")[0]
    match = _NUMBER.fullmatch(text.strip(b" \t\n\v\f\r\xa0"))
    if match is None:
        raise OSError(errno.EINVAL, f"{written[:32]!r} is not an integer")
    digits = match[2]
    base = 16 if digits[:2].lower() == b"0x" else 8 if digits.startswith(b"0") else 10
    value = int(digits, base) * (-1 if match[1] == b"-" else 1)
    if not -(1 << 31) <= value < 1 << 31:
        raise OSError(errno.ERANGE, f"{value} is not an integer of 32 bits")
    if not OOM_SCORE_ADJ_MIN <= value <= OOM_SCORE_ADJ_MAX:
        raise OSError(errno.EINVAL, f"{value} is not an oom_score_adj: {OOM_SCORE_ADJ_MIN} to {OOM_SCORE_ADJ_MAX}")
    return value


def adjust(written: bytes, floor: int) -> Adjustment:
    """`floor` is what the container's init was started with."""
    value = parse(written)
    return Adjustment(shown=value, real=max(value, floor))


def inherited(shown: int, real: int, floor: int) -> int:
    """What a process shows that has `real` on the host, and whose parent last wrote `shown`: the wish lives on in
    children as the kernel's value does, until somebody raises the real one.
    """
    return shown if shown < floor and real == floor else real
