"""What a runtime leaves that is killed in the middle of `create`: cgroups, and perhaps an init that waits to be started.

runc and crun make a container's cgroups before they write down that there is one; what ends in between, no `delete` finds. So
the cgroups that are to be made are noted before: all that is in them belongs to that creation.
Source: runc libcontainer/process_linux.go, initProcess.start(); crun src/libcrun/container.c, libcrun_container_run_internal().
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from interceptor.native import files
from interceptor.native.fd import Fd
from interceptor.native.namespaces import in_mount_namespace

if TYPE_CHECKING:
    from runtime.record import Record

_SECONDS = 10.0
"""For the runtime, which its entry's death kills, and for what it left."""
_LOOK_SECONDS = 0.005


def remove(record: Record, namespace: Fd) -> None:
    """Ends and removes what is left of a creation; `namespace` is where its cgroups are mounted. Idempotent."""
    deadline = time.monotonic() + _SECONDS
    with in_mount_namespace(namespace.fileno()):
        while not _is_removed(record) and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)


def _is_removed(record: Record) -> bool:
    """Tries to; whether that was all."""
    works = bool(record.cgroups) and _runtime_works(record)  # asked first: it may make one as long as it does
    for directory in record.cgroups:
        for at, _, _ in os.walk(directory, topdown=False):
            _end_processes(at)
            with suppress(OSError):  # they need a moment
                os.rmdir(at)
    return not works and not any(os.path.isdir(directory) for directory in record.cgroups)


def _runtime_works(record: Record) -> bool:
    """Whether the runtime still creates it. In our user namespace: what is in a container may call itself anything."""
    words = {record.runtime.encode(), b"create", record.id.encode()}
    own = os.stat("/proc/self/ns/user").st_ino
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):  # it ended
            if os.stat(f"/proc/{name}/ns/user").st_ino == own and words <= set(
                files.read(f"/proc/{name}/cmdline").split(b"\0")
            ):
                return True
    return False


def _end_processes(cgroup: str) -> None:
    for pid in _processes(cgroup):
        with suppress(OSError), Fd(os.pidfd_open(pid)) as process:
            if pid in _processes(cgroup):  # and its number is no other's meanwhile
                signal.pidfd_send_signal(process.fileno(), signal.SIGKILL)


def _processes(cgroup: str) -> list[int]:
    return [int(pid) for pid in files.read(f"{cgroup}/cgroup.procs").split()]
