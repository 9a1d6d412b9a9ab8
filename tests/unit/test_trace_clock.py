"""The time of day of what was noted in CLOCK_MONOTONIC."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from interceptor.trace import clock

if TYPE_CHECKING:
    from collections.abc import Iterator

EPOCH = 1_790_000_000_000_000_000


class FakeTime:
    """Both clocks; each reading takes 10 ns, and the first ones as much longer as `preempted` says."""

    def __init__(self) -> None:
        self.now = 0
        self.set_by = 0
        self.preempted: list[int] = []

    def _pass(self) -> None:
        self.now += 10 + (self.preempted.pop(0) if self.preempted else 0)

    def monotonic_ns(self) -> int:
        self._pass()
        return self.now

    def time_ns(self) -> int:
        self._pass()
        return EPOCH + self.set_by + self.now


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTime]:
    fake = FakeTime()
    monkeypatch.setattr(clock, "time", fake)
    monkeypatch.setattr(clock, "_kept", 0)
    return fake


def test_who_is_preempted_between_the_readings_reads_again(times: FakeTime) -> None:
    times.preempted = [0, 0, 5_000_000, 0, 7_000_000, 0]
    assert abs(clock.since_epoch() - EPOCH) < clock.CLOSE


def test_the_difference_stays_until_the_time_is_set(times: FakeTime) -> None:
    first = clock.since_epoch()
    times.preempted = [0, 90_000, 0]
    assert clock.since_epoch() == first
    times.set_by = -3_600_000_000_000
    assert abs(clock.since_epoch() - (EPOCH + times.set_by)) < clock.CLOSE
