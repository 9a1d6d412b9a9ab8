"""Counters of a container under load only grow, its load follows its own tasks, and its neighbour's stays where it is."""

from __future__ import annotations

import math
import os
import re
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import whole
from support.pressure import WAIT, counted
from support.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.root, pytest.mark.kernel]

SECONDS = 11
COUNTED = (
    "/proc/stat",
    "/proc/diskstats",
    "/proc/vmstat",
    "/proc/pressure/cpu",
    "/proc/pressure/io",
    "/proc/pressure/memory",
)
LOAD = """
for i in 1 2 3; do (while :; do :; done) & done
(while :; do dd if=/dev/zero of=/data/file bs=64k count=16 oflag=direct 2>/dev/null; rm -f /data/file; done) &
exec sleep 1000
"""
GAUGES = re.compile(r"nr_|procs_|cpu_stat|workingset_nodes|balloon_cur|avg\d+=")
"""Of vmstat and stat what is measured and not counted; of pressure the averages."""


@pytest.fixture(scope="module")
def boxes() -> Iterator[tuple[whole.Box, whole.Box]]:
    with whole.host("runc") as host:
        busy = whole.Box(host, whole.ALL, ())
        host.undo.callback(busy.remove)
        busy.change(_count_blocks)
        busy.start()
        if "fuse" not in busy.sh("cat /proc/self/mounts"):
            pytest.skip("no leaves: this host has no FUSE")
        (busy.rootfs / "bin/dd").symlink_to("busybox")
        busy.sh(f"(trap '' HUP; {LOAD}) >/dev/null 2>&1 &")
        yield busy, host.box()


def _count_blocks(config: dict[str, Any]) -> None:
    """cgroup v1 counts of a device what it throttles; so much is no limit."""
    device = Path(config["root"]["path"]).stat().st_dev
    if os.major(device):
        row = {"major": os.major(device), "minor": os.minor(device), "rate": 1 << 30}
        config["linux"]["resources"]["blockIO"] = {"throttleReadIOPSDevice": [row], "throttleWriteIOPSDevice": [row]}


def counters(text: str) -> dict[tuple[str, int], int]:
    """Every number that only grows, by its line's name and its place in it."""
    found = {}
    for line in text.splitlines():
        name, *words = line.split()
        if name.isdigit():  # of diskstats: the numbers of a device, its name, and what is counted; the ninth is a gauge
            name, words = words[1], [word for place, word in enumerate(words[2:]) if place != 8]
        numbers = [word.rpartition("=")[2] for word in words if not GAUGES.search(word)]
        if not GAUGES.search(name):
            found |= {(name, place): int(word) for place, word in enumerate(numbers) if word.isdigit()}
    return found


def test_counters_grow_and_the_load_is_the_containers_own(boxes: tuple[whole.Box, whole.Box]) -> None:
    busy, _ = boxes
    begin = time.monotonic()
    first: dict[str, dict[tuple[str, int], int]] = {}
    last: dict[str, dict[tuple[str, int], int]] = {}
    while time.monotonic() < begin + SECONDS:
        shown = busy.sh("for f in " + " ".join(COUNTED) + '; do echo "== $f"; cat $f; done')
        for part in shown.split("== ")[1:]:
            path, _, text = part.partition("\n")
            now = counters(text)
            fell = {key: (value, now.get(key)) for key, value in last.get(path, {}).items() if now.get(key, -1) < value}
            assert not fell, f"{path}: {fell}\n{text}"
            last[path] = now
            first.setdefault(path, now)
    load, quiet = (float(box.sh("cat /proc/loadavg").split()[0]) for box in boxes)
    # It was looked at every five seconds: at least once since the tasks run, and as often as the time allows at most.
    passed = time.monotonic() - begin
    assert 3 * (1 - math.exp(-5 / 60)) * 0.8 <= load <= 4 * (1 - math.exp(-(passed + 5) / 60)) + 0.1
    assert quiet <= 0.15, "one look at a command of ours"
    grown = {path for path in last if sum(last[path].values()) > sum(first[path].values())}
    assert grown >= {"/proc/stat", "/proc/vmstat"}
    for path, where in (("/proc/diskstats", "blkio"), ("/proc/pressure/cpu", "unified")):
        assert path in grown or not Path("/sys/fs/cgroup", where).is_dir(), path


def test_a_container_can_wait_for_its_own_pressure(boxes: tuple[whole.Box, whole.Box]) -> None:
    """By /proc/pressure, whatever layout of cgroups is seen inside."""
    busy, quiet = boxes
    counted(busy)
    waiters = {}
    for box in boxes:
        command = ["python3", "-c", WAIT, f"/proc/{box.init}/root/proc/pressure/cpu"]
        waiters[box.id] = subprocess.Popen(command, cwd="/")
    try:
        assert waiters[busy.id].wait(60 * PATIENCE) == 0
        assert waiters[quiet.id].poll() is None, "nothing happens there"
    finally:
        for waiter in waiters.values():
            waiter.kill()
            waiter.wait()
    busy.sh("! echo some 50000 1000000 > /proc/pressure/cpu && ! echo some > /proc/pressure/cpu")


def test_a_containers_root_can_wait_for_pressure_in_its_own_cgroup(boxes: tuple[whole.Box, whole.Box]) -> None:
    """As its root, though from outside: on this layout of cgroups engines show v1's hierarchies inside only."""
    busy, _ = boxes
    for box in boxes:
        file = counted(box)
        root = Path(f"/proc/{box.init}").stat().st_uid
        waiter = subprocess.Popen(["python3", "-c", WAIT, file], user=root, group=root, extra_groups=[], cwd="/")
        if box is busy:
            assert waiter.wait(60) == 0
        else:
            assert waiter.poll() is None, "nothing happens there"
            waiter.kill()
            waiter.wait()
