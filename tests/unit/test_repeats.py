"""Calls that a signal interrupted and the kernel restarted: done once, whatever the timing."""

from __future__ import annotations

from threading import Event, Thread
from typing import TYPE_CHECKING

import pytest
from support.waiting import wait_for

from interceptor.dispatch import KEPT_SECONDS, MEMORY, PATIENCE, REPEATS, Outcome, Repeats
from interceptor.errors import NotificationGone
from interceptor.handlers.mount import MountArgs
from interceptor.notification import Notification
from interceptor.verdict import Return

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ARGS = ("/proc", "proc")


def notification(number: int, *, tid: int = 5, ip: int = 0x400000) -> Notification:
    return Notification(number, tid, 0xC000003E, 165, ip, (1, 2, 3, 4, 5, 0))


FD = 7
KEY = Repeats.key(FD, notification(1))


class Host:
    """Counts how often it heard that a call is slow."""

    notifier_fd = -1

    def __init__(self) -> None:
        self.told = 0

    def slow(self) -> None:
        self.told += 1


def done(number: int = 1) -> Outcome:
    return Outcome(notification(number), Return(0), args=ARGS, acted=True)


def enter(repeats: Repeats, args: object = ARGS, timeout: float = 5, number: int = 1) -> Outcome | None:
    return repeats.enter(KEY, number, args, Host(), timeout)


def test_a_restarted_call_has_another_id_and_the_same_key() -> None:
    assert Repeats.key(FD, notification(1)) == Repeats.key(FD, notification(2))
    assert Repeats.key(FD, notification(1)) != Repeats.key(FD, notification(1, tid=6))
    assert Repeats.key(FD, notification(1)) != Repeats.key(FD, notification(1, ip=0x400007))


def test_an_unclaimed_result_is_found_until_it_is_delivered() -> None:
    repeats, result = Repeats(), done()
    assert enter(repeats) is None
    repeats.unclaimed(KEY, result)
    assert enter(repeats) is result
    repeats.unclaimed(KEY, result)  # the restarted call was interrupted too
    assert enter(repeats) is result
    repeats.answered(KEY)
    assert enter(repeats) is None, "from now on it is a new call"


def test_a_result_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """By then the thread may have ended, and another one of the same program may have its number."""
    repeats = Repeats()
    assert enter(repeats) is None
    monkeypatch.setattr("interceptor.dispatch.KEPT_SECONDS", 0.0)
    repeats.unclaimed(KEY, done())
    assert enter(repeats) is None


def test_a_result_is_not_for_other_arguments() -> None:
    """The same pointers, but the tracee wrote something else there before the call was restarted."""
    repeats = Repeats()
    assert enter(repeats) is None
    repeats.unclaimed(KEY, done())
    assert enter(repeats, ("/sys", "sysfs")) is None


def in_background(function: Callable[[], object]) -> tuple[Thread, list[object]]:
    results: list[object] = []
    thread = Thread(target=lambda: results.append(function()), daemon=True)
    thread.start()
    return thread, results


def test_a_restarted_call_joins_its_running_self_and_says_that_it_is_slow() -> None:
    repeats, result, host = Repeats(), done(), Host()
    assert enter(repeats) is None
    thread, results = in_background(lambda: repeats.enter(KEY, 1, ARGS, host, 30))
    wait_for(lambda: host.told, "the second call waits", within=5)
    assert results == []
    repeats.unclaimed(KEY, result)
    thread.join(5)
    assert results == [result]


def test_nobody_who_waits_slips_between_the_action_and_its_answer() -> None:
    """The action is over, its answer is on the way: only what becomes of the answer lets the second call go on."""
    repeats, result = Repeats(), done()
    assert enter(repeats) is None
    acted = Event()
    thread, results = in_background(lambda: (acted.wait(5), enter(repeats, timeout=30))[1])
    acted.set()
    thread.join(0.2)
    assert results == [], "it must not be done a second time"
    repeats.unclaimed(KEY, result)
    thread.join(5)
    assert results == [result]


def test_of_two_who_wait_the_second_waits_for_the_answer_to_the_first() -> None:
    repeats, result = Repeats(), done()
    assert enter(repeats) is None
    waiting = [in_background(lambda: enter(repeats, timeout=30)) for _ in range(2)]
    repeats.unclaimed(KEY, result)
    wait_for(lambda: any(results for _, results in waiting), "one of them goes on", within=5)
    assert sorted(len(results) for _, results in waiting) == [0, 1]
    repeats.unclaimed(KEY, result)  # that one's tracee was gone as well
    for thread, results in waiting:
        thread.join(5)
        assert results == [result]


def test_a_thread_that_has_called_again_wants_nothing_done_for_its_earlier_call() -> None:
    repeats, host = Repeats(), Host()
    repeats.begin((FD, 5), 1, host, 5)
    repeats.begin((FD, 5), 2, host, 5)
    with pytest.raises(NotificationGone):
        enter(repeats, number=1)
    assert enter(repeats, number=2) is None
    assert host.told == 0, "nobody had to wait"


