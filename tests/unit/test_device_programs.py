"""Device programs of a container: how many there may be, what the tracee's descriptors mean. The kernel's part is faked."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from interceptor import device_programs
from interceptor.device_programs import Programs
from interceptor.native.fd import Fd

if TYPE_CHECKING:
    from collections.abc import Iterator


class Kernel:
    """Programs are files; those of which no descriptor is open are gone."""

    def __init__(self) -> None:
        self.alive: dict[int, int] = {}

    def load(self, _instructions: bytes, _name: bytes) -> Fd:
        made = Fd(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
        self.alive[100 + len(self.alive)] = made.fileno()
        return made

    def information(self, program: int, _size: int) -> bytes:
        number = max(number for number, fd in self.alive.items() if fd == program)
        return bytes(4) + number.to_bytes(4, "little")

    def by_id(self, number: int) -> Fd:
        if number not in self.alive:
            raise FileNotFoundError
        return Fd(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    made = Kernel()
    for name in ("load", "information", "by_id"):
        monkeypatch.setattr(device_programs.native, name, getattr(made, name))
    return made


def test_a_descriptor_means_its_program_until_its_last_copy_is_closed(kernel: Kernel) -> None:
    programs = Programs()
    descriptor = programs.load(bytes(16), b"a")
    copy = os.dup(descriptor)
    os.close(descriptor)
    kept = programs.of(copy)
    assert kept is not None
    os.close(copy)
    os.close(programs.load(bytes(16), b"b"))  # lets go of what is closed
    assert kept.number not in programs._kept
    assert len(kernel.alive) == 2
    programs.close()


def test_other_descriptors_mean_nothing() -> None:
    programs = Programs()
    reading, writing = os.pipe()
    with Fd(reading), Fd(writing), Fd(os.memfd_create("pipe:[1]")) as other:
        assert all(programs.of(fd) is None for fd in (reading, writing, other.fileno()))


def test_only_programs_that_the_container_knows_are_opened(kernel: Kernel) -> None:
    programs = Programs()
    kernel.alive[7] = -1
    assert programs.open(7) is None
    programs.know([7])
    opened = programs.open(7)
    assert opened is not None
    with Fd(opened):
        assert programs.of(opened) is not None
    programs.close()


@pytest.mark.parametrize("bound", ["OPEN_MAX", "PROGRAMS_MAX"])
def test_there_are_bounds(kernel: Kernel, monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    monkeypatch.setattr(device_programs, bound, 3)
    programs = Programs()
    open_ones = [programs.load(bytes(16), b"") for _ in range(3)]
    with pytest.raises(OSError, match="too many") as raised:
        programs.load(bytes(16), b"")
    assert raised.value.errno == errno.ENOMEM
    for fd in open_ones:
        os.close(fd)
    kernel.alive.clear()
    os.close(programs.load(bytes(16), b""))
    programs.close()


def test_instructions_are_bounded(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_programs, "INSTRUCTIONS_MAX", 10)
    programs = Programs()
    os.close(programs.load(bytes(64), b""))
    with pytest.raises(OSError, match="too many"):
        programs.load(bytes(64), b"")
    assert len(kernel.alive) == 1
    programs.close()
