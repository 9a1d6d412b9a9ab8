"""Looks at the containers' tasks every five seconds, as the kernel does for its own load average.

A thread of its own: a large container takes some milliseconds, which neither readers of leaves nor intercepted calls
should wait for.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

import structlog

from runtime.procfs.values import loadavg

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from runtime.procfs.leaf import View

log = structlog.get_logger(__name__)

_SECONDS: Final = loadavg.PERIOD / 1_000_000_000


class Follower:
    """Follows the views that `views` answers, from start() to stop()."""

    def __init__(self, views: Callable[[], Iterable[View]], *, every: float = _SECONDS) -> None:
        self._views = views
        self._every = every
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Idempotent; returns when the thread has ended."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._every):
            for view in list(self._views()):
                try:
                    loadavg.load(view)
                except (OSError, ValueError) as error:  # a container may go away at any moment
                    log.warning("a container's load cannot be followed", error=str(error))
