"""The leaves of /proc and /sys: what it takes to read one, beside the kernel's own file and LXCFS, and what many readers cost.

One program in a container of ours reads in turn a leaf, the host's file of that name and what LXCFS has of it, so that all
meet the same machine. "Again" is a reader that comes back at once, and was there just before; "later" one that comes back after
the snapshot has expired, as top(1) does, and waits for a new one. LXCFS is there twice: as Debian's unit starts it, when it
passes on the host's load and ignores quotas, and with the options by which it shows the container's, as leaves do. Where the
first takes less than twenty times as long as a leaf, a plain file of tmpfs is mounted over the host's one, and all are read
again: no file in that place is opened and read faster. Then many containers are polled, with their reads spread evenly.
LXCFS is Debian's package, installed for it; without it, the comparison is left out aloud.
Usage: ``python bench/procfs.py [--quick]`` (root).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import _container

from runtime.procfs.table import leaves as all_leaves

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HERE = Path(__file__).parent
NATIVE, LXCFS = "/native", "/lxcfs"
UPTIME = "/proc/uptime"
POLLED = ("/proc/meminfo", "/proc/stat", "/proc/loadavg", "/proc/cpuinfo")
READERS = 4
ASKED = 20
"""As many times faster than LXCFS."""
WAYS = {"LXCFS": (), "with load and quotas": ("--enable-loadavg", "--enable-cfs")}
"""How it is started."""
ON_ONE_CPU = ("taskset", "--cpu-list", str(max(os.sched_getaffinity(0))))
"""Where the reader runs, and LXCFS: to wake it on another CPU takes up to three times as long, now and then."""
OF_SYS = "/sys/devices/system/cpu/online"
"""What LXCFS makes itself in /sys; the rest there it reads from the host's for whoever asks."""
EXPIRED_US = 25_000
"""Longer than a snapshot is shown."""


def install() -> bool:
    if shutil.which("lxcfs") is None:
        with tempfile.NamedTemporaryFile("w", suffix=".apt") as wanted:
            wanted.write("lxcfs\n")
            wanted.flush()
            subprocess.run([HERE.parent / "requirements/install", wanted.name], stdout=subprocess.DEVNULL, check=False)
    return shutil.which("lxcfs") is not None


@contextlib.contextmanager
def lxcfs(directory: Path) -> Iterator[dict[str, Path]]:
    """Where it is mounted below `directory`, in each of its WAYS; nowhere if it is not there."""
    with contextlib.ExitStack() as undo:
        if not install():
            print("LXCFS is left out: it is not installed, and cannot be")
            yield {}
            return
        mounted = {way: directory / f"lxcfs-{number}" for number, way in enumerate(WAYS)}
        if not all(undo.enter_context(one_lxcfs(at, WAYS[way])) for way, at in mounted.items()):
            print("LXCFS is left out: it does not start here")
            mounted = {}
        yield mounted


@contextlib.contextmanager
def one_lxcfs(at: Path, options: Sequence[str]) -> Iterator[bool]:
    """Mounted at `at`, or not."""
    at.mkdir()
    argv = [*ON_ONE_CPU, "lxcfs", "--foreground", "--pidfile", at.with_suffix(".pid"), *options, at]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not (at / "proc").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        yield (at / "proc").exists()
    finally:
        process.terminate()
        process.wait()


def times(program: Path, init: int, count: int, spacing: int, *paths: str) -> list[float]:
    """Microseconds for each, in the container's pid namespace and with its root as working directory."""
    enter = [*ON_ONE_CPU, "nsenter", f"--target={init}", "--pid", "--", program, "time", str(count), str(spacing)]
    said = subprocess.run([*enter, *paths], cwd=f"/proc/{init}/root", check=True, stdout=subprocess.PIPE, text=True)
    return [int(word) / 1000 for word in said.stdout.split()]


def least(program: Path, init: int, paths: Sequence[str], count: int) -> list[float]:
    """The same with a plain file in the place of the host's, the second of `paths`."""
    with tempfile.NamedTemporaryFile(prefix="interceptor-bench-", dir=_container.a_tmpfs()) as plain:
        plain.write(Path(paths[1]).read_bytes())
        plain.flush()
        subprocess.run(["mount", "--bind", plain.name, paths[1]], check=True)
        try:
            return times(program, init, count, 0, *paths)
        finally:
            subprocess.run(["umount", paths[1]], check=True)


def compare(program: Path, init: int, theirs: dict[str, Path], count: int, spacing: int) -> None:
    """Each leaf, the host's file, and those of LXCFS where it has one: medians. The reader is a process of the container's
    pid namespace, for LXCFS shows whose that is, in the host's mounts, where all can be reached.
    """
    for path in (UPTIME, *dict.fromkeys(leaf.path for leaf in all_leaves() if leaf.write is None)):
        if not Path(path).exists():
            continue
        paths, ways = [path[1:], path], []
        with contextlib.suppress(OSError, ValueError):  # it lists files of sysfs that it does not serve
            for way, at in theirs.items():
                if Path(f"{at}{path}").read_bytes():
                    paths.append(f"{at}{path}")
                    ways.append(way)
        mine, native, *others = times(program, init, count, spacing, *paths)
        line = f"    {path:36} {mine:7.2f} µs   native {native:7.2f} µs {mine / native:5.2f}×"
        for way, other in zip(ways, others, strict=True):
            line += f"   {way} {other:6.1f} µs {other / mine:5.1f}×"
        if others and path.startswith("/sys") and path != OF_SYS:
            line += " (the host's)"
        if others and not spacing and others[0] < ASKED * mine:
            _, plain, other, *_ = least(program, init, paths, count)
            line += f"   a plain file {plain:4.2f} µs {other / plain:5.1f}×"
        print(line, flush=True)


def cost(host: _container.Host, root: Path, number: int, seconds: int) -> None:
    """`number` containers, 4 readers in each, that read POLLED once a second."""
    names = [f"polled-{n}" for n in range(number)]
    for name in names:
        host.start(name, root, ["/bin/procfs", "poll", str(READERS), *POLLED])
    supervisor = host.supervisor()
    begin, used = time.monotonic(), cpu_seconds(supervisor)
    time.sleep(seconds)
    share = (cpu_seconds(supervisor) - used) / (time.monotonic() - begin)
    for name in names:
        host.delete(name)
    who = f"{number} containers, {READERS} readers each, {len(POLLED)} files a second"
    print(f"{who}: the supervisor takes {share:.1%} of a CPU")


def cpu_seconds(pid: int) -> float:
    """User and system time of all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer reads and containers: does it run, not how fast")
    quick = parser.parse_args().quick
    again, later = (50, 2) if quick else (5000, 100)
    _container.in_private_namespace()
    with _container.host() as host, lxcfs(host.directory) as theirs:
        root = host.program(Path(__file__).with_suffix(".c"))
        host.start("procfs", root, ["/bin/procfs", "poll", "1", UPTIME])
        for when, count, spacing in (("again", again, 0), ("later", later, EXPIRED_US)):
            print(f"open, read, close of a file, {when}: medians of {count}")
            compare(root / "bin/procfs", host.init("procfs"), theirs, count, spacing)
        host.delete("procfs")
        cost(host, root, *((2, 2) if quick else (64, 10)))


if __name__ == "__main__":
    main()
