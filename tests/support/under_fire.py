"""Kills the supervisor, or agents, again and again while something else goes on."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from support.process import processes

from interceptor.errors import InterceptorError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.whole import Host


class Killed(list[int]):
    """The pids that were hit, and how many seconds after each the next one answered."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []


@contextmanager
def meanwhile(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Has `work` go on, on a thread of its own, until the event that it is given says that the block is over."""
    over = threading.Event()
    thread = threading.Thread(target=work, args=(over,))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def killing(host: Host, every: float) -> Iterator[Killed]:
    """SIGKILL to the supervisor every so many seconds."""
    killed = Killed()

    def kill(over: threading.Event) -> None:
        while not over.wait(every):
            try:
                pid = host.supervisor_pid()
                os.kill(pid, signal.SIGKILL)
                begin = time.monotonic()
                while _answering(host) in (pid, None):
                    over.wait(0.01)
            except (InterceptorError, OSError):  # it had just died
                continue
            killed.append(pid)
            killed.seconds.append(time.monotonic() - begin)

    with meanwhile(kill):
        yield killed


def agents(host: Host) -> list[int]:
    """Those that live."""
    supervisor = host.supervisor_pid()
    return [p.pid for p in processes() if p.parent == supervisor and p.comm == "agent" and p.alive()]


@contextmanager
def killing_agents(host: Host) -> Iterator[list[int]]:
    """SIGKILL to one agent after the other, a few hundredths of a second apart; their pids."""
    killed: list[int] = []
    chance = random.Random(1)  # noqa: S311 - no secret

    def kill(over: threading.Event) -> None:
        while not over.wait(chance.uniform(0.005, 0.04)):
            with suppress(IndexError, ProcessLookupError):
                pid = chance.choice(agents(host))
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    with meanwhile(kill):
        yield killed


@contextmanager
def killing_keepers(host: Host, every: float) -> Iterator[list[int]]:
    """SIGKILL to the keeper so many seconds after it has come; the pids of all."""
    killed: list[int] = []

    def kill(over: threading.Event) -> None:
        while not over.wait(every):
            pid = keeper(host)
            if pid is not None and pid not in killed[-1:]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    with meanwhile(kill):
        yield killed


def keeper(host: Host) -> int | None:
    """Nobody at the moment at which one takes another's place."""
    written = (host.directory / "run/keeper.lock").read_text()
    return int(written) if written.strip() else None


def _answering(host: Host) -> int | None:
    try:
        return host.supervisor_pid()
    except (InterceptorError, OSError):
        return None
