"""Looks at the containers from time to time, also when nobody reads their files: at their tasks every five seconds, as the
kernel does for its own load average, and at their CPUs.

Threads of their own: a large container takes some milliseconds, which neither readers of leaves nor intercepted calls
should wait for.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, TypeVar

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")

log = structlog.get_logger(__name__)


class Follower(Generic[T]):
    """Does `look` to each of what `found` answers, from start() to stop()."""

    def __init__(self, found: Callable[[], Iterable[T]], look: Callable[[T], object], *, every: float, name: str) -> None:
        """`every`: seconds."""
        self._found = found
        self._look = look
        self._every = every
        self._name = name
        self._said = ""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Idempotent; returns when the thread has ended."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._every):
            for each in list(self._found()):
                try:
                    self._look(each)
                except (OSError, ValueError) as error:  # a container may go away at any moment
                    self._say(str(error))

    def _say(self, error: str) -> None:
        """Not the same again and again."""
        if error != self._said:
            self._said = error
            log.warning("a container cannot be followed", what=self._name, error=error)
