"""sysinfo(2) and sched_getaffinity(2): what a container is shown of the machine by calls."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest
from support.fakes import Asked, FakeTracee, ask

from interceptor.handlers.sched_getaffinity import SchedGetaffinityArgs
from interceptor.handlers.sysinfo import SysinfoArgs
from interceptor.verdict import Continue, Return

if TYPE_CHECKING:
    from collections.abc import Sequence

    from interceptor.container import Container
    from interceptor.ports import Tracee

MASK = 0x7000


class FakeShown:
    """ports.Shown: half of the CPUs."""

    def __init__(self, cpus: Sequence[int] | None = (0, 1)) -> None:
        self._cpus = cpus

    def sysinfo(self, _container: Container, tracee: Tracee) -> bytes | None:
        return None if self._cpus is None else bytes(112 if tracee.long_bits == 64 else 64)

    def cpus(self, _container: Container, _tracee: Tracee, _allowed: frozenset[int]) -> Sequence[int] | None:
        return self._cpus


def affinity(tracee: FakeTracee, shown: FakeShown | None = None, *, pid: int = 0, length: int = 128) -> Asked:
    return ask("sched_getaffinity", SchedGetaffinityArgs(pid, length, MASK), tracee=tracee, shown=shown or FakeShown())


def test_sysinfo_is_filled_in_by_the_width_of_the_callers_long() -> None:
    for bits, size in ((64, 112), (32, 64)):
        tracee = FakeTracee(long_bits=bits)
        assert ask("sysinfo", SysinfoArgs(0x1000), tracee=tracee, shown=FakeShown()).verdict == Return()
        assert tracee.memory == {0x1000: bytes(size)}


def test_a_bad_address_is_efault() -> None:
    with pytest.raises(OSError, match="unmapped") as refused:
        ask("sysinfo", SysinfoArgs(0), shown=FakeShown())
    assert refused.value.errno == errno.EFAULT


def test_without_a_view_the_kernel_answers() -> None:
    for shown in (None, FakeShown(None)):
        assert isinstance(ask("sysinfo", SysinfoArgs(0x1000), shown=shown).verdict, Continue)
        asked = ask("sched_getaffinity", SchedGetaffinityArgs(0, 128, MASK), shown=shown)
        assert isinstance(asked.verdict, Continue)


@pytest.mark.parametrize("pid", [0, 5])
def test_a_task_sees_of_its_own_cpus_those_that_are_shown(pid: int) -> None:
    tracee = FakeTracee(tid_inside=5)
    assert affinity(tracee, pid=pid).verdict == Return(32), "as many bytes as the kernel fills in"
    assert tracee.memory == {MASK: b"\x03" + bytes(31)}


def test_a_short_buffer_is_filled_as_far_as_it_goes() -> None:
    tracee = FakeTracee()
    assert affinity(tracee, length=8).verdict == Return(8)
    assert tracee.memory == {MASK: b"\x03" + bytes(7)}


@pytest.mark.parametrize("length", [0, 1, 4, 12, 127])
def test_a_length_that_the_kernel_refuses_is_the_kernels(length: int) -> None:
    tracee = FakeTracee()
    assert isinstance(affinity(tracee, length=length).verdict, Continue)
    assert not tracee.memory


def test_other_tasks_and_unnarrowed_masks_are_the_kernels() -> None:
    tracee = FakeTracee()
    assert isinstance(affinity(tracee, pid=6).verdict, Continue)
    assert isinstance(affinity(tracee, FakeShown(range(8))).verdict, Continue)
    assert not tracee.memory
