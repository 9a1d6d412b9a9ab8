"""mount(2) and umount2(2) inside a container: emulated, against the same calls left to the kernel.

Both sides are containers of ours with the same namespaces and the same root filesystem; the policy of the native side
leaves both calls to the kernel, so that no filter stands in their way. Measured in turn, compared pair by pair; "both" is a
mount with its unmount. A stand-in is a read-only tmpfs that the agent attaches; all of one type share a superblock, as
debugfs does, so that neither a superblock is made for each nor one torn down.
Usage: ``python bench/mounts.py [--quick]`` (root).
"""

from __future__ import annotations

import argparse
import statistics
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

import _container

if TYPE_CHECKING:
    from collections.abc import Callable

PAIRS = (
    # what, kind with us, kind natively
    ("tmpfs by the agent (stand-in)", "stand-in", "tmpfs"),
    ("tmpfs, continued", "tmpfs", "tmpfs"),
    ("proc", "proc", "proc"),
    ("sysfs", "sysfs", "sysfs"),
    ("proc with leaves", "proc", "proc"),
    ("sysfs with leaves", "sysfs", "sysfs"),
    ("overlay, as real root", "overlay", "overlay-userxattr"),
    ("overlay, continued", "overlay-userxattr", "overlay-userxattr"),
)
LEAVES = "docker"
"""The policy whose containers get leaves over what they mount; they make fewer of them."""
NATIVE = """\
description: everything is the kernel's
selectable: true
default: native
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer calls and rounds: does it run, not how fast")
    quick = parser.parse_args().quick
    count, rounds = ("200", 2) if quick else ("2000", 7)
    _container.in_private_namespace()
    with _container.host() as host:
        (host.policies / "bench-native.yaml").write_text(NATIVE)
        root = host.program(Path(__file__).with_suffix(".c"))

        def once(kind: str, policy: str) -> tuple[float, float]:
            many = str(int(count) // 20) if policy == LEAVES else count
            output = host.run(kind, root, ["/bin/mounts", kind, many], {"interceptor.policy": policy})
            mounting, unmounting = output.split()
            return int(mounting) / 1000, int(unmounting) / 1000

        print(f"mount(2) and umount2(2), medians of {rounds} rounds of {count} each; native in brackets")
        for what, ours, native in PAIRS:
            policy = LEAVES if "leaves" in what else "default"
            pairs = [(once(ours, policy), once(native, "bench-native")) for _ in range(rounds)]
            print(f"  {what:30} mount {_compare(pairs, 0)}   umount2 {_compare(pairs, 1)}   both {_ratio(pairs, sum):5.2f}×")


Pair = tuple[float, float]
"""Of mount(2) and of umount2(2), µs."""


def _compare(pairs: list[tuple[Pair, Pair]], which: int) -> str:
    ours = statistics.median(a[which] for a, _ in pairs)
    native = statistics.median(b[which] for _, b in pairs)
    return f"{ours:6.1f} µs ({native:5.1f}) {_ratio(pairs, itemgetter(which)):5.2f}×"


def _ratio(pairs: list[tuple[Pair, Pair]], of: Callable[[Pair], float]) -> float:
    return statistics.median(of(a) / of(b) for a, b in pairs)


if __name__ == "__main__":
    main()
