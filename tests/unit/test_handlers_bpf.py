"""Device programs: what is lent of bpf(2), and of what a program may be made."""

from __future__ import annotations

import errno
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fakes import Asked, FakeDevicePrograms, FakeTracee, ask
from support.sources import REPOSITORY

from interceptor import registry
from interceptor.handlers.bpf import INFO_MAX, BpfArgs, Command, first_odd
from interceptor.stanza import outside, reach
from interceptor.verdict import AddFd, Continue, Fail, Return

ATTR, INSNS, IDS, INFO = 0x1000, 0x2000, 0x3000, 0x4000
PROGRAM, OTHER, CGROUP, FOREIGN = 5, 6, 7, 8
MOV_1, EXIT = bytes.fromhex("b700000001000000"), bytes.fromhex("9500000000000000")
ALLOWS = MOV_1 + EXIT
FILTERS = sorted((REPOSITORY / "tests/data/device_filters").iterdir())


def insn(code: int, to: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("=BBhi", code, to | source << 4, offset, immediate)


class Memory(FakeTracee):
    def read(self, address: int, length: int) -> bytes:
        data = self.memory[address][:length]
        if len(data) < length:
            raise OSError(errno.EFAULT, "unreadable")
        return data

    def write(self, address: int, data: bytes) -> None:
        base = max((at for at in self.memory if at <= address), default=None)
        if base is None:
            raise OSError(errno.EFAULT, "unwritable")
        old = self.memory[base].ljust(address - base + len(data), b"\0")
        self.memory[base] = old[: address - base] + data + old[address - base + len(data) :]


def programs(**facts: Any) -> FakeDevicePrograms:
    return FakeDevicePrograms(programs={PROGRAM, OTHER}, cgroups={CGROUP: [31, 32]}, known={31}, **facts)


def bpf(
    command: Command, attr: bytes, *, of: FakeDevicePrograms | None = None, tracee: Memory | None = None, **memory: bytes
) -> Asked:
    tracee = tracee or Memory()
    tracee.memory = {ATTR: attr.ljust(144, b"\0"), IDS: bytes(64), **{int(at, 0): data for at, data in memory.items()}}
    return ask("bpf", BpfArgs(command, ATTR, 144), tracee=tracee, device_programs=of or programs())


def load(instructions: bytes = ALLOWS, *, kind: int = 15, flags: int = 0, count: int = -1, interface: int = 0) -> Asked:
    count = len(instructions) // 8 if count < 0 else count
    attr = struct.pack("=2I2Q2IQ2I16sI", kind, count, INSNS, 0, 0, 0, 0, 0, flags, b"devices\0x", interface)
    return bpf(Command.BPF_PROG_LOAD, attr, **{hex(INSNS): instructions})


def change(command: Command, cgroup: int, program: int, *, kind: int = 6, flags: int = 2, old: int = 0) -> Asked:
    return bpf(command, struct.pack("=5I", cgroup, program, kind, flags, old))


def test_the_filter_sends_nothing_but_what_is_lent() -> None:
    tests = reach(registry.load()["bpf"])
    sent = [command for command in range(64) if not outside(tests, (command | 0xDEAD << 32, 0, 0, 0, 0, 0))]
    assert sent == [5, 8, 9, 13, 15, 16]


def test_a_device_program_is_loaded_and_a_descriptor_given() -> None:
    asked = load()
    assert asked.verdict == AddFd(80, cloexec=True)
    assert asked.reach.device_programs.done == [("load", ALLOWS, b"devices")]


@pytest.mark.parametrize(("asked", "answer"), [
    (load(kind=8), None), (load(flags=1), errno.EINVAL), (load(interface=1), errno.EINVAL), (load(b""), errno.E2BIG),
    (load(count=4097), errno.E2BIG), (load(EXIT + insn(0x85)), errno.EINVAL),
])  # fmt: skip
def test_what_is_none_is_not_loaded(asked: Asked, answer: int | None) -> None:
    assert asked.verdict == Fail(answer) if answer else isinstance(asked.verdict, Continue)
    assert not asked.reach.device_programs.done


def test_attach_detach_and_replace() -> None:
    for command, flags, old, done in (
        (Command.BPF_PROG_ATTACH, 2, 0, ("attach", PROGRAM, CGROUP, 2, None)),
        (Command.BPF_PROG_ATTACH, 6, OTHER, ("attach", PROGRAM, CGROUP, 6, OTHER)),
        (Command.BPF_PROG_DETACH, 0, 0, ("detach", PROGRAM, CGROUP)),
    ):
        asked = change(command, CGROUP, PROGRAM, flags=flags, old=old)
        assert asked.verdict == Return()
        assert asked.reach.device_programs.done == [done]


@pytest.mark.parametrize("command", [Command.BPF_PROG_ATTACH, Command.BPF_PROG_DETACH])
def test_a_cgroup_that_is_not_the_containers_is_refused_and_other_programs_are_the_kernels(command: Command) -> None:
    with pytest.raises(OSError, match="own cgroup"):
        change(command, FOREIGN, PROGRAM, flags=0)
    assert isinstance(change(command, CGROUP, 99, flags=0).verdict, Continue)
    assert isinstance(change(command, CGROUP, PROGRAM, kind=0, flags=0).verdict, Continue)
    assert change(command, CGROUP, PROGRAM, flags=64).verdict == Fail(errno.EINVAL)


def test_what_is_replaced_must_be_a_program_but_the_cgroup_is_asked_first() -> None:
    """As runc finds out whether the kernel knows the flag."""
    with pytest.raises(OSError, match="own cgroup"):
        change(Command.BPF_PROG_ATTACH, FOREIGN, PROGRAM, flags=6)
    with pytest.raises(OSError, match="no such descriptor"):
        change(Command.BPF_PROG_ATTACH, CGROUP, PROGRAM, flags=6, old=99)


@pytest.mark.parametrize(
    ("room", "answer", "told"), [(8, Return(), (31, 32)), (1, Fail(errno.ENOSPC), (31, 0)), (0, Return(), (0, 0))]
)
def test_query_tells_flags_number_and_ids(room: int, answer: object, told: tuple[int, int]) -> None:
    asked = bpf(Command.BPF_PROG_QUERY, struct.pack("=4IQI", CGROUP, 6, 0, 0, IDS, room))
    assert asked.verdict == answer
    memory = asked.reach.tracee.memory
    assert struct.unpack_from("=4IQI", memory[ATTR]) == (CGROUP, 6, 0, 2, IDS, 2)
    assert struct.unpack_from("=2I", memory[IDS]) == told


def test_queries_of_others_are_the_kernels() -> None:
    for kind, how in ((0, 0), (6, 1)):
        assert isinstance(
            bpf(Command.BPF_PROG_QUERY, struct.pack("=4IQI", CGROUP, kind, how, 0, IDS, 8)).verdict, Continue
        )


def test_a_descriptor_by_number_for_what_the_container_was_told_of() -> None:
    assert bpf(Command.BPF_PROG_GET_FD_BY_ID, struct.pack("=I", 31)).verdict == AddFd(81)
    assert isinstance(bpf(Command.BPF_PROG_GET_FD_BY_ID, struct.pack("=I", 32)).verdict, Continue)


def test_information_is_as_long_as_asked_for_and_tells_no_lengths() -> None:
    def ask_for(size: int, info: bytes) -> Asked:
        return bpf(Command.BPF_OBJ_GET_INFO_BY_FD, struct.pack("=2IQ", PROGRAM, size, INFO), **{hex(INFO): info})

    asked = ask_for(40, bytes(300))
    assert asked.verdict == Return()
    assert asked.reach.tracee.memory[INFO] == bytes([PROGRAM]) * 16 + bytes(8) + bytes([PROGRAM]) * 16 + bytes(260)
    longer = ask_for(300, bytes(300))
    assert struct.unpack_from("=2I", longer.reach.tracee.memory[ATTR]) == (PROGRAM, INFO_MAX)
    assert ask_for(300, bytes(299) + b"x").verdict == Fail(errno.E2BIG)
    assert ask_for(5000, bytes(5000)).verdict == Fail(errno.E2BIG)


def test_nested_user_namespaces_and_containers_without_a_cgroup_get_the_kernels_answer() -> None:
    nested = bpf(Command.BPF_PROG_LOAD, b"", tracee=Memory(in_nested_user_namespace=True))
    assert isinstance(nested.verdict, Continue)
    assert isinstance(bpf(Command.BPF_PROG_LOAD, b"", of=programs(supported=False)).verdict, Continue)


# What a program may be made of


@pytest.mark.parametrize("path", FILTERS, ids=lambda path: path.stem)
def test_the_filters_of_runtimes_are_made_of_it(path: Any) -> None:
    assert first_odd(bytes.fromhex(path.read_text())) is None


LDX, AND_R2, JNE_R2 = insn(0x61, 2, 1), insn(0x54, 2, 0, 0, 0xFFFF), insn(0x55, 2, 0, 1, 1)
MOV_R1_R3 = insn(0xBC, 1, 3)


@pytest.mark.parametrize("program", [
    LDX + AND_R2 + JNE_R2 + MOV_1 + EXIT,
    insn(0x69, 2, 1, 0) + insn(0x71, 3, 1, 11) + EXIT,
    MOV_R1_R3 + insn(0x54, 1, 0, 0, 2) + insn(0x5D, 1, 3, 1) + MOV_1 + EXIT,
    insn(0x05, 0, 0, 1) + MOV_1 + EXIT,
])  # fmt: skip
def test_plain_programs(program: bytes) -> None:
    assert first_odd(program) is None


@pytest.mark.parametrize(("program", "odd"), [
    (insn(0x85, 0, 0, 0, 5) + EXIT, 0),                       # a helper
    (insn(0x85, 0, 1, 0, 1) + EXIT, 0),                       # a function of its own
    (insn(0x18, 1, 1) + insn(0) + EXIT, 0),                   # a map
    (insn(0x7A, 10, 0, -8) + EXIT, 0),                        # a store
    (insn(0x79, 2, 1) + EXIT, 0),                             # eight bytes
    (insn(0x61, 2, 1, 12) + EXIT, 0),                         # beyond the context
    (insn(0x61, 2, 2) + EXIT, 0),                             # through another register
    (insn(0x61, 1, 1) + EXIT, 0),                             # into the context's
    (insn(0x61, 10, 1) + EXIT, 0),
    (insn(0xBF, 2, 1) + EXIT, 0),                             # the context's address, copied
    (insn(0xBF, 2, 10) + EXIT, 0),
    (insn(0x1D, 2, 1, 1) + MOV_1 + EXIT, 0),                  # compared
    (insn(0x15, 1, 0, 1) + MOV_1 + EXIT, 0),
    (insn(0x57, 1, 0, 0, 1) + EXIT, 0),                       # changed
    (insn(0x07, 2, 0, 0, 1) + EXIT, 0),                       # an addition
    (insn(0x3F, 2, 3) + EXIT, 0),                             # a division
    (MOV_1 + insn(0x55, 0, 0, -2) + EXIT, 1),                 # a loop
    (insn(0x05, 0, 0, 5) + EXIT, 0),                          # a jump out
    (JNE_R2 + MOV_R1_R3 + insn(0x54, 1, 0, 0, 2) + EXIT, 2),  # r1: a number on one way only
    (insn(0x57, 2, 0, 1, 1) + EXIT, 0),                       # what has another meaning in newer kernels
    (insn(0xBF, 2, 3, 8) + EXIT, 0),
    (insn(0x95, 0, 0, 0, 1), 0),
])  # fmt: skip
def test_odd_ones(program: bytes, odd: int) -> None:
    assert first_odd(program) == odd


@given(
    st.lists(
        st.sampled_from([LDX, AND_R2, JNE_R2, MOV_R1_R3, MOV_1, EXIT]) | st.binary(min_size=8, max_size=8), max_size=12
    )
)
def test_whatever_passes_is_made_of_loads_of_the_context_numbers_and_jumps_forwards(listed: list[bytes]) -> None:
    if first_odd(b"".join(listed)) is not None:
        return
    for index, each in enumerate(listed):
        code, registers, offset, _ = struct.unpack("=BBhi", each)
        assert code & 7 in (1, 4, 5, 6, 7)
        assert registers & 15 < 10
        assert registers >> 4 < 10
        assert code != 0x85
        if code & 7 in (5, 6) and code != 0x95:
            assert 0 <= offset < len(listed) - index - 1
