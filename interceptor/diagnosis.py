"""What the supervisor tells of itself when something is wrong: stacks of what hangs, a dump on SIGUSR1, a report of a crash.

Stacks show code only, never the values in it: nothing that a tracee sent gets into a report but what the trace shows.
"""

from __future__ import annotations

import faulthandler
import itertools
import json
import os
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from interceptor.session import Session

log = structlog.get_logger(__name__)

HUNG_S = 10.0
"""Seconds after which a call that is being handled is reported, and a control plane that does not turn."""
REPORTS = 8
"""Files that are kept; the oldest go."""


def stack(thread: int) -> list[str]:
    """Where a thread is, innermost last; empty when it has ended."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001 - the documented way to another thread's stack
    return [line.rstrip() for line in traceback.format_stack(frame)] if frame is not None else []


def stacks() -> dict[str, list[str]]:
    """Of all threads, by name and number."""
    return {f"{thread.name} ({thread.ident})": stack(thread.ident or 0) for thread in threading.enumerate()}


class Watchdog:
    """Finds calls that are handled for longer than `HUNG_S`, and says so once for each. Agents have deadlines of their own:
    what is found here is a fault of ours, or of a kernel that does not let go of a task.
    """

    def __init__(self) -> None:
        self._told: set[tuple[int, int]] = set()

    def look(self, sessions: Iterable[Session]) -> None:
        now = time.monotonic_ns()
        hung = {
            (thread, since): session.container_id
            for session in sessions
            for thread, since in session.busy()
            if now - since > HUNG_S * 1e9
        }
        for (thread, since), container in hung.items():
            if (thread, since) not in self._told:
                log.error("a call hangs", container=container, seconds=(now - since) // 10**9, at=stack(thread))
        self._told = set(hung)


def alive() -> None:
    """To be called every second or so by the control plane: when it is not for `HUNG_S`, all stacks go to the log."""
    faulthandler.dump_traceback_later(HUNG_S, exit=False)


_numbers = itertools.count(1)
"""Two reports in one second are two files."""


def report(directory: Path, name: str, state: Callable[[], Mapping[str, Any]], why: BaseException | None = None) -> Path:
    """Writes $run/reports/NAME-TIME-PID-NUMBER.json: state, stacks, and `why`. Whatever fails in it is noted there."""
    place = directory / "reports"
    place.mkdir(mode=0o700, exist_ok=True)
    path = place / f"{name}-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}-{next(_numbers)}.json"
    content: dict[str, Any] = {"pid": os.getpid(), "argv": sys.argv, "stacks": stacks()}
    if why is not None:
        content["why"] = traceback.format_exception(why)
    try:
        content |= state()
    except RuntimeError as error:  # a table that changed while it was read
        content["state"] = f"cannot be read: {error}"
    path.write_text(json.dumps(content, indent=1, default=str), encoding="utf-8")
    for old in sorted(place.iterdir(), key=lambda file: file.stat().st_mtime)[:-REPORTS]:
        old.unlink(missing_ok=True)
    return path
