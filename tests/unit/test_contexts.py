"""What the new mount API keeps between its calls: found by the open file, bounded, and let go."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import asdict
from types import SimpleNamespace
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


class Keeper:
    """Of one process."""

    def __init__(self) -> None:
        self.held: dict[str, Fd] = {}
        self.given: list[Fd] = []

    def keep(self, kind: str, key: str, fd: int, _note: str = "") -> None:
        assert kind == contexts.CONTEXT
        self.held[key] = Fd(os.dup(fd))

    def drop(self, _kind: str, key: str) -> None:
        self.held.pop(key).close()

    def inherited(self, _kind: str) -> dict[str, SimpleNamespace]:
        return {key: SimpleNamespace(fd=os.dup(fd.fileno())) for key, fd in self.held.items()}


def following(keeper: Keeper, dead: Contexts) -> Contexts:
    """What the next supervisor has, when that one has died."""
    for one in dead._kept:
        if one.parcel is not None:
            one.parcel._box.close()
    held = Contexts("c1", keeper)  # type: ignore[arg-type]
    contexts.inherit(keeper, lambda container: held if container == "c1" else None)  # type: ignore[arg-type]
    return held


def test_the_next_supervisor_knows_what_this_one_knew(files: list[Fd]) -> None:
    keeper = Keeper()
    held = Contexts("c1", keeper)  # type: ignore[arg-type]
    one = Kept(Context(b"fuse.\xff", FilesystemDecision(Mount.DENY, "x:3", 13)), files[0].duplicate(), files[1].duplicate(),
               Fd(os.open("/proc/self", os.O_PATH)))  # fmt: skip
    held.add(one)
    held.hold(one, files[2].duplicate(), 77)
    one.context.refusal, one.context.given = 22, True
    held.note(one.context)
    assert len(keeper.held) == 1
    later = following(keeper, held)
    found = later.behind(files[0].fileno())
    assert found is not None
    assert asdict(found) == asdict(one.context)
    assert found.mounted
    assert later.with_mount(77) is found
    kept_one = later.of(found)
    assert kept_one is not None
    assert kept_one.twin is not None
    assert kept_one.mount is not None
    assert contexts.native.same_file(kept_one.twin.fileno(), files[1].fileno())
    assert contexts.native.same_file(kept_one.mount.fileno(), files[2].fileno())
    later.drop(found)
    assert not keeper.held
    assert len(following(keeper, later)) == 0


def test_the_next_supervisor_lets_the_oldest_go_first(files: list[Fd]) -> None:
    keeper = Keeper()
    held = Contexts("c1", keeper)  # type: ignore[arg-type]
    for file in (files[0],) * 2 + (files[1],) * (KEPT - 2):
        held.add(kept(file))
    later = following(keeper, held)
    later.add(kept(files[2]))
    later.add(kept(files[2]))
    assert len(later) == len(keeper.held) == KEPT
    assert later.behind(files[0].fileno()) is None
    assert later.behind(files[1].fileno()) is not None
    later.close()
    assert not keeper.held


def test_what_is_of_a_container_that_is_gone_is_let_go(files: list[Fd]) -> None:
    keeper = Keeper()
    held = Contexts("another", keeper)  # type: ignore[arg-type]
    held.add(kept(files[0]))
    assert len(following(keeper, held)) == 0
    assert not keeper.held


def test_what_takes_too_long_to_say_is_not_kept(files: list[Fd]) -> None:
    keeper = Keeper()
    held = Contexts("c1", keeper)  # type: ignore[arg-type]
    long = Kept(Context(b"fuse." + b"\xff" * 2000, CHOICE), files[0].duplicate(), None, Fd(os.open("/proc/self", os.O_PATH)))
    held.add(long)
    assert not keeper.held
    assert held.behind(files[0].fileno()) is long.context


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
