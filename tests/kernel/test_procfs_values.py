"""The computed leaves of real cgroups, against a reference that reads the same files by itself."""

from __future__ import annotations

import math
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import cgroup_box, reference
from support.cgroup_box import Box, box
from support.waiting import wait_for

from runtime import mountinfo, resources
from runtime.procfs.leaf import View
from runtime.procfs.values import LEAVES, loadavg, share
from runtime.procfs.values.loadavg import Load

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.skipif(cgroup_box.missing() is not None, reason=str(cgroup_box.missing())),
]

MiB = 1 << 20
READ = {leaf.path: leaf.read for leaf in LEAVES}


@pytest.fixture
def outer() -> Iterator[Box]:
    with box("values") as made:
        made.memory(512 * MiB)
        made.cpus(1.5)
        yield made


def view_of(pid: int) -> View:
    membership = os.fsdecode(Path(f"/proc/{pid}/cgroup").read_bytes())
    table = mountinfo.parse(Path("/proc/self/mountinfo").read_text(encoding="utf-8"))
    return View(resources.directories(membership, table), init_pid=pid)


def meminfo(view: View) -> dict[str, int]:
    content = READ["/proc/meminfo"](view).decode("ascii")
    return {name: int(value) for name, value in re.findall(r"^(\S+): +(\d+) kB$", content, re.MULTILINE)}


def cpus(view: View) -> set[int]:
    """How many CPUs each file shows."""
    return {
        len(resources.parse_list(READ["/sys/devices/system/cpu/online"](view))),
        len(resources.parse_list(READ["/sys/devices/system/cpu/present"](view))),
        READ["/proc/cpuinfo"](view).count(b"processor\t:"),
        len(re.findall(rb"^cpu\d+ ", READ["/proc/stat"](view), re.MULTILINE)),
    }


def test_memory_and_cpus_are_the_limits_and_follow_them(outer: Box) -> None:
    with outer.run("sleep", "60") as pid:
        view, wanted = view_of(pid), reference.expected(pid)
        assert wanted.memory == 512 << 10
        shown = meminfo(view)
        assert (shown["MemTotal"], shown["SwapTotal"]) == (wanted.memory, wanted.swap)
        assert shown["MemTotal"] - shown["MemFree"] == pytest.approx(reference.usage(pid) >> 10, abs=512)
        # What the cgroup around uses itself (v2: some of the kernel's memory) is not available, and is not this one's use.
        assert shown["MemFree"] - 1024 <= shown["MemAvailable"] <= shown["MemTotal"]
        assert cpus(view) == {wanted.cpus}
        outer.memory(256 * MiB)
        outer.cpus(0.5)
        wait_for(lambda: meminfo(view)["MemTotal"] == 256 << 10 and cpus(view) == {1}, "the new limits", within=1)
        assert reference.expected(pid).cpus == 1


def test_an_inner_cgroup_has_limits_of_its_own(outer: Box) -> None:
    inner = Box(f"{outer.name}/docker")
    inner.memory(64 * MiB)
    inner.cpus(0.5)
    with outer.run("sleep", "60") as around, inner.run("sleep", "60") as inside:
        assert meminfo(view_of(inside))["MemTotal"] == reference.expected(inside).memory == 64 << 10
        assert cpus(view_of(inside)) == {1}
        assert meminfo(view_of(around))["MemTotal"] == 512 << 10
        assert cpus(view_of(around)) == {reference.expected(around).cpus}
        inner.memory(1 << 40)
        assert meminfo(view_of(inside))["MemTotal"] == 512 << 10, "what is set below cannot widen"


def test_what_is_written_to_files_and_memory_is_seen(outer: Box, tmp_path: Path) -> None:
    script = f"head -c {32 * MiB} /dev/zero > {tmp_path}/f; cat {tmp_path}/f > /dev/null; exec sleep 60"
    with outer.run("sh", "-c", script) as pid:
        view = view_of(pid)
        wait_for(lambda: meminfo(view)["Cached"] >= 32 << 10, "what was written", within=20)
        shown = meminfo(view)
        assert shown["MemTotal"] - shown["MemFree"] >= 32 << 10
        assert shown["MemAvailable"] - shown["MemFree"] >= 16 << 10, "file pages can be given back"


