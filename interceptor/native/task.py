"""Scheduling and limits of one task, by its number in a pid namespace: the Python side of task.c.

The only caller is `interceptor.tracee`.

The number is the tracee's; that it is still the same task's is for the caller to pin (`open_task`).
"""

from __future__ import annotations

import errno
import os
import select
from pathlib import Path
from resource import RLIMIT_NOFILE
from typing import Any

from interceptor.native._native import ffi, lib
from interceptor.native.fd import Fd
from interceptor.ports import Cap


def open_task(pid_namespace: int, number: int) -> Fd:
    """A pidfd; OSError(ESRCH) for no such task, EINVAL for a thread that is not its process's first before Linux 6.9."""
    try:
        return Fd(_do(pid_namespace, lib.IC_TASK_OPEN, number))
    except FileNotFoundError as error:  # what newer kernels say of one that is about to go
        raise _gone() from error


def set_nice(pid_namespace: int, number: int, nice: int) -> None:
    """setpriority(2) of that one task."""
    _do(pid_namespace, lib.IC_TASK_NICE, number, nice)


def set_scheduler(pid_namespace: int, number: int, policy: int, priority: int) -> None:
    """sched_setscheduler(2)."""
    _do(pid_namespace, lib.IC_TASK_SCHEDULER, number, policy, priority)


def set_priority(pid_namespace: int, number: int, priority: int) -> None:
    """sched_setparam(2)."""
    _do(pid_namespace, lib.IC_TASK_PRIORITY, number, 0, priority)


def set_attributes(pid_namespace: int, number: int, attributes: bytes) -> None:
    """sched_setattr(2) with a struct sched_attr."""
    _do(pid_namespace, lib.IC_TASK_ATTRIBUTES, number, data=ffi.from_buffer(attributes))


def limit(pid_namespace: int, number: int, resource: int) -> tuple[int, int]:
    """prlimit(2) that only asks: soft and hard limit (rlim64_t)."""
    limits = ffi.new("struct ic_limits *")
    _do(pid_namespace, lib.IC_TASK_LIMIT, number, resource, data=limits)
    return limits.was[0], limits.was[1]


def set_limit(pid_namespace: int, number: int, resource: int, soft: int, hard: int) -> tuple[int, int]:
    """prlimit(2); what they were. OSError(EPERM) says whose lack it is."""
    limits = ffi.new("struct ic_limits *", {"set": (soft, hard)})
    try:
        _do(pid_namespace, lib.IC_TASK_LIMIT_SET, number, resource, data=limits)
    except PermissionError as error:
        raise OSError(errno.EPERM, _why_not(resource, hard)) from error
    return limits.was[0], limits.was[1]


def _why_not(resource: int, hard: int) -> str:
    """Why a hard limit cannot be raised by us."""
    if not lib.ic_pin_effective(os.getpid()) >> Cap.SYS_RESOURCE & 1:
        return "the supervisor lacks CAP_SYS_RESOURCE of the host's, as `interceptor doctor` says"
    most = int(Path("/proc/sys/fs/nr_open").read_text(encoding="ascii"))
    if resource == RLIMIT_NOFILE and hard > most:
        return f"the host's fs.nr_open is {most}"
    return "the kernel refuses it to the host's root, too"


def set_io_priority(pid_namespace: int, number: int, priority: int) -> None:
    """ioprio_set(2) of that one task."""
    _do(pid_namespace, lib.IC_TASK_IO, number, priority)


def uids(task: int) -> list[int]:
    """Real, effective, saved and file-system uid of the task of a pidfd, as host ids; OSError(ESRCH) for one that ended."""
    try:
        information = Path(f"/proc/self/fdinfo/{task}").read_text(encoding="ascii")
        number = next(line.split()[1] for line in information.splitlines() if line.startswith("Pid:"))
        status = Path(f"/proc/{number}/status").read_bytes()
    except FileNotFoundError as error:
        raise _gone() from error
    if ended(task):
        raise _gone()
    return [int(uid) for uid in next(line.split()[1:] for line in status.splitlines() if line.startswith(b"Uid:"))]


def _gone() -> OSError:
    return OSError(errno.ESRCH, "it ended")


def ended(task: int) -> bool:
    """Whether the task of a pidfd has: until then its number was its own."""
    return bool(select.select([task], [], [], 0)[0])


def _do(pid_namespace: int, action: int, number: int, value: int = 0, priority: int = 0, data: Any = ffi.NULL) -> int:
    result = int(lib.ic_task_do(pid_namespace, action, number, value, priority, data))
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result
