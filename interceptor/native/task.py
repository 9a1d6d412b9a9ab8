"""Scheduling of one task, by its number in a pid namespace: the Python side of task.c. The only caller is `interceptor.tracee`.

The number is the tracee's; that it is still the same task's is for the caller to pin (`open_task`).
"""

from __future__ import annotations

import errno
import os
import select
from pathlib import Path

from interceptor.native._native import lib
from interceptor.native.fd import Fd


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


def _do(pid_namespace: int, action: int, number: int, value: int = 0, priority: int = 0) -> int:
    result = int(lib.ic_task_do(pid_namespace, action, number, value, priority))
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result
