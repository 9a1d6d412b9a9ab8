"""Intercepted calls with random arguments, from a container's root: host, supervisor and other containers are unharmed.

Some ten thousand here; ten million in `make fuzz`.
"""

from __future__ import annotations

import os
import platform
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import whole
from support.waiting import wait_for

from interceptor import registry
from interceptor.args import Arch

if TYPE_CHECKING:
    from collections.abc import Iterator

CALLS = int(os.environ.get("INTERCEPTOR_FUZZ_CALLS", "30000"))
SLICE = 50_000
"""Calls in one container. They take limits, priority and mounts away from each other: later ones would crawl, or not begin."""
BY_LIMITS = (128 + signal.SIGKILL, 128 + signal.SIGXCPU, 128 + signal.SIGXFSZ)
WORKS = "mount -t proc none /mnt && umount /mnt && hostname web-1 && echo done"
GROWTH_KB = 32768
"""Resident memory that the supervisor may gain: its traces fill meanwhile."""

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.timeout(0 if CALLS > 100_000 else 300),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="makes calls of both architectures of x86"),
]


def every_call() -> str:
    """A policy under which all that is registered is intercepted and gets to its handler."""
    rules = "".join(f"  {name}: [{{do: emulate}}]\n" for name in sorted(registry.load()))
    return f"extends: [default, xattr, chown]\nselectable: true\nlimits: {{agent-deadline: 2s}}\ncalls:\n{rules}"


@pytest.fixture(scope="module")
def host() -> Iterator[whole.Host]:
    with whole.host("crun", {"every": every_call()}) as host:
        yield host


def numbers() -> list[str]:
    """Of all registered calls: as a 64-bit task makes them, and a 32-bit one."""
    found = []
    for row in registry.load().values():
        for arch, mark in ((Arch.X86_64, ""), (Arch.I386, "i")):
            number = row.number(arch)
            found += [f"{mark}{number}"] if number is not None else []
    return found


def of_the_host(host: whole.Host) -> dict[str, object]:
    """What a container must not change, and nothing else does meanwhile."""
    names = ("kernel/hostname", "kernel/domainname", "kernel/panic", "kernel/sysrq", "kernel/core_pattern", "kernel/modprobe",
             "vm/overcommit_memory", "fs/protected_symlinks", "vm/swappiness")  # fmt: skip
    supervisor = host.supervisor_pid()
    limits = Path(f"/proc/{supervisor}/limits").read_text()
    mounts = host.run("cat", "/proc/self/mountinfo").stdout.splitlines()
    return {
        "sysctl": {name: path.read_text() for name in names if (path := Path("/proc/sys") / name).exists()},
        "swaps": Path("/proc/swaps").read_text(),
        "supervisor": (supervisor, os.getpriority(os.PRIO_PROCESS, supervisor), os.sched_getscheduler(supervisor), limits),
        "mounts": sorted(line.split(" ", 3)[3] for line in mounts),
        "clock": round((time.time() - time.monotonic()) / 10),
        "null": Path("/dev/null").stat().st_mode,
        "root": Path("/").stat()[:6],
    }


def of_the_supervisor(host: whole.Host) -> dict[str, int]:
    pid = host.supervisor_pid()
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {
        "fds": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "threads": int(status["Threads"]),
        "kB": int(status["VmRSS"].split()[0]),
    }


def test_random_calls_harm_nobody(host: whole.Host) -> None:
    other = host.box()
    assert other.sh(WORKS) == "done\n"
    first = host.box("every")
    assert first.exec("true").returncode == 0, host.log.read_text()[-4000:]
    before, resources = of_the_host(host), of_the_supervisor(host)
    begin = time.monotonic()
    seed = random.randrange(1 << 30)  # noqa: S311 - no secret
    found: Counter[str] = Counter()
    while found["calls"] < CALLS:
        found += random_calls(host, min(SLICE, CALLS - found["calls"]), seed + found["calls"])
        found["slices"] += 1
        assert found["slices"] * SLICE < 10 * (CALLS + SLICE), f"they end too early; seed {seed}"
    print(f"\nrandom calls: {found['calls']:,} of {len(numbers())} kinds in {time.monotonic() - begin:.0f} s, "
          f"{found['succeeded']:,} succeeded, {found['refused']:,} refused, {found['eio']:,} EIO; seed {seed}")  # fmt: skip
    log = host.log.read_text()
    assert "Traceback" not in log, f"seed {seed}: {log[-6000:]}"
    assert "call failed" not in log, f"seed {seed}: {log[-3000:]}"
    assert other.sh(WORKS) == "done\n"
    assert of_the_host(host) == before, f"seed {seed}"
    first.remove()
    other.sh("true")
    now = wait_for(lambda: _settled(host, resources), "sessions and agents to end", within=60)
    assert now["kB"] < resources["kB"] + GROWTH_KB


def random_calls(host: whole.Host, calls: int, seed: int) -> Counter[str]:
    box = host.box("every")
    done = box.exec(box.probe("random_calls", "-pthread"), str(calls), str(seed), *numbers(), timeout=600)
    box.remove()
    shutil.rmtree(box.directory)
    if done.returncode in BY_LIMITS:
        return Counter()
    assert done.returncode == 0, f"seed {seed}: {done.stderr}{host.log.read_text()[-3000:]}"
    words = done.stdout.split()
    return Counter({key: int(value) for key, value in zip(words[::2], words[1::2], strict=True)})


def _settled(host: whole.Host, before: dict[str, int]) -> dict[str, int] | None:
    now = of_the_supervisor(host)
    return now if now["fds"] <= before["fds"] + 2 and now["threads"] <= before["threads"] + 1 else None
