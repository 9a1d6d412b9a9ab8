"""What is made ahead is made once and given back once, in whatever order those come who begin, want or give it up."""

from __future__ import annotations

import threading
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from runtime.ahead import Ahead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass
class Thing:
    undo: ExitStack


class Work:
    """Makes things, and counts those that nobody has given back."""

    def __init__(self) -> None:
        self.begun = 0
        self.left = 0

    def __call__(self) -> Thing:
        self.begun += 1
        self.left += 1
        undo = ExitStack()
        undo.callback(self._give_back)
        return Thing(undo)

    def _give_back(self) -> None:
        self.left -= 1


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture
def work() -> Work:
    return Work()


class Interrupted(Executor):
    """An executor in whose submit() something else happens, as where it waits for a new thread."""

    def __init__(self, pool: ThreadPoolExecutor, happens: Callable[[], None]) -> None:
        self._pool = pool
        self._happens = happens

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = self._pool.submit(fn, *args, **kwargs)
        other = threading.Thread(target=self._happens)
        other.start()
        other.join(0.2)  # it may have to wait for us
        return future


def test_wanted_after_it_began(pool: ThreadPoolExecutor, work: Work) -> None:
    ahead = Ahead(pool, work)
    ahead.start()
    ahead.start()
    ahead.result().undo.close()
    assert (work.begun, work.left) == (1, 0)


@pytest.mark.parametrize("again", [1, 2])
def test_begun_after_it_was_wanted(pool: ThreadPoolExecutor, work: Work, again: int) -> None:
    ahead = Ahead(pool, work)
    found = ahead.result()
    for _ in range(again):
        ahead.start()
    found.undo.close()
    ahead.discard()
    pool.shutdown()
    assert (work.begun, work.left) == (1, 0)


def test_begun_after_it_was_given_up(pool: ThreadPoolExecutor, work: Work) -> None:
    ahead = Ahead(pool, work)
    ahead.discard()
    ahead.start()
    pool.shutdown()
    assert work.begun == 0


def test_wanted_while_it_begins(pool: ThreadPoolExecutor, work: Work) -> None:
    found: list[Thing] = []
    wanted = threading.Event()

    def want() -> None:
        found.append(ahead.result())
        wanted.set()

    ahead = Ahead(Interrupted(pool, want), work)
    ahead.start()
    assert wanted.wait(10)
    found[0].undo.close()
    ahead.discard()
    pool.shutdown()
    assert (work.begun, work.left) == (1, 0)


def test_given_up_while_it_begins(pool: ThreadPoolExecutor, work: Work) -> None:
    given_up = threading.Event()

    def give_up() -> None:
        ahead.discard()
        given_up.set()

    ahead = Ahead(Interrupted(pool, give_up), work)
    ahead.start()
    assert given_up.wait(10)
    pool.shutdown()
    assert work.left == 0


def test_what_fails_is_raised_to_who_wants_it_and_done_again(pool: ThreadPoolExecutor, work: Work) -> None:
    failures = [OSError("too early")]

    def fails_once() -> Thing:
        if failures:
            raise failures.pop()
        return work()

    ahead = Ahead(pool, fails_once)
    ahead.start()
    with pytest.raises(OSError, match="too early"):
        ahead.result()
    ahead.result().undo.close()
    assert (work.begun, work.left) == (1, 0)
