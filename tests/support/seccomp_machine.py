"""What a profile means: libseccomp compiles it as runc does, and a small machine executes the filter on made-up calls.

The instructions are those that libseccomp emits of classic BPF (linux/bpf_common.h, Documentation/networking/filter).
"""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import pyseccomp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from interceptor.args import Arch

ERRNO, NOTIFY, ALLOW, KILL = 0x00050000, 0x7FC00000, 0x7FFF0000, 0x80000000
"""SECCOMP_RET_* (linux/seccomp.h)."""

_OPERATORS = {
    "SCMP_CMP_EQ": pyseccomp.EQ, "SCMP_CMP_NE": pyseccomp.NE, "SCMP_CMP_LT": pyseccomp.LT, "SCMP_CMP_LE": pyseccomp.LE,
    "SCMP_CMP_GE": pyseccomp.GE, "SCMP_CMP_GT": pyseccomp.GT, "SCMP_CMP_MASKED_EQ": pyseccomp.MASKED_EQ,
}  # fmt: skip


class Answer(NamedTuple):
    """The filter's answer: the action and, for ERRNO, the errno."""

    action: int
    data: int = 0


class Filter:
    """A compiled profile."""

    def __init__(self, profile: dict[str, Any]) -> None:
        self.instructions = _compile(profile)

    def __call__(self, arch: Arch, nr: int, *args: int) -> Answer:
        registers = [*args, *[0] * (6 - len(args))]
        result = _run(self.instructions, struct.pack("<IIQ6Q", nr & 0xFFFFFFFF, arch, 0, *registers))
        action = result & 0xFFFF0000
        return Answer(action, result & 0xFFFF if action == ERRNO else 0)


def _action(rule: dict[str, Any], errno_key: str = "errnoRet", action_key: str = "action") -> int:
    name = rule[action_key]
    if name == "SCMP_ACT_ERRNO":
        return int(pyseccomp.ERRNO(rule.get(errno_key, 1)))
    return int({"SCMP_ACT_ALLOW": pyseccomp.ALLOW, "SCMP_ACT_NOTIFY": pyseccomp.NOTIFY, "SCMP_ACT_LOG": pyseccomp.LOG,
                "SCMP_ACT_KILL": pyseccomp.KILL, "SCMP_ACT_KILL_PROCESS": pyseccomp.KILL_PROCESS}[name])  # fmt: skip


def _compile(profile: dict[str, Any]) -> list[tuple[int, int, int, int]]:
    default = _action(profile, "defaultErrnoRet", "defaultAction")
    made = pyseccomp.SyscallFilter(default)
    for name in profile.get("architectures", ()):
        arch = getattr(pyseccomp.Arch, name.removeprefix("SCMP_ARCH_"))
        if not made.exist_arch(arch):
            made.add_arch(arch)
    for rule in profile["syscalls"]:
        action = _action(rule)
        if action == default:
            continue
        for name in rule["names"]:
            _add(made, action, name, rule.get("args") or ())
    with io.BufferedRandom(_memfd()) as file:
        made.export_bpf(file)
        file.seek(0)
        program = file.read()
    return list(struct.iter_unpack("<HBBI", program))


def _memfd() -> io.FileIO:
    import os  # noqa: PLC0415

    return io.FileIO(os.memfd_create("filter"), "r+")


def _add(made: Any, action: int, name: str, args: Sequence[dict[str, Any]]) -> None:
    number = pyseccomp.resolve_syscall(pyseccomp.system_arch(), name)
    if number == -1:
        return  # __NR_SCMP_ERROR: runc and crun leave out what libseccomp does not know
    indices = [a["index"] for a in args]
    tests = [pyseccomp.Arg(a["index"], _OPERATORS[a["op"]], a["value"], a.get("valueTwo", 0)) for a in args]
    if len(set(indices)) == len(indices):
        made.add_rule(action, number, *tests)
    else:  # runc: one rule for each condition
        for test in tests:
            made.add_rule(action, number, test)


def _run(instructions: Sequence[tuple[int, int, int, int]], data: bytes) -> int:
    accumulator, counter = 0, 0
    while True:
        code, if_true, if_false, k = instructions[counter]
        counter += 1
        if code == 0x20:  # BPF_LD | BPF_W | BPF_ABS
            (accumulator,) = struct.unpack_from("<I", data, k)
        elif code == 0x54:  # BPF_ALU | BPF_AND | BPF_K
            accumulator &= k
        elif code == 0x06:  # BPF_RET | BPF_K
            return k
        elif code == 0x05:  # BPF_JMP | BPF_JA
            counter += k
        else:
            holds = {
                0x15: accumulator == k, 0x25: accumulator > k, 0x35: accumulator >= k, 0x45: bool(accumulator & k),
            }[code]  # fmt: skip
            counter += if_true if holds else if_false
