"""sysinfo(2) of a container, from what /proc/meminfo, loadavg and uptime show: busybox's free, Java and others ask here.

Source: sysinfo(2); Linux kernel/sys.c, do_sysinfo() and COMPAT_SYSCALL_DEFINE1(sysinfo); include/uapi/linux/sysinfo.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from runtime import resources
from runtime.procfs.values import loadavg, share
from runtime.procfs.values.loadavg import FSHIFT

if TYPE_CHECKING:
    from runtime.procfs.leaf import View

_SI_LOAD_SHIFT: Final = 16
_PAGE: Final = 4096
_LONG: Final = {64: struct.Struct("=q9QHHxxxxQQIxxxx"), 32: struct.Struct("=i9IHHIII8x")}
"""struct sysinfo by the width of `long`: 112 bytes, and 64."""


@dataclass(frozen=True, slots=True)
class Sysinfo:
    """The structure's fields; sizes in bytes."""

    uptime: int
    loads: tuple[int, int, int]
    """Fixed-point with 16 bits after the point."""
    totalram: int
    freeram: int
    sharedram: int
    bufferram: int
    totalswap: int
    freeswap: int
    procs: int

    def pack(self, bits: int = 64) -> bytes:
        """As the kernel lays it out for a task whose `long` has that many bits.

        For a 32-bit one sizes are in pages when they would not fit otherwise.
        """
        sizes = (self.totalram, self.freeram, self.sharedram, self.bufferram, self.totalswap, self.freeswap)
        unit = 1
        if bits == 32 and (self.totalram >> 32 or self.totalswap >> 32):  # noqa: PLR2004 - the width
            unit = _PAGE
        shown = (size // unit for size in sizes)
        return _LONG[bits].pack(self.uptime, *self.loads, *shown, min(self.procs, 0xFFFF), 0, 0, 0, unit)


def sysinfo(view: View) -> Sysinfo:
    """As of now."""
    shown = resources.visible_memory(share.memory(view), share.host_memory(view))
    load = loadavg.load(view)
    one, five, fifteen = (average << (_SI_LOAD_SHIFT - FSHIFT) for average in load.averages)
    return Sysinfo(
        uptime=-(-share.uptime(view) // 1_000_000_000),  # do_sysinfo() rounds up
        loads=(one, five, fifteen),
        totalram=shown.total,
        freeram=shown.free,
        sharedram=shown.shared,
        bufferram=0,
        totalswap=shown.swap_total,
        freeswap=shown.swap_free,
        procs=resources.tasks(share.cgroups(view)) or max(1, load.tasks.total),
    )
