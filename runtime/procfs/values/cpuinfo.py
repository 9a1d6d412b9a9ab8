"""/proc/cpuinfo of a container: the host's entries of the CPUs that it sees.

`siblings` and `cpu cores` count what is seen. The host's file costs it an interrupt on each CPU for its frequency, so it
is read once a second for all containers.

Source: proc(5), "/proc/cpuinfo"; Linux arch/x86/kernel/cpu/proc.c, show_cpuinfo().
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Final

from interceptor.native.files import read
from runtime import resources
from runtime.procfs.leaf import Leaf, Rung
from runtime.procfs.values import share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtime.procfs.leaf import View

_PATH: Final = "/proc/cpuinfo"
_PRESENT: Final = "/sys/devices/system/cpu/present"
_PROCESSOR: Final = re.compile(rb"processor\s*:\s*(\d+)\n")
_FIELD: Final = re.compile(rb"^(physical id|core id)\s*:\s*(\d+)$", re.MULTILINE)
_COUNT: Final = re.compile(rb"^((?:siblings|cpu cores)\s*:) \d+$", re.MULTILINE)


def cpuinfo(view: View) -> bytes:
    """The file's content; made anew when the CPUs or the host's file have changed."""
    visible, content = share.cpus(view).visible, share.host(f"{view.proc}/cpuinfo")
    kept = view.state.get(_PATH)
    if kept is None or kept[0] != visible or kept[1] is not content:
        kept = view.state[_PATH] = (visible, content, select(content, visible))
    return bytes(kept[2])


def select(content: bytes, visible: Sequence[int]) -> bytes:
    """The entries of `visible`; what belongs to no CPU (some architectures end with it) stays."""
    wanted, kept = set(visible), []
    for block in content.split(b"\n\n"):
        number = _PROCESSOR.match(block.lstrip(b"\n"))
        if number is None or int(number[1]) in wanted:
            kept.append(block)
    places = [_place(block) for block in kept]
    packages = [package for package, _ in places]
    cores = [package for package, _ in set(places)]
    counted = [
        _COUNT.sub(lambda line, p=package: line[1] + b" %d" % _count(line[1], p, packages, cores), block)  # type: ignore[misc]
        for block, (package, _) in zip(kept, places, strict=True)
    ]
    return b"\n\n".join(counted)


def _place(block: bytes) -> tuple[bytes | None, bytes | None]:
    found = dict(_FIELD.findall(block))
    return found.get(b"physical id"), found.get(b"core id")


def _count(name: bytes, package: bytes | None, threads: Sequence[bytes | None], cores: Sequence[bytes | None]) -> int:
    return (threads if name.startswith(b"siblings") else cores).count(package)


@cache
def longest() -> int:
    """Of all CPUs that the host has."""
    content = read(_PATH)
    entries = len(_PROCESSOR.findall(content)) or 1
    return len(content) * max(entries, len(resources.parse_list(read(_PRESENT)))) // entries


LEAVES = (Leaf(_PATH, Rung.FUSE, cpuinfo, longest=longest),)
