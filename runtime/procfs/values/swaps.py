"""/proc/swaps of a container: one line for the swap that it may use, none where it may use none.

The host's devices and files are not named. The size is that of meminfo's SwapTotal.

Source: proc(5), "/proc/swaps"; Linux mm/swapfile.c, swap_show().
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime import resources
from runtime.procfs.leaf import Leaf, Rung
from runtime.procfs.values import share

if TYPE_CHECKING:
    from runtime.procfs.leaf import View

_HEADER = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"


def swaps(view: View) -> bytes:
    """The file's content."""
    shown = resources.visible_memory(share.memory(view), share.host_memory(view))
    total = shown.swap_total >> 10
    if not total:
        return _HEADER.encode("ascii")
    used = total - (shown.swap_free >> 10)
    wide = ["\t" if number < 10_000_000 else "" for number in (total, used)]  # noqa: PLR2004 - swap_show()'s columns
    return f"{_HEADER}{'none':<40}virtual\t\t{total}\t{wide[0]}{used}\t{wide[1]}0\n".encode("ascii")


LEAVES = (Leaf("/proc/swaps", Rung.FUSE, swaps),)
