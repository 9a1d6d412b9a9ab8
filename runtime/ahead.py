"""What can be done before it is asked for: on another thread, while somebody else works."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor, Future
    from contextlib import ExitStack


class Undone(Protocol):
    """A result that somebody has to give back."""

    @property
    def undo(self) -> ExitStack: ...


T = TypeVar("T", bound=Undone)


class Ahead(Generic[T]):
    """Calls `work` once: on a thread of `executor` after `start`, or when somebody wants the result and it has not begun.

    Who starts it may come later than who wants the result, or gives it up: then there is nothing to be started any more.
    """

    def __init__(self, executor: Executor, work: Callable[[], T]) -> None:
        self._executor = executor
        self._work = work
        self._future: Future[T] | None = None
        self._lock = threading.Lock()
        self._closed = False

    def start(self) -> None:
        """Without threads (RLIMIT_NPROC, pids.max) it is done later."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            try:
                self._future = self._executor.submit(self._work)
            except RuntimeError:
                return

    def result(self) -> T:
        """Waits for it; raises what the work raised. From now on it is the caller's to undo. Asked again, it is done again."""
        future = self._close()
        return self._work() if future is None or future.cancel() else future.result()

    def discard(self) -> None:
        """Nobody wants it any more: undoes what was done, and does nothing that has not begun. Idempotent."""
        future = self._close()
        if future is not None and not future.cancel() and future.exception() is None:
            future.result().undo.close()

    def _close(self) -> Future[T] | None:
        """Nobody else may start it, or has what was started."""
        with self._lock:
            self._closed = True
            future, self._future = self._future, None
            return future
