"""What the new mount API keeps between its calls: found by the open file, bounded, and let go."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from interceptor import contexts
from interceptor.contexts import KEPT, LINGER_S, Contexts, ContextsOf, Kept
from interceptor.native.fd import Fd
from interceptor.policy import FilesystemDecision, Mount
from interceptor.ports import Context

if TYPE_CHECKING:
    from collections.abc import Iterator

CHOICE = FilesystemDecision(Mount.EMULATE, "here")


class Tracee:
    """Its descriptors have our numbers."""

    def take(self, fd: int) -> int:
        os.fstat(fd)
        return fd


@pytest.fixture
def files() -> Iterator[list[Fd]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Fd(os.open("/", os.O_RDONLY))) for _ in range(3)]


def kept(file: Fd) -> Kept:
    return Kept(Context(b"proc", CHOICE), file.duplicate(), None, Fd(os.open("/proc/self", os.O_PATH)))


def test_a_context_is_found_by_its_open_file_and_not_by_its_number(files: list[Fd]) -> None:
    kept_one = kept(files[0])
    held = Contexts()
    held.add(kept_one)
    seen = ContextsOf(held, Tracee())
    with files[0].duplicate() as another_number:
        assert seen.find(another_number.fileno()) is kept_one.context
    assert seen.find(files[1].fileno()) is None
    assert seen.find(-1) is None
    with Fd(os.dup(0)) as closed:
        number = closed.fileno()
    assert seen.find(number) is None


def test_a_mount_is_found_by_its_id(files: list[Fd]) -> None:
    one = kept(files[0])
    held = Contexts()
    held.add(one)
    seen = ContextsOf(held, Tracee())
    assert seen.find_mount(files[1].fileno()) is None
    with open(f"/proc/self/fdinfo/{files[1].fileno()}", encoding="ascii") as info:  # noqa: PTH123
        one.mount_id = next(int(line.split()[1]) for line in info if line.startswith("mnt_id:"))
    assert seen.find_mount(files[1].fileno()) is one.context


def test_the_oldest_beyond_the_bound_is_let_go(files: list[Fd]) -> None:
    held = Contexts()
    all_of_them = [kept(files[0]) for _ in range(KEPT + 2)]
    for one in all_of_them:
        held.add(one)
    assert len(held) == KEPT
    assert held.of(all_of_them[1].context) is None
    assert held.of(all_of_them[2].context) is all_of_them[2]


def test_what_an_ended_thread_left_goes_after_a_while(files: list[Fd], monkeypatch: pytest.MonkeyPatch) -> None:
    held = Contexts()
    old, lately = kept(files[0]), kept(files[1])
    held.add(old)
    monkeypatch.setattr(contexts.native, "ended", lambda _proc: True)
    held.add(lately)
    assert len(held) == 2
    old.since -= LINGER_S + 1
    held.add(kept(files[2]))
    assert held.of(old.context) is None
    assert held.of(lately.context) is lately
    held.drop(lately.context)
    held.drop(lately.context)
    held.close()
    assert len(held) == 0
