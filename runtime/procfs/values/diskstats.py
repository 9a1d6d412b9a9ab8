"""/proc/diskstats of a container: the block devices that it used, with what it read, wrote and discarded.

The host's other devices are left out. What cgroups do not count (merges, times, flushes) is 0.

Source: proc(5), "/proc/diskstats"; Linux block/genhd.c, diskstats_show(); Documentation/admin-guide/iostats.rst.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

from interceptor.native.files import read
from runtime import resources
from runtime.procfs.leaf import Leaf, Rung
from runtime.procfs.values import share

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runtime.procfs.leaf import View

_PATH: Final = "/proc/diskstats"
_SECTOR: Final = 512
_LINE: Final = 128
"""Bytes of a line that tells of years of work."""
_COUNTERS: Final = ("reads", "read_bytes", "writes", "written_bytes", "discards", "discarded_bytes")


def diskstats(view: View) -> bytes:
    """The file's content."""
    grown, lines = share.growing(view, _PATH), []
    names: Mapping[tuple[int, int], str] = share.host(f"{view.proc}/diskstats", _names)
    used = resources.io(share.cgroups(view))
    for device, io in used.items():
        for counter in _COUNTERS:
            grown((device, counter), getattr(io, counter))
    for device, name in names.items():  # in the host's order
        if (device, "reads") in grown.shown:
            n = {counter: grown.shown[device, counter] for counter in _COUNTERS}
            lines.append(
                f"{device[0]:4} {device[1]:7} {name} {n['reads']} 0 {n['read_bytes'] // _SECTOR} 0"
                f" {n['writes']} 0 {n['written_bytes'] // _SECTOR} 0 0 0 0"
                f" {n['discards']} 0 {n['discarded_bytes'] // _SECTOR} 0 0 0\n"
            )
    return "".join(lines).encode("utf-8", "surrogateescape")


def _names(content: bytes) -> dict[tuple[int, int], str]:
    rows = (line.split(None, 3) for line in content.decode("utf-8", "surrogateescape").split("\n"))
    return {(int(row[0]), int(row[1])): row[2] for row in rows if len(row) > 2}  # noqa: PLR2004 - major, minor, name


@cache
def longest() -> int:
    """Of all devices that there are."""
    return _LINE * read(_PATH).count(b"\n")


LEAVES = (Leaf(_PATH, Rung.FUSE, diskstats, longest=longest),)
