"""Waiting for a condition, with a deadline and an explanation."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

INTERVAL = 0.05
"""Seconds between two looks: long beside what a look costs, short beside what anybody waits for."""


PATIENCE = float(os.environ.get("INTERCEPTOR_TEST_PATIENCE", "1"))
"""By how much deadlines are longer: for machines that are emulated."""


class DeadlineError(AssertionError):
    """The deadline passed; the message says what was waited for and what the last look gave."""


def wait_for(look: Callable[[], T], what: str, *, within: float) -> T:
    """The first true value of `look()`, tried for `within` seconds."""
    within *= PATIENCE
    deadline = time.monotonic() + within
    while not (found := look()):
        if time.monotonic() > deadline:
            raise DeadlineError(f"{what}: not within {within:g} s; last seen: {found!r}")
        time.sleep(INTERVAL)
    return found
