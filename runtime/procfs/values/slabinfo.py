"""/proc/slabinfo of a container: the head of the table, without the host's caches.

The kernel shows it to its own root only, so container root would get EACCES, which slabtop takes for a fault; no kernel
since 5.9 counts caches by cgroup.

Source: slabinfo(5); Linux mm/slab_common.c, print_slabinfo_header().
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.procfs.leaf import Leaf, Rung

if TYPE_CHECKING:
    from runtime.procfs.leaf import View

_HEADER = (
    b"slabinfo - version: 2.1\n"
    b"# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab>"
    b" : tunables <limit> <batchcount> <sharedfactor>"
    b" : slabdata <active_slabs> <num_slabs> <sharedavail>\n"
)


def slabinfo(_view: View) -> bytes:
    """The file's content."""
    return _HEADER


LEAVES = (Leaf("/proc/slabinfo", Rung.FILE, slabinfo, mode=0o400),)
