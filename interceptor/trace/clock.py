"""The time of day of what was noted in CLOCK_MONOTONIC, by C and by Python: so it keeps its order.

The difference between the two clocks changes only when somebody sets the time. It is therefore kept, and read between two
readings of CLOCK_MONOTONIC: a thread that is preempted half-way would shift all that it converts, among what others did.
"""

from __future__ import annotations

import time

CLOSE = 100_000
"""Nanoseconds between the two readings: more, and the thread was preempted."""
SET = 1_000_000
"""A difference by so many nanoseconds: the time was set."""
TRIES = 10

_kept = 0


def since_epoch() -> int:
    """CLOCK_REALTIME - CLOCK_MONOTONIC, ns. On any thread."""
    global _kept  # noqa: PLW0603 - one clock, one difference
    found = _difference()
    if abs(found - _kept) > SET:
        _kept = found
    return _kept


def _difference() -> int:
    for _ in range(TRIES):
        before, now, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        if after - before <= CLOSE:
            break
    return now - (before + after) // 2
