"""/proc/pressure of a container: the stall times of its own cgroup.

The kernel keeps them for cgroups of version 2 only. `source` is the file itself: mounted over its namesake, poll(2) and
triggers work as on the host's. Where the container has no v2 cgroup of its own, its files say that nothing has stalled;
the host's would tell of others.

Source: Linux Documentation/accounting/psi.rst; kernel/sched/psi.c, psi_show().
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Final

from interceptor.native.files import read
from runtime import resources
from runtime.procfs.leaf import Leaf, Rung
from runtime.procfs.values import share

if TYPE_CHECKING:
    from runtime.procfs.leaf import View

_NONE: Final = b"avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
RESOURCES: Final = ("cpu", "io", "memory", "irq")


def source(view: View, resource: str) -> str | None:
    """The cgroup's own file, to be mounted over /proc/pressure/`resource`; None where there is none."""
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


LEAVES = tuple(Leaf(f"/proc/pressure/{name}", Rung.FUSE, partial(pressure, name), mode=0o444) for name in RESOURCES)
