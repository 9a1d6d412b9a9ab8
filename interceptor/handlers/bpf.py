"""bpf(2): device programs of cgroup v2, by which inner engines and systemd say what their containers and services may open.

On cgroup v2 that is all there is of a device controller; whoever cannot load such a program runs its containers without, and
systemd ignores DevicePolicy=. Lent are programs of that one type, made of nothing but what a device filter is made of, on
cgroups below the container's own; there they can only take away. What the tracee holds is no program
(interceptor/device_programs.py).
Left to the kernel, which asks for capabilities of the host's or finds nothing: all other commands, types of programs and of
attachment; containers without a cgroup of their own in v2's hierarchy; callers in nested user namespaces. Links
(BPF_LINK_CREATE) are not lent: runc, crun and systemd attach device programs without. systemd from 258 on uses none unless a
socket program loads as well, which is for real root.

Source: bpf(2); Linux kernel/bpf/syscall.c, kernel/bpf/cgroup.c, include/uapi/linux/bpf.h; runc libcontainer/cgroups/devices,
crun src/libcrun/ebpf.c, systemd src/core/bpf-devices.c.
"""

from __future__ import annotations

import enum
import errno
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, NamedTuple

from interceptor.args import PAGE_SIZE, Integer, Pointer, UInt
from interceptor.ports import Call, Cap, Namespace
from interceptor.registry import Masked, Needs, Support, handles
from interceptor.verdict import AddFd, Continue, Fail, Return, Verdict

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet


class Command(enum.IntEnum):
    """enum bpf_cmd (linux/bpf.h), as far as it is looked at here or common."""

    BPF_MAP_CREATE = 0
    BPF_PROG_LOAD = 5
    BPF_OBJ_PIN = 6
    BPF_OBJ_GET = 7
    BPF_PROG_ATTACH = 8
    BPF_PROG_DETACH = 9
    BPF_PROG_GET_FD_BY_ID = 13
    BPF_OBJ_GET_INFO_BY_FD = 15
    BPF_PROG_QUERY = 16
    BPF_BTF_LOAD = 18
    BPF_LINK_CREATE = 28


@dataclass(frozen=True, slots=True)
class BpfArgs:
    """The three registers of bpf(2)."""

    cmd: Annotated[int, Integer(32, names=Command)]
    attr: Pointer
    size: UInt


BPF_PROG_TYPE_CGROUP_DEVICE, BPF_CGROUP_DEVICE = 15, 6
BPF_F_ALLOW_OVERRIDE, BPF_F_ALLOW_MULTI, BPF_F_REPLACE = 1, 2, 4
LENT = (
    Command.BPF_PROG_LOAD, Command.BPF_PROG_ATTACH, Command.BPF_PROG_DETACH, Command.BPF_PROG_GET_FD_BY_ID,
    Command.BPF_OBJ_GET_INFO_BY_FD, Command.BPF_PROG_QUERY,
)  # fmt: skip


@handles(
    "bpf",
    when=tuple(Masked("cmd", 0xFFFF_FFFF, command) for command in LENT),
    needs=Needs(Cap.SYS_ADMIN, owner_of=Namespace.MOUNT),
    support=Support.PARTIAL,
    note="Device programs, on cgroups (v2) below the container's own; no links, no verifier's log. All else is the kernel's.",
)
def bpf(call: Call, args: BpfArgs) -> Verdict:
    if call.tracee.in_nested_user_namespace or not call.device_programs.supported:
        return Continue(because="lent only where the container has a cgroup of its own; else the kernel refuses it")
    if args.size > PAGE_SIZE:
        return Fail(errno.E2BIG)
    answer = _COMMANDS[Command(args.cmd)](call, args, call.tracee.read(args.attr, min(args.size, _ATTR)).ljust(_ATTR, b"\0"))
    return answer or Continue(because="it is about something else than device programs of the container's")


_ATTR = 128
"""Bytes of union bpf_attr that hold all that is looked at here."""


# BPF_PROG_LOAD

_LOAD = struct.Struct("=2I2Q2IQ2I16sI")
"""prog_type, insn_cnt, insns, license, log_level, log_size, log_buf, kern_version, prog_flags, prog_name, prog_ifindex."""
INSTRUCTIONS_MAX = 4096
"""BPF_MAXINSNS."""


