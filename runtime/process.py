"""Small facts about processes and this host that the kernel tells in /proc.

Source: proc(5).
"""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from functools import cache
from pathlib import Path

from interceptor.native.fd import Fd
from interceptor.native.files import text
from runtime import capabilities

_LIMITS = tuple(name for name in dir(resource) if name.startswith("RLIMIT_"))


@cache
def boot() -> str:
    """Which boot of the host this is."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@cache
def has_time_namespaces() -> bool:
    return os.path.exists("/proc/self/ns/time_for_children")


@cache
def may_raise_limits() -> bool:
    """CAP_SYS_RESOURCE: hard limits may be raised and oom_score_adj lowered."""
    return bool(capabilities.effective() >> capabilities.SYS_RESOURCE & 1)


def hard_limits() -> dict[str, int] | None:
    """Our own hard limits, which what we start cannot exceed; None when it can."""
    if may_raise_limits():
        return None
    found = {name: resource.getrlimit(getattr(resource, name))[1] for name in _LIMITS}
    return {name: limit for name, limit in found.items() if limit != resource.RLIM_INFINITY}


def oom_score_floor() -> int | None:
    """Our own oom_score_adj, below which what we start cannot go; None when it can."""
    return None if may_raise_limits() else int(text("/proc/self/oom_score_adj"))


def start_time(pid: int) -> int | None:
    """Clock ticks between boot and start of a process; None when there is none. With the pid it names one process."""
    fields = _stat(pid)
    return None if fields is None or fields[0] in (b"Z", b"X") else int(fields[19])


def descends(pid: int, ancestor: int) -> bool:
    """Whether a process is that one or one which it started, at whatever remove; one that has ended is nobody's."""
    while pid not in (0, ancestor):
        fields = _stat(pid)
        if fields is None:
            return True
        pid = int(fields[1])
    return pid == ancestor


def _stat(pid: int) -> list[bytes] | None:
    """What /proc/PID/stat says after the name, from the state on; None where there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            found = file.read(4096)
    except OSError:
        return None
    return found[found.rindex(b")") + 2 :].split()


def lives_as(pid: int, first: int) -> bool:
    """Whether a process lives in a user namespace whose root is `first` outside: with exclusive ids, in that container's."""
    with suppress(OSError):
        return text(f"/proc/{pid}/uid_map").split()[:2] == ["0", str(first)]
    return False


def mount_namespace(inode: int) -> Fd | None:
    """A mount namespace by its number, found through a process that lives in it; None when none does."""
    for pid in ["self", *(name for name in os.listdir("/proc") if name.isdigit())]:
        path = f"/proc/{pid}/ns/mnt"
        try:
            if os.stat(path).st_ino == inode:
                return Fd(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            continue
    return None
