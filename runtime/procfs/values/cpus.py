"""/sys/devices/system/{cpu,node} of a container: the CPUs that it sees, by their real numbers.

Real numbers, because sched_setaffinity(2), getcpu(2) and cpusets know no others. `present` and `online` are the CPUs that
its cpuset and quota are worth. `possible` stays the host's: it bounds what getcpu(2) and restartable sequences may
answer, programs (liburcu, tcmalloc) size arrays by it that they index with that answer, and a task under a quota runs on
any of the cpuset's CPUs.

Source: Linux Documentation/admin-guide/cputopology.rst; Documentation/ABI/stable/sysfs-devices-node;
drivers/base/{cpu,node}.c.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Final

from runtime import resources
from runtime.procfs.leaf import Leaf, Rung
from runtime.procfs.values import meminfo, share

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runtime.procfs.leaf import View

_CPU: Final = "/sys/devices/system/cpu"
_NODE: Final = "/sys/devices/system/node"
_NODES: Final = 8
"""NUMA nodes that have leaves, if the host has so many."""


def online(view: View) -> bytes:
    """cpu/online, cpu/present."""
    return _line(share.cpus(view).visible)


def offline(view: View) -> bytes:
    """cpu/offline: what is possible, but not online."""
    possible = share.host(f"{view.sys}/devices/system/cpu/possible", resources.parse_list)
    return _line(set(possible) - set(share.cpus(view).visible))


def affinity(view: View, mask: Iterable[int]) -> list[int]:
    """What sched_getaffinity(2) is to answer for a task of which the kernel says `mask`.

    A quota is no part of the kernel's answer, yet `nproc`, Go, Java and OpenMP size themselves by it. So of the CPUs that
    the task may run on it gets those that /proc and /sys show. One that has chosen others for itself reads them back, but
    not more than it is worth.
    """
    visible, allowed = share.cpus(view).visible, sorted(mask)
    return [cpu for cpu in allowed if cpu in visible] or allowed[: len(visible)]


def cpulist(node: int, view: View) -> bytes:
    """nodeN/cpulist."""
    return _line(_of_node(view, node))


def cpumap(node: int, view: View) -> bytes:
    """nodeN/cpumap."""
    return hexadecimal(_of_node(view, node), like=share.host(_node(view, node, "cpumap")))


def hexadecimal(numbers: Iterable[int], *, like: bytes) -> bytes:
    """A mask as the kernel prints it: 32-bit words, as many as the host's own has."""
    like = like.strip()
    words, value = like.count(b",") + 1, sum(1 << cpu for cpu in numbers)
    if words == 1:
        return b"%0*x\n" % (len(like), value)
    return b",".join(b"%08x" % (value >> 32 * word & 0xFFFFFFFF) for word in reversed(range(words))) + b"\n"


def node_meminfo(node: int, view: View) -> bytes:
    """nodeN/meminfo: the container's memory, in the node's part of the host's."""
    content: bytes = share.host(_node(view, node, "meminfo"))
    total = re.search(rb"MemTotal:\s*(\d+) kB", content)
    used = share.memory(view)
    host = share.host_memory(view)
    shown = resources.visible_memory(used, host)
    size = min(int(total[1]) << 10 if total else 0, host.total)
    values = {name: value * size // max(1, host.total) for name, value in meminfo.values(used, shown).items()}
    values["MemUsed"] = values["MemTotal"] - values["MemFree"]
    values["FilePages"] = values["Cached"]
    return _NODE_LINE.sub(lambda line: line[1] + b"%*d kB" % (len(line[3]), _kilobytes(values, line[2])), content)


_NODE_LINE: Final = re.compile(rb"^(Node \d+ ([^:\n]+):)( +\d+) kB$", re.MULTILINE)


def _kilobytes(values: dict[str, int], name: bytes) -> int:
    return values.get(name.decode("ascii", "replace"), 0) >> 10


def _of_node(view: View, node: int) -> list[int]:
    there = set(share.host(_node(view, node, "cpulist"), resources.parse_list))
    return [cpu for cpu in share.cpus(view).visible if cpu in there]


def _node(view: View, node: int, name: str) -> str:
    return f"{view.sys}/devices/system/node/node{node}/{name}"


def _line(numbers: Iterable[int]) -> bytes:
    return resources.format_list(sorted(numbers)).encode("ascii") + b"\n"


LEAVES = (
    Leaf(f"{_CPU}/online", Rung.FUSE, online),
    Leaf(f"{_CPU}/present", Rung.FUSE, online),
    Leaf(f"{_CPU}/offline", Rung.FUSE, offline),
    *(
        Leaf(f"{_NODE}/node{node}/{name}", Rung.FUSE, partial(read, node))
        for node in range(_NODES)
        for name, read in (("cpulist", cpulist), ("cpumap", cpumap), ("meminfo", node_meminfo))
    ),
)
