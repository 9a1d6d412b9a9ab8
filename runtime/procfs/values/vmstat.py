"""/proc/vmstat of a container: what its cgroup counts, by the host kernel's names; all else is 0.

The kernel's `pgpgin` and `pgpgout` are kilobytes read from and written to disk, not v1's counters of that name.

Source: proc(5), "/proc/vmstat"; Linux mm/vmstat.c, vmstat_show(); block/blk-core.c, submit_bio_noacct().
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING, Final

from interceptor.native.files import read
from runtime import resources
from runtime.procfs.leaf import Leaf, Rung
from runtime.procfs.values import share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtime.procfs.leaf import View

_PATH: Final = "/proc/vmstat"
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")

_DIGITS: Final = 512
"""More than one of all values together, after years of work."""

_PAGES: Final = {
    "nr_inactive_anon": "inactive_anon", "nr_active_anon": "active_anon", "nr_inactive_file": "inactive_file",
    "nr_active_file": "active_file", "nr_unevictable": "unevictable", "nr_slab_reclaimable": "slab_reclaimable",
    "nr_slab_unreclaimable": "slab_unreclaimable", "nr_anon_pages": "anon", "nr_mapped": "file_mapped",
    "nr_file_pages": "file", "nr_dirty": "file_dirty", "nr_writeback": "file_writeback", "nr_shmem": "shmem",
    "nr_swapcached": "swapcached", "nr_page_table_pages": "pagetables", "nr_zone_inactive_anon": "inactive_anon",
    "nr_zone_active_anon": "active_anon", "nr_zone_inactive_file": "inactive_file",
    "nr_zone_active_file": "active_file", "nr_zone_unevictable": "unevictable",
}  # fmt: skip
"""Numbers of pages, that memory.stat has in bytes. Others of its names are those of vmstat (events)."""


def vmstat(view: View) -> bytes:
    """The file's content."""
    place, used, grown = share.cgroups(view), share.memory(view), share.growing(view, _PATH)
    shown = resources.visible_memory(used, share.host_memory(view))
    io = resources.io(place).values()
    gauges = {name: used.stat.get(theirs, 0) // _PAGE for name, theirs in _PAGES.items()}
    gauges["nr_free_pages"] = shown.free // _PAGE
    gauges["nr_kernel_stack"] = used.stat.get("kernel_stack", 0) >> 10  # in KiB, as vmstat_item_in_bytes() has it
    events = {
        "pgpgin": sum(device.read_bytes for device in io) >> 10,
        "pgpgout": sum(device.written_bytes for device in io) >> 10,
        **resources.memory_events(place),
    }
    lines = []
    for name in share.host(f"{view.proc}/vmstat", _names):
        value = gauges.get(name)
        if value is None:
            value = grown(name, events.get(name, 0))
        lines.append(f"{name} {value}\n")
    return "".join(lines).encode("ascii", "replace")


def _names(content: bytes) -> Sequence[str]:
    return [line.partition(b" ")[0].decode("ascii", "replace") for line in content.splitlines()]


@cache
def longest() -> int:
    """Of the kernel's names."""
    return sum(len(f"{name} 0\n") for name in _names(read(_PATH))) + _DIGITS


LEAVES = (Leaf(_PATH, Rung.FUSE, vmstat, longest=longest),)
