"""mount(2) and umount2(2) inside a container: emulated, against the same calls left to the kernel.

Both sides are containers of ours with the same namespaces and the same root filesystem; the policy of the native side
leaves both calls to the kernel, so that no filter stands in their way. Measured in turn, compared pair by pair.
Usage: ``python bench/mounts.py [--quick]`` (root).
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import _container

PAIRS = (
    # what, kind with us, kind natively
    ("tmpfs by the agent (stand-in)", "stand-in", "tmpfs"),
    ("tmpfs, continued", "tmpfs", "tmpfs"),
    ("proc", "proc", "proc"),
    ("sysfs", "sysfs", "sysfs"),
    ("overlay, as real root", "overlay", "overlay-userxattr"),
    ("overlay, continued", "overlay-userxattr", "overlay-userxattr"),
)
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
            output = host.run(kind, root, ["/bin/mounts", kind, count], {"interceptor.policy": policy})
            mounting, unmounting = output.split()
            return int(mounting) / 1000, int(unmounting) / 1000

        print(f"mount(2) and umount2(2), medians of {rounds} rounds of {count} each; native in brackets")
        for what, ours, native in PAIRS:
            pairs = [(once(ours, "default"), once(native, "bench-native")) for _ in range(rounds)]
            print(f"  {what:30} mount {_compare(pairs, 0)}   umount2 {_compare(pairs, 1)}")


def _compare(pairs: list[tuple[tuple[float, float], tuple[float, float]]], which: int) -> str:
    ours = statistics.median(a[which] for a, _ in pairs)
    native = statistics.median(b[which] for _, b in pairs)
    ratio = statistics.median(a[which] / b[which] for a, b in pairs)
    return f"{ours:6.1f} µs ({native:5.1f}) {ratio:5.2f}×"


if __name__ == "__main__":
    main()