def test_any_call_of_a_thread_waits_for_what_is_being_done_for_its_earlier_one() -> None:
    """Else umount2(2) would find the mount busy with the agent of an attempt that nobody wants any more."""
    repeats, host = Repeats(), Host()
    assert enter(repeats) is None
    repeats.begin((FD, 6), 2, host, 5)  # another thread does not
    thread, _ = in_background(lambda: repeats.begin((FD, 5), 3, host, 30))
    wait_for(lambda: host.told, "the next call waits", within=5)
    repeats.interrupted(KEY)
    thread.join(5)
    assert not thread.is_alive()


def test_the_mount_of_an_answered_call_is_remembered_for_its_repeat() -> None:
    repeats = Repeats()
    assert repeats.made(KEY, ARGS) == 0
    repeats.answered(KEY, ARGS, 4711)
    assert repeats.made(KEY, ARGS) == 4711
    assert repeats.made(KEY, ("/sys", "sysfs")) == 0, "the tracee wrote something else there"


def test_a_session_that_ended_is_forgotten() -> None:
    repeats = Repeats()
    repeats.begin((FD, 5), 9, Host(), 5)
    repeats.answered(KEY, ARGS, 4711)
    repeats.forget(FD)
    assert repeats.made(KEY, ARGS) == 0
    assert enter(repeats, number=1) is None, "numbers of another session begin anew"


def test_waiting_ends_with_the_deadline() -> None:
    repeats = Repeats()
    assert enter(repeats) is None
    assert enter(repeats, timeout=0.01) is None


def test_a_call_that_is_interrupted_again_and_again_is_carried_through_once() -> None:
    repeats = Repeats()
    for _ in range(PATIENCE):
        assert not repeats.carry_through(KEY)
        assert enter(repeats) is None
        repeats.interrupted(KEY)
    assert repeats.carry_through(KEY)
    assert not repeats.carry_through(KEY)


def test_an_answered_call_starts_counting_anew() -> None:
    repeats = Repeats()
    for _ in range(PATIENCE):
        repeats.interrupted(KEY)
    repeats.answered(KEY)
    assert not repeats.carry_through(KEY)


@pytest.mark.parametrize("what", ["unclaimed", "interrupted"])
def test_memory_is_bounded_and_the_oldest_goes_first(what: str) -> None:
    repeats = Repeats()
    keys = [Repeats.key(FD, notification(1, tid=tid)) for tid in range(REPEATS + 10)]
    for key in keys:
        if what == "unclaimed":
            repeats.unclaimed(key, done())
        else:
            repeats.interrupted(key)
    kept = repeats._results if what == "unclaimed" else repeats._attempts
    assert list(kept) == keys[10:]


class Shared:
    """What a session's C loop and Python both look into."""

    def __init__(self) -> None:
        self.mounts: dict[tuple[int, ...], tuple[bytes, int, float]] = {}

    def made(self, call: Sequence[int], text: bytes) -> int:
        known, mount_id, _ = self.mounts.get(tuple(call), (b"", 0, 0.0))
        return mount_id if known == text else 0

    def remember(self, call: Sequence[int], text: bytes, mount_id: int, seconds: float) -> None:
        self.mounts[tuple(call)] = (text, mount_id, seconds)


ON_DATA = MountArgs(b"none", b"/mnt", b"debugfs", 0, None)
TEXT = b"debugfs\0none\0/mnt\0"
"""In the order in which mount(2) copies them."""


def test_what_was_made_is_noted_where_c_sees_it_before_the_answer_is_sent() -> None:
    repeats, shared = Repeats(), Shared()
    repeats.share(FD, shared)
    assert enter(repeats, ON_DATA) is None
    repeats.announce(KEY, ON_DATA, 77)
    assert shared.mounts == {KEY[1:]: (TEXT, 77, MEMORY)}
    repeats.answered(KEY, ON_DATA, 77)
    assert repeats.made(KEY, ON_DATA) == 77
    assert repeats.made(KEY, MountArgs(b"none", b"/mnt", b"tracefs", 0, None)) == 0


def test_a_mount_whose_answer_nobody_heard_is_found_by_whoever_is_asked_again() -> None:
    repeats, shared = Repeats(), Shared()
    repeats.share(FD, shared)
    assert enter(repeats, ON_DATA) is None
    repeats.unclaimed(KEY, Outcome(notification(1), Return(0), args=ON_DATA, acted=True, attached=77))
    assert shared.mounts == {KEY[1:]: (TEXT, 77, KEPT_SECONDS)}
    assert enter(repeats, ON_DATA) is None, "no result that could be given for a later call of the same kind"
    repeats.forget(FD)
    assert repeats.made(KEY, ON_DATA) == 0


def test_other_results_are_kept_as_ever() -> None:
    repeats, result = Repeats(), done()
    repeats.share(FD, Shared())
    enter(repeats)
    repeats.unclaimed(KEY, result)
    assert enter(repeats) is result
