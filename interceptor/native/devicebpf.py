"""Device programs of cgroup v2: the Python side of devicebpf.c. OSError with the kernel's errno; an Fd owns.

Source: bpf(2); Linux kernel/bpf/cgroup.c __cgroup_bpf_attach(), __cgroup_bpf_query(); Documentation/admin-guide/cgroup-v2.rst,
"Device controller".
"""

from __future__ import annotations

import functools
import os

from interceptor.native import mounts
from interceptor.native._native import ffi, lib
from interceptor.native.fd import Fd

ATTACHED_MAX = 64
"""BPF_CGROUP_MAX_PROGS: programs of one type that one cgroup has."""


def load(instructions: bytes, name: bytes) -> Fd:
    """The kernel's verifier has found nothing wrong with it."""
    return Fd(_checked(lib.ic_device_load(instructions, len(instructions) // 8, name)))


def attach(cgroup: int, program: int, flags: int, replace: int = -1) -> None:
    _checked(lib.ic_device_attach(cgroup, program, flags, replace))


def detach(cgroup: int, program: int) -> None:
    _checked(lib.ic_device_detach(cgroup, program))


def query(cgroup: int) -> tuple[int, list[int]]:
    """How programs are attached to that one cgroup (BPF_F_ALLOW_*), and their numbers. EBADF for what is no cgroup of v2."""
    flags, ids = ffi.new("uint32_t *"), ffi.new(f"uint32_t[{ATTACHED_MAX}]")
    count = _checked(lib.ic_device_query(cgroup, flags, ids, ATTACHED_MAX))
    return int(flags[0]), list(ids)[:count]


def by_id(number: int) -> Fd:
    return Fd(_checked(lib.ic_device_by_id(number)))


def information(program: int, size: int) -> bytes:
    """The beginning of its struct bpf_prog_info."""
    info = ffi.new("char[]", size)
    return bytes(ffi.buffer(info, _checked(lib.ic_device_info(program, info, size))))


def open_cgroup(number: int) -> Fd:
    """The cgroup of v2 with that inode number, in a mount of ours that nothing else is mounted on."""
    return Fd(_checked(lib.ic_cgroup_open(_hierarchy().fileno(), number)))


@functools.cache
def _hierarchy() -> Fd:
    """The root of cgroup v2's hierarchy as this process sees it, whether or not it is mounted anywhere."""
    with mounts.fresh("cgroup2") as mount:
        return Fd(os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mount.fileno()))


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result
