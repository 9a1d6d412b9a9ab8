"""How many calls a second a container may make: a burst of a second's worth at once, the rest at its rate."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import pytest
from support import tracees
from support.tracees import GETPPID

from interceptor.args import Arch
from interceptor.native.notifier import Notifier, Pace, Table
from interceptor.stanza import Action, TableRow

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

RATE = 100
TABLE = Table({Arch.X86_64: [TableRow(GETPPID, (), Action.RETURN, 7, "r:1")]})


class Served:
    """Tracees whose calls the table answers, at one pace."""

    def __init__(self, count: int, pace: Pace) -> None:
        self.tracees = [tracees.Watched() for _ in range(count)]
        self.notifiers = [Notifier(tracee.fd, TABLE, poll_first=False, pace=pace) for tracee in self.tracees]
        self.threads = [threading.Thread(target=self._serve, args=(notifier,)) for notifier in self.notifiers]
        for thread in self.threads:
            thread.start()

    def _serve(self, notifier: Notifier) -> None:
        receiver = notifier.receiver()
        receiver.next(receiver.c, 0, 0, 0, 0, -1, receiver.out)  # until its tracee is gone

    def seconds(self, calls: int) -> float:
        """What so many calls take, made by the tracees in turn."""
        before = time.monotonic()
        for number in range(calls):
            tracee = self.tracees[number % len(self.tracees)]
            tracee.call(GETPPID)
            assert tracee.result() == 7
        return time.monotonic() - before

    def close(self) -> None:
        for tracee in self.tracees:
            tracee.close()
        for thread, notifier in zip(self.threads, self.notifiers, strict=True):
            thread.join()
            notifier.close()


@pytest.fixture(params=[1, 2], ids=["one session", "two sessions"])
def served(request: pytest.FixtureRequest) -> Iterator[tuple[Served, Pace]]:
    pace = Pace(RATE)
    made = Served(request.param, pace)
    try:
        yield made, pace
    finally:
        made.close()


def test_a_seconds_worth_comes_at_once_and_the_rest_at_the_rate(served: tuple[Served, Pace]) -> None:
    made, pace = served
    assert made.seconds(RATE + RATE // 2) > 0.45, "those beyond the first second's worth had to wait for their time"
    pace.allow(0)
    due = pace.c.due
    made.seconds(RATE)
    assert pace.c.due == due, "without a bound nobody counts"