def _load(call: Call, _args: BpfArgs, attr: bytes) -> Verdict | None:
    kind, count, at, _, _, _, _, _, flags, name, interface = _LOAD.unpack_from(attr)
    if kind != BPF_PROG_TYPE_CGROUP_DEVICE:
        call.why = f"attr: programs of type {kind} are the kernel's"
        return None
    if not 0 < count <= INSTRUCTIONS_MAX:
        return Fail(errno.E2BIG)
    if flags or interface:
        call.why = "attr: programs with flags or for an interface are not lent"
        return Fail(errno.EINVAL)
    instructions = call.tracee.read(at, count * _INSTRUCTION.size)
    odd = first_odd(instructions)
    if odd is not None:
        call.why = f"insns: number {odd} is not what a device filter is made of"
        return Fail(errno.EINVAL)
    return AddFd(call.device_programs.load(instructions, name.partition(b"\0")[0]))


_INSTRUCTION = struct.Struct("=BBhi")
"""struct bpf_insn: code, dst_reg and src_reg (four bits each), off, imm."""
_LDX, _ALU, _JMP, _JMP32, _ALU64 = 1, 4, 5, 6, 7
_ARITHMETIC, _JUMPS = frozenset({_ALU, _ALU64}), frozenset({_JMP, _JMP32})
_LOADS = frozenset({0x60 | size for size in (0x00, 0x08, 0x10)})
"""BPF_MEM of a word, half-word, byte; with the class they are the code."""
_MOV = 0xB0
_OPERATIONS = frozenset({0x40, 0x50, 0x60, 0x70, _MOV})
"""BPF_OR, BPF_AND, BPF_LSH, BPF_RSH, BPF_MOV."""
_COMPARISONS = frozenset({0x10, 0x20, 0x30, 0x40, 0x50, 0xA0, 0xB0})
"""BPF_JEQ, BPF_JGT, BPF_JGE, BPF_JSET, BPF_JNE, BPF_JLT, BPF_JLE; BPF_JA is 0."""
_EXIT, _JA = 0x95, 0x05
_X = 0x08
_CONTEXT, _CONTEXT_SIZE = 1, 12
"""r1: struct bpf_cgroup_dev_ctx, three words."""
_NUMBERS = frozenset({0, 2, 3, 4, 5, 6, 7, 8, 9})
"""Registers that only ever hold numbers. r10, the stack, is not touched."""


class Instruction(NamedTuple):
    """One struct bpf_insn."""

    code: int
    registers: int
    offset: int
    immediate: int

    @property
    def to(self) -> int:
        return self.registers & 15

    @property
    def source(self) -> int:
        return self.registers >> 4

    @property
    def jumps(self) -> bool:
        return self.code & 7 in _JUMPS and self.code != _EXIT


def first_odd(program: bytes) -> int | None:
    """The first instruction that is none of: a word of the context, bit arithmetic on numbers, a comparison of numbers with a
    jump forwards, the end. No memory, no helper, no map, no loop: the parts of the verifier in which mistakes were found are
    not reached, and no address is compared with anything.

    r1 is the context, and a number once one was put there, which runc and systemd do; known to be one until a jump arrives.
    """
    instructions = [Instruction(*row) for row in _INSTRUCTION.iter_unpack(program)]
    targets = {index + 1 + each.offset for index, each in enumerate(instructions) if each.jumps}
    numbers = _NUMBERS
    for index, each in enumerate(instructions):
        if index in targets:
            numbers = _NUMBERS
        if not _is_plain(each, numbers, len(instructions) - index - 1):
            return index
        if each.to == _CONTEXT and each.code & 7 in _ARITHMETIC:
            numbers = _NUMBERS | {_CONTEXT}
    return None


def _is_plain(each: Instruction, numbers: AbstractSet[int], left: int) -> bool:
    """`left` instructions follow."""
    code, group, operation = each.code, each.code & 7, each.code & 0xF0
    if group == _LDX:
        inside = 0 <= each.offset < _CONTEXT_SIZE and not each.immediate
        return code & 0xF8 in _LOADS and each.to in _NUMBERS and each.source == _CONTEXT and inside
    if code == _EXIT:
        return not (each.registers or each.offset or each.immediate)
    if group in _JUMPS:
        known = operation in _COMPARISONS and each.to in numbers and _is_number(each, numbers)
        return 0 <= each.offset < left and (known or (code == _JA and not (each.registers or each.immediate)))
    if group in _ARITHMETIC:
        known = operation in _OPERATIONS and (each.to in numbers or (operation == _MOV and each.to == _CONTEXT))
        return known and not each.offset and _is_number(each, numbers)
    return False


def _is_number(each: Instruction, numbers: AbstractSet[int]) -> bool:
    """Whether its second operand is."""
    return each.source in numbers and not each.immediate if each.code & _X else not each.source


# BPF_PROG_ATTACH, BPF_PROG_DETACH

