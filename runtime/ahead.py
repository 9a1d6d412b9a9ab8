"""What can be done before it is asked for: on a thread of its own, while somebody else works."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack


class Undone(Protocol):
    """A result that somebody has to give back."""

    @property
    def undo(self) -> ExitStack: ...


T = TypeVar("T", bound=Undone)


class Ahead(Generic[T]):
    """Calls `work` once: as soon as `start` was called, else when somebody wants the result."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._result: T | None = None
        self._error: BaseException | None = None
        self._begun = False
        self._over = threading.Event()

    def start(self) -> None:
        """Without threads (RLIMIT_NPROC, pids.max) it is done later."""
        try:
            threading.Thread(target=self._run, name="ahead", daemon=True).start()
        except RuntimeError:
            return

    def result(self) -> T:
        """Waits for it; raises what the work raised. From now on it is the caller's to undo."""
        self._run()
        self._over.wait()
        result, self._result = self._result, None
        if result is None:
            raise self._error or RuntimeError("the result was taken, or discarded")
        return result

    def discard(self) -> None:
        """Nobody wants it any more: undoes what was done, and does nothing that has not begun. Idempotent."""
        with self._lock:
            begun, self._begun = self._begun, True
        if begun:
            self._over.wait()
            result, self._result = self._result, None
            if result is not None:
                result.undo.close()
        else:
            self._over.set()

    def _run(self) -> None:
        with self._lock:
            if self._begun:
                return
            self._begun = True
        try:
            self._result = self._work()
        except BaseException as error:  # noqa: BLE001 - it is who asks for the result that gets it
            self._error = error
        finally:
            self._over.set()
