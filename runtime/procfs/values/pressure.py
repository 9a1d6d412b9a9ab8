"""/proc/pressure of a container: the stall times of its own cgroup, and triggers that wait for them.

The kernel keeps them for cgroups of version 2 only. Where the container has no v2 cgroup of its own, its files say that
nothing has stalled; the host's would tell of others.

Source: Linux Documentation/accounting/psi.rst; kernel/sched/psi.c, psi_show().
"""

from __future__ import annotations

import errno
import os
from functools import partial
from typing import TYPE_CHECKING, Final

from interceptor.native.fd import Fd
from interceptor.native.files import read
from runtime import resources
from runtime.procfs.leaf import Leaf, Rung
from runtime.procfs.values import share

if TYPE_CHECKING:
    from runtime.procfs.leaf import View

_NONE: Final = b"avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
_WINDOW: Final = 2_000_000
"""Microseconds: include/linux/psi_types.h, PSI_FREQ."""
RESOURCES: Final = ("cpu", "io", "memory", "irq")


def source(view: View, resource: str) -> str | None:
    """The cgroup's own file; None where there is none."""
    directory = resources.pressure_directory(share.cgroups(view))
    path = f"{directory}/{resource}.pressure"
    return path if directory and os.path.exists(path) else None


def pressure(resource: str, view: View) -> bytes:
    """The file's content, with the lines ("some", "full") that the host's has."""
    path = source(view, resource)
    if path and (content := read(path)):
        return content
    host = share.host(f"{view.proc}/pressure/{resource}") or b"some x\nfull x\n"
    return b"".join(line.partition(b" ")[0] + b" " + _NONE for line in host.splitlines())


def watch(resource: str, view: View, written: bytes) -> Fd:
    """A trigger of the cgroup's own file, which has POLLPRI when there was that much pressure. The kernel gives who has no
    CAP_SYS_RESOURCE windows of whole two seconds (psi_trigger_create()); nobody inside has it.
    """
    path = source(view, resource)
    if path is None:
        raise OSError(errno.EOPNOTSUPP, "no cgroup of its own counts that")
    trigger = written.split(b"\0")[0].strip()
    window = trigger.rpartition(b" ")[2]
    if window.isdigit() and int(window) % _WINDOW:
        raise OSError(errno.EINVAL, f"a window of {int(window)} µs")
    with Fd(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)) as file:
        os.write(file.fileno(), trigger + b"\0")
        return Fd(file.take())


LEAVES = tuple(
    Leaf(f"/proc/pressure/{name}", Rung.FUSE, partial(pressure, name), mode=0o666, watch=partial(watch, name))
    for name in RESOURCES
)