_ATTACH = struct.Struct("=5I")
"""target_fd, attach_bpf_fd, attach_type, attach_flags, replace_bpf_fd."""


def _attach(call: Call, _args: BpfArgs, attr: bytes) -> Verdict | None:
    cgroup, fd, kind, flags, old = _ATTACH.unpack_from(attr)
    programs = call.device_programs
    program = programs.find(_signed(fd)) if kind == BPF_CGROUP_DEVICE else None
    if program is None:
        return None
    if flags & ~(BPF_F_ALLOW_OVERRIDE | BPF_F_ALLOW_MULTI | BPF_F_REPLACE):
        return Fail(errno.EINVAL)
    replaced = programs.find(_signed(old)) if flags & BPF_F_REPLACE else None
    if flags & BPF_F_REPLACE and replaced is None:
        programs.query(_signed(cgroup))  # is asked for first: that tells runc whether the kernel knows the flag
        call.tracee.take(_signed(old))
        return Fail(errno.EINVAL)
    programs.attach(program, _signed(cgroup), flags, replaced)
    return Return()


def _detach(call: Call, _args: BpfArgs, attr: bytes) -> Verdict | None:
    cgroup, fd, kind, flags, _ = _ATTACH.unpack_from(attr)
    program = call.device_programs.find(_signed(fd)) if kind == BPF_CGROUP_DEVICE else None
    if program is None:
        return None
    if flags:
        return Fail(errno.EINVAL)
    call.device_programs.detach(program, _signed(cgroup))
    return Return()


def _signed(fd: int) -> int:
    return fd - (1 << 32) if fd >> 31 else fd


# BPF_PROG_QUERY

_QUERY = struct.Struct("=4IQI")
"""target_fd, attach_type, query_flags, attach_flags, prog_ids, prog_cnt."""
_ATTACH_FLAGS_AT, _COUNT_AT = 12, 24


def _query(call: Call, args: BpfArgs, attr: bytes) -> Verdict | None:
    cgroup, kind, how, _, at, room = _QUERY.unpack_from(attr)
    if kind != BPF_CGROUP_DEVICE or how or args.size < _QUERY.size:  # BPF_F_QUERY_EFFECTIVE would tell of the host's
        return None
    flags, numbers = call.device_programs.query(_signed(cgroup))
    call.tracee.write(args.attr + _ATTACH_FLAGS_AT, struct.pack("=I", flags))
    call.tracee.write(args.attr + _COUNT_AT, struct.pack("=I", len(numbers)))
    told = numbers[:room] if at else ()
    if told:
        call.tracee.write(at, struct.pack(f"={len(told)}I", *told))
    return Fail(errno.ENOSPC) if told and len(told) < len(numbers) else Return()


# BPF_PROG_GET_FD_BY_ID, BPF_OBJ_GET_INFO_BY_FD


def _get_fd_by_id(call: Call, _args: BpfArgs, attr: bytes) -> Verdict | None:
    descriptor = call.device_programs.open(int.from_bytes(attr[:4], "little"))
    return None if descriptor is None else AddFd(descriptor)


_INFO = struct.Struct("=2IQ")
"""bpf_fd, info_len, info."""
_LENGTH_AT = 4
INFO_MAX = 232
"""sizeof(struct bpf_prog_info) of Linux 6.1 … 6.18."""
_LENGTHS = slice(16, 24)
"""jited_prog_len, xlated_prog_len: 0 for whoever may not see the instructions."""


def _information(call: Call, args: BpfArgs, attr: bytes) -> Verdict | None:
    fd, size, at = _INFO.unpack_from(attr)
    program = call.device_programs.find(_signed(fd))
    if program is None:
        return None
    if size > PAGE_SIZE:
        return Fail(errno.E2BIG)
    if any(call.tracee.read(at, size)[INFO_MAX:]):
        return Fail(errno.E2BIG)
    info = bytearray(call.device_programs.information(program, INFO_MAX))
    info[_LENGTHS] = bytes(8)
    call.tracee.write(at, bytes(info[:size]))
    call.tracee.write(args.attr + _LENGTH_AT, struct.pack("=I", min(size, len(info))))
    return Return()


_COMMANDS = {
    Command.BPF_PROG_LOAD: _load,
    Command.BPF_PROG_ATTACH: _attach,
    Command.BPF_PROG_DETACH: _detach,
    Command.BPF_PROG_QUERY: _query,
    Command.BPF_PROG_GET_FD_BY_ID: _get_fd_by_id,
    Command.BPF_OBJ_GET_INFO_BY_FD: _information,
}
