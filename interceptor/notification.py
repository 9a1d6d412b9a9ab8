"""One notification as the kernel gave it: registers only, nothing decoded."""

from __future__ import annotations

from typing import NamedTuple


class Notification(NamedTuple):
    """``struct seccomp_notif`` (seccomp_unotify(2)), flattened.

    A named tuple and not a dataclass: it is built once per notification on the hot path.
    """

    id: int
    """``__u64 id``: the kernel's cookie."""
    tid: int
    """``__u32 pid``: the tracee's thread id in *our* pid namespace; 0 when it is not visible there."""
    arch: int
    """``__u32 data.arch``: AUDIT_ARCH_*."""
    nr: int
    """``int data.nr``: system call number of that architecture."""
    ip: int
    """``__u64 data.instruction_pointer``."""
    args: tuple[int, int, int, int, int, int]
    """``__u64 data.args[6]``."""
