"""Numbers that mean one thing for the life of the process: what C remembers of a call may be read after a reload."""

from __future__ import annotations

from threading import Lock

LIMIT = 1 << 30
"""Below IC_LOOKED (native/notify.h)."""

_lock = Lock()
_taken = 0


def block(size: int) -> int:
    """The first of `size` numbers that nobody else has; after a billion of them they begin anew."""
    global _taken  # noqa: PLW0603 - the one counter of the process
    with _lock:
        first = _taken if _taken + size <= LIMIT else 0
        _taken = first + size
        return first