def test_cpu_times_are_what_the_cgroup_used_and_only_grow(outer: Box) -> None:
    burn = "i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done; exec sleep 60"
    with outer.run("sh", "-c", burn) as pid:
        view, before = view_of(pid), list[int]()
        view.state["boot_offset"] = -time.clock_gettime_ns(time.CLOCK_BOOTTIME)  # it started now

        def spent() -> tuple[float, float]:
            """Seconds of the cgroup's, and of all CPUs that are seen."""
            return reference.cpu_seconds(pid), share.uptime(view) / 1e9 * len(share.cpus(view).visible)

        end = time.monotonic() + 1
        while time.monotonic() < end:
            least = spent()
            line = READ["/proc/stat"](view).splitlines()[0]
            now = [int(word) for word in line.split()[1:]]
            assert not before or all(new >= old for new, old in zip(now, before, strict=True)), (before, now)
            before = now
        shown = (before[0] + before[2]) / 100, sum(before) / 100
        for value, low, high, within in zip(shown, least, spent(), (0.1, 0.3), strict=True):
            assert low - within <= value <= high + within


def test_the_load_of_three_spinning_tasks_is_three_and_that_of_another_none(
    outer: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the clock of the test's: what the kernel does in three minutes, in the time of 36 looks at the tasks."""
    now = 0
    monkeypatch.setattr(loadavg.time, "monotonic_ns", lambda: now)
    spin = "(while :; do :; done) & (while :; do :; done) & while :; do :; done"
    with (
        box("idle") as other,
        other.run("sleep", "60") as idle,
        outer.run("sh", "-c", spin) as pid,
    ):
        busy, quiet = view_of(pid), view_of(idle)
        wait_for(lambda: loadavg.look(share.cgroups(busy).own, "/proc").running == 3, "three tasks", within=5)
        for now in range(0, 180_000_000_000, loadavg.PERIOD):  # noqa: B007 - the clock of the code under test
            READ["/proc/loadavg"](busy)
            READ["/proc/loadavg"](quiet)
        one, five, fifteen, tasks, _ = READ["/proc/loadavg"](busy).decode().split()
        for shown, constant in ((one, 60), (five, 300), (fifteen, 900)):
            assert float(shown) == pytest.approx(3 * (1 - math.exp(-180 / constant)), abs=0.1)
        assert tasks == "3/3"
        assert READ["/proc/loadavg"](quiet).decode().startswith("0.00 0.00 0.00 1/1 ")


def test_every_leaf_has_the_form_of_its_namesake() -> None:
    """Of a process that no cgroup limits: the same lines, with the same names, as the kernel's own file has."""
    view = view_of(os.getpid())
    for path in ("/proc/meminfo", "/proc/vmstat"):
        names = [line.split()[0] for line in Path(path).read_text(encoding="ascii").splitlines()]
        assert [line.split()[0].decode() for line in READ[path](view).splitlines()] == names
    for path in ("/proc/pressure/cpu", "/proc/pressure/io", "/proc/pressure/memory"):
        if Path(path).exists():
            shape = re.sub(r"\d+", "N", Path(path).read_text(encoding="ascii"))
            assert re.sub(r"\d+", "N", READ[path](view).decode()) == shape
    words = [len(line.split()) for line in Path("/proc/stat").read_text().splitlines() if line.startswith("cpu")]
    assert [len(line.split()) for line in READ["/proc/stat"](view).splitlines() if line.startswith(b"cpu")] == words
    assert re.fullmatch(rb"(\d+\.\d\d ){3}\d+/\d+ \d+\n", READ["/proc/loadavg"](view))
    assert READ["/proc/swaps"](view).splitlines()[0] == Path("/proc/swaps").read_bytes().splitlines()[0]
    assert READ["/proc/slabinfo"](view) == b"".join(Path("/proc/slabinfo").read_bytes().splitlines(keepends=True)[:2])
    node = "/sys/devices/system/node/node0"
    if Path(node).exists() and reference.expected(os.getpid()).cpus == os.cpu_count():
        for name in ("cpulist", "cpumap"):
            assert READ[f"{node}/{name}"](view) == Path(f"{node}/{name}").read_bytes()
        assert len(READ[f"{node}/meminfo"](view).splitlines()) == len(Path(f"{node}/meminfo").read_bytes().splitlines())


def test_a_load_is_kept_from_one_look_to_the_next() -> None:
    view = view_of(os.getpid())
    first = loadavg.load(view)
    assert isinstance(first, Load)
    assert loadavg.load(view) is first
