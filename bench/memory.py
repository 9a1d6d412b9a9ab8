"""What the supervisor holds in memory, alone and per idle container, all its processes together.

Resident set size as /proc/PID/smaps_rollup gives it, of the supervisor and its children. An idle container is one that
runs and makes no intercepted call. Usage: ``python bench/memory.py [--quick]`` (root).
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

import _container


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer containers")
    count = 3 if parser.parse_args().quick else 20
    _container.in_private_namespace()
    with _container.host() as host:
        root = host.program(Path(__file__).with_name("idle.c"))
        pid = host.supervisor()
        alone = resident(pid)
        for number in range(count):
            host.start(f"idle-{number}", root, ["/bin/idle"])
        loaded = resident(pid)
        for number in range(count):
            host.delete(f"idle-{number}")
    print(f"supervisor alone           {alone / 1024:6.1f} MB")
    print(f"per idle container, of {count:3} {(loaded - alone) / count:6.0f} kB")


def resident(pid: int) -> int:
    """kB of a process and its children."""
    children = subprocess.run(["pgrep", "-P", str(pid)], stdout=subprocess.PIPE, text=True, check=False).stdout.split()
    return sum(_rss(one) for one in [pid, *map(int, children)])


def _rss(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Rss:"))


if __name__ == "__main__":
    main()
