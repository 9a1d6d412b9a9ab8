"""/proc/meminfo of a container: its limits and what it uses, in the lines that the host's kernel has.

Where a cgroup does not count something (Buffers, vmalloc space), the line is there and says 0; what no container has
a part of its own in, and everybody may use (huge pages), is the host's.

Source: proc(5), "/proc/meminfo"; Linux fs/proc/meminfo.c, meminfo_proc_show(); cgroup-v2.rst, "memory.stat".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from runtime import resources
from runtime.procfs.leaf import Leaf, Rung
from runtime.procfs.values import share

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runtime.procfs.leaf import View
    from runtime.resources import Memory, VisibleMemory

_OF_THE_HOST: Final = (b"HugePages_", b"Hugepagesize:", b"Hugetlb:", b"VmallocTotal:")

_COUNTED: Final = {
    "SwapCached": "swapcached", "Active(anon)": "active_anon", "Inactive(anon)": "inactive_anon",
    "Active(file)": "active_file", "Inactive(file)": "inactive_file", "Unevictable": "unevictable",
    "Zswap": "zswap", "Zswapped": "zswapped", "Dirty": "file_dirty", "Writeback": "file_writeback",
    "AnonPages": "anon", "Mapped": "file_mapped", "KReclaimable": "slab_reclaimable",
    "SReclaimable": "slab_reclaimable", "KernelStack": "kernel_stack", "PageTables": "pagetables",
    "SecPageTables": "sec_pagetables", "VmallocUsed": "vmalloc", "Percpu": "percpu", "AnonHugePages": "anon_thp",
    "ShmemHugePages": "shmem_thp", "FileHugePages": "file_thp",
}  # fmt: skip
"""What memory.stat has under another name."""


def meminfo(view: View) -> bytes:
    """The file's content."""
    used = share.memory(view)
    shown = resources.visible_memory(used, share.host_memory(view))
    template: Template = share.host(f"{view.proc}/meminfo", Template)
    return template.fill(values(used, shown))


def values(used: Memory, shown: VisibleMemory) -> Mapping[str, int]:
    """Bytes, by the names of the lines; what is not named is 0."""
    stat = used.stat
    found = {line: stat[name] for line, name in _COUNTED.items() if name in stat}
    unreclaimable = stat.get("slab_unreclaimable", stat.get("kernel", 0))  # v1 does not say what of kmem is slab
    swapped = shown.swap_total - shown.swap_free
    found.update(
        {
            "MemTotal": shown.total,
            "MemFree": shown.free,
            "MemAvailable": shown.available,
            "Cached": shown.cached,
            "Active": stat.get("active_anon", 0) + stat.get("active_file", 0),
            "Inactive": stat.get("inactive_anon", 0) + stat.get("inactive_file", 0),
            "SwapTotal": shown.swap_total,
            "SwapFree": shown.swap_free,
            "Shmem": shown.shared,
            "Slab": unreclaimable + stat.get("slab_reclaimable", 0),
            "SUnreclaim": unreclaimable,
            "CommitLimit": shown.total // 2 + shown.swap_total,  # vm.overcommit_ratio is 50
            "Committed_AS": stat.get("anon", 0) + shown.shared + swapped,
        }
    )
    return found


class Template:
    """The host's lines with places for a container's values."""

    __slots__ = ("_format", "_names")

    def __init__(self, content: bytes) -> None:
        names, lines = [], []
        for line in content.splitlines(keepends=True):
            name, _, value = line.partition(b":")
            if line.startswith(_OF_THE_HOST) or not value:
                lines.append(line.replace(b"%", b"%%"))
            else:
                names.append(name.decode("ascii", "replace"))
                lines.append(b"%-16b%%8d kB\n" % (name.replace(b"%", b"%%") + b":"))
        self._names, self._format = tuple(names), b"".join(lines)

    def fill(self, found: Mapping[str, int]) -> bytes:
        return self._format % tuple([found.get(name, 0) >> 10 for name in self._names])


LEAVES = (Leaf("/proc/meminfo", Rung.FUSE, meminfo),)
