"""What the leaves show: pure readers, each in the file named as its leaf.

LEAVES is the table from which everything else about them is derived. An entry of the same path as an earlier one
replaces it. A leaf whose file this host has not (a further NUMA node, pressure without PSI) is left out by the mechanism.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.procfs.values import (
    cpuinfo,
    cpus,
    diskstats,
    dmi,
    loadavg,
    meminfo,
    pressure,
    slabinfo,
    stat,
    swaps,
    sysctl,
    vmstat,
)

if TYPE_CHECKING:
    from runtime.procfs.leaf import Leaf

LEAVES: tuple[Leaf, ...] = (
    *meminfo.LEAVES,
    *cpuinfo.LEAVES,
    *stat.LEAVES,
    *loadavg.LEAVES,
    *diskstats.LEAVES,
    *swaps.LEAVES,
    *vmstat.LEAVES,
    *slabinfo.LEAVES,
    *pressure.LEAVES,
    *cpus.LEAVES,
    *dmi.LEAVES,
    *sysctl.LEAVES,
)
