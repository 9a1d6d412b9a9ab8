"""Kills the supervisor again and again while something else goes on."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from interceptor.errors import InterceptorError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.whole import Host


@contextmanager
def killing(host: Host, every: float) -> Iterator[list[int]]:
    """SIGKILL to the supervisor every so many seconds; yields the pids that it hit."""
    killed: list[int] = []
    over = threading.Event()

    def kill() -> None:
        while not over.wait(every):
            try:
                pid = host.supervisor_pid()
                os.kill(pid, signal.SIGKILL)
            except (InterceptorError, OSError):  # it had just died, or not come up
                continue
            killed.append(pid)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()
