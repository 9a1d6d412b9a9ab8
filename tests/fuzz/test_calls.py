"""Intercepted calls with random arguments, from a container's root: host, supervisor and other containers are unharmed.

Some ten thousand here; ten million in `make fuzz`, half of them in containers of each runtime.

What is random inside is not kind to itself: limits, priorities and mounts are taken away from whoever makes the calls. So
that is told apart, from outside, from what would be ours: who has lost a limit ends and is counted, priorities are given
back, a container is replaced. A call that is not answered is a failure, and so is an end that nobody can explain; then all
is printed that is known of the callers, the supervisor and its agents.
"""

from __future__ import annotations

import os
import platform
import random
import shutil
import signal
import struct
import subprocess
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import autopsy, whole
from support.waiting import PATIENCE, wait_for

from interceptor import registry
from interceptor.args import Arch
from interceptor.handlers.reboot import Magic1, Magic2
from interceptor.limits import Ceilings
from interceptor.policy_limits import RLIMITS
from interceptor.trace.ring import RETIRED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.registry import Syscall

CALLS = int(os.environ.get("INTERCEPTOR_FUZZ_CALLS", "30000")) // 2
"""With each runtime."""
SEED = int(os.environ.get("INTERCEPTOR_FUZZ_SEED", "0")) or random.randrange(1 << 30)  # noqa: S311 - no secret
SLICE = 50_000
"""Calls in one container. They take limits, priority and mounts away from each other: later ones would crawl, or not begin."""
STALL_S = 60 * PATIENCE
"""Without a single call's end: workers end after 20 s, and agents have deadlines of their own."""
BY_LIMITS = (128 + signal.SIGKILL, 128 + signal.SIGXCPU, 128 + signal.SIGXFSZ)
WORKS = "mount -t proc none /mnt && umount /mnt && hostname web-1 && echo done"
GROWTH_KB = 16384
"""Resident memory that the supervisor may gain, beside the traces that it keeps."""
TRACE_KB = 6144
"""Of one container, when it is full."""
RACED = 1_000_000
"""Calls for which one mount of the engine's may be gone: umount2(2) of another by the time that the kernel reads its name. Of
what the kernel has not locked, that it is refused is for programs that tidy up (docs/design.md, 7).
"""
CEILINGS = Ceilings(dict.fromkeys(RLIMITS.values(), 1 << 20), nice=-5, realtime_priority=2, io_realtime=6)
LIMITS = f"""\
  agent-deadline: 2s
  nice: {CEILINGS.nice}
  realtime-priority: {CEILINGS.realtime_priority}
  io-realtime: {CEILINGS.io_realtime}
  rlimits: {{{", ".join(f"{name}: {1 << 20}" for name in sorted(RLIMITS))}}}
  modules: ["there_is_none_*"]
  servers: {{nfs: ["127.0.0.1:/none"]}}
"""
WHOLE = (1 << 64) - 1
ALSO = {
    "reboot": {"magic1": Magic1.LINUX_REBOOT_MAGIC1, "magic2": Magic2.LINUX_REBOOT_MAGIC2A},
    "mknod": {"dev": 0x103},
    "mknodat": {"dev": 0x103},
    "bpf": {"size": 0x48},
    "sched_setattr": {"pid": 0},
    "sched_setscheduler": {"pid": 0},
    "sched_setparam": {"pid": 0},
    "prlimit64": {"pid": 0},
    "setpriority": {"who": 0},
    "quotactl_fd": {"fd": 4},
}
"""Values without which nearly all calls of that name would be refused for the same reason: call -> argument -> value."""

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.timeout(0 if CALLS > 100_000 else 300),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="makes calls of both architectures of x86"),
]


def every_call() -> str:
    """A policy under which all that is registered gets to its handler; with whatever a shipped policy switches on."""
    rules = "".join(f"  {name}: [{{do: emulate}}]\n" for name in sorted(registry.load()))
    return (
        f"extends: [docker, loop, xattr, chown]\nselectable: true\ncalls:\n{rules}limits:\n{LIMITS}"
        "filesystems: {nfs: emulate}\nmount: {overlay-nodes: true}\n"
    )


@pytest.fixture(scope="module", params=["runc", "crun"])
def host(request: pytest.FixtureRequest) -> Iterator[whole.Host]:
    with whole.host(request.param, {"every": every_call()}) as host:
        yield host


def words() -> list[str]:
    """Of all registered calls, for random_calls: as a 64-bit task makes them, and a 32-bit one."""
    found = []
    for row in registry.load().values():
        for arch, mark in ((Arch.X86_64, ""), (Arch.I386, "i")):
            number = registry.YOUNG.get(row.name) if row.young else row.number(arch)
            found += [f"{mark}{number}{_conditions(row)}"] if number is not None else []
    return found


def _conditions(row: Syscall) -> str:
    """What has to be in the registers so that the filter asks for the call."""
    at = {field.name: field.register for field in row.signature.fields}
    either = row.when or (row.lends(CEILINGS) if row.lends else None) or ()
    also = ALSO.get(row.name, {})
    return "".join(f":{at[c.field]:x},{c.mask & WHOLE:x},{c.value & WHOLE:x}" for c in either) + "".join(
        f"+{at[name]:x},{WHOLE:x},{value:x}" for name, value in also.items()
    )


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
        "supervisor": (
            supervisor,
            os.getpriority(os.PRIO_PROCESS, supervisor),
            os.sched_getscheduler(supervisor),
            limits,
        ),
        "mounts": sorted(line.split(" ", 3)[3] for line in mounts if not _of_another(host, line.split(" ", 5)[4])),
        "clock": round((time.time() - time.monotonic()) / 10),
        "null": Path("/dev/null").stat().st_mode,
        "root": Path("/").stat()[:6],
    }


def _of_another(host: whole.Host, point: str) -> bool:
    """Whether another test's, which may run beside: they go from our namespace, too, when it removes their directories."""
    return "/interceptor-" in point and not point.startswith(str(host.directory))


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
    begin, fuzz = time.monotonic(), Fuzz(host)
    with autopsy.when_it_fails(host):
        while fuzz.found["calls"] < CALLS:
            fuzz.make(min(SLICE, CALLS - fuzz.found["calls"]))
            print(f"\n{fuzz.summary(time.monotonic() - begin)}", end="", flush=True)
        print()
        assert other.sh(WORKS) == "done\n"
        assert not _differences(before, of_the_host(host)), f"seed {SEED}"
        assert not fuzz.unmet(), f"never in a trace: {fuzz.unmet()}"
        first.remove()
        other.sh("true")
        now = wait_for(lambda: _settled(host, resources), "sessions and agents to end", within=60)
        traces = min(fuzz.found["containers"], RETIRED)
        print(f"the supervisor has {now['kB'] - resources['kB']} kB more, with traces of {traces} containers that ended")
        assert now["kB"] < resources["kB"] + GROWTH_KB + traces * TRACE_KB


class Fuzz:
    """Random calls in one container after the other."""

    def __init__(self, host: whole.Host) -> None:
        self.host = host
        self.found: Counter[str] = Counter()
        self.met: set[str] = set()
        """Calls that were seen in a trace."""

    def make(self, calls: int) -> None:
        """So many in a new container, or fewer where they take away from each other what they need."""
        box = self.host.box("every")
        mounts = _mounts(box.init)
        counters = box.rootfs / "probe" / "counters"
        counters.write_bytes(bytes(4096))
        seed = SEED + self.found["calls"]
        run = Run(box, [str(calls), str(seed), "/probe/counters", *words()])
        try:
            run.wait(counters, self.found)
            self._explain(box, run, f"seed {SEED}, of these {seed}: {run.returncode} {run.output()}", mounts)
        finally:
            made = count(counters)
            self.found += made
            run.end()
        self.found["containers"] += 1
        self.found["early"] += made["calls"] < calls
        self.met |= {event["call"] for event in box.trace()}
        box.remove()
        shutil.rmtree(box.directory)
        log = self.host.log.read_text(errors="replace")
        assert "Traceback" not in log, f"seed {SEED}, of these {seed}: {log[-6000:]}"
        assert "call failed" not in log, f"seed {SEED}, of these {seed}: {log[-3000:]}"
        assert self.found["containers"] * SLICE < 10 * (CALLS + SLICE), f"they end too early; seed {SEED}"

    def _explain(self, box: whole.Box, run: Run, what: str, mounts: dict[bytes, bytes]) -> None:
        """Counts what the container has done to itself; AssertionError when that does not explain it."""
        left = _mounts(box.init)
        gone = [point for number, point in mounts.items() if number not in left] if left else []
        self.found["raced"] += len(gone)
        assert self.found["raced"] <= 1 + self.found["calls"] // RACED, f"{what}: mounts of the engine's are gone: {gone}"
        if not left:
            self.found["init"] += 1
        elif run.returncode == 0:
            return
        elif run.returncode in BY_LIMITS:
            self.found["limits"] += 1
        elif "/proc" in run.output() and not _shows_proc(box.init):
            self.found["proc"] += 1
        else:
            raise AssertionError(what)

    def unmet(self) -> set[str]:
        return {name for name, row in registry.load().items() if not row.young and row.number(Arch.X86_64)} - self.met

    def summary(self, seconds: float) -> str:
        found, hung = self.found, self.host.log.read_text(errors="replace").count("a call hangs")
        return (
            f"random calls, {self.host.runtime}: {found['calls']:,} of {len(words())} kinds in {seconds:.0f} s, "
            f"{found['succeeded']:,} succeeded, {found['refused']:,} refused, {found['eio']:,} EIO; {len(self.met)} calls in "
            f"traces; {found['containers']} containers, {found['early']} ended early (killed by limits {found['limits']}, "
            f"without init {found['init']}, without /proc {found['proc']}); {found['raced']} mounts gone by a race; "
            f"priorities restored {found['priorities']:,} times; "
            f"{hung} calls took the supervisor more than 10 s; seed {SEED}"
        )


class Run:
    """random_calls in a box."""

    def __init__(self, box: whole.Box, arguments: list[str]) -> None:
        program = box.probe("random_calls", "-pthread")
        self._output = box.directory / "said"
        with self._output.open("w") as stream:
            self._process = box.begin(program, *arguments, stdout=stream, stderr=stream)

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    def output(self) -> str:
        return self._output.read_text(errors="replace")[-3000:]

    def wait(self, counters: Path, found: Counter[str]) -> None:
        """Until it has ended. AssertionError when no call ends any more."""
        last, since = Counter[str](), time.monotonic()
        while True:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(0.5)
                return
            found["priorities"] += give_priorities_back(self._process.pid)
            now = count(counters)
            if now != last:
                last, since = now, time.monotonic()
            assert time.monotonic() < since + STALL_S, f"no call has ended for {STALL_S:g} s: {dict(last)}; seed {SEED}"

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def count(counters: Path) -> Counter[str]:
    names = ("calls", "succeeded", "refused", "eio")
    with counters.open("rb") as file:
        return Counter(dict(zip(names, struct.unpack("4Q", file.read(32)), strict=True)))


def give_priorities_back(pid: int) -> int:
    """To all below `pid`: else some would wait for others for long where a container has no CPU time of its own."""
    given = 0
    for task in autopsy.tasks_below(pid):
        with suppress(ProcessLookupError):
            if os.sched_getscheduler(task) != os.SCHED_OTHER:
                os.sched_setscheduler(task, os.SCHED_OTHER, os.sched_param(0))
                given += 1
            if os.getpriority(os.PRIO_PROCESS, task) != os.getpriority(os.PRIO_PROCESS, 0):
                os.setpriority(os.PRIO_PROCESS, task, os.getpriority(os.PRIO_PROCESS, 0))
                given += 1
    return given


def _differences(before: dict[str, object], now: dict[str, object]) -> list[str]:
    """Before, and now; of long lists what one of the two has not."""
    found = []
    for key, (old, new) in {key: (before[key], now[key]) for key in before if before[key] != now[key]}.items():
        lists = isinstance(old, list) and isinstance(new, list)
        found.append(
            f"{key}: {sorted(set(old) - set(new)) if lists else old}, {sorted(set(new) - set(old)) if lists else new}"
        )
    return found


def _mounts(init: int) -> dict[bytes, bytes]:
    """Number → point, as init sees them."""
    return {row[0]: row[4] for row in _mountinfo(init)}


def _shows_proc(init: int) -> bool:
    """Whether what lies at init's /proc, on top, is one."""
    types = [row[row.index(b"-") + 1] for row in _mountinfo(init) if row[4] == b"/proc"]
    return bool(types) and types[-1] == b"proc"


def _mountinfo(pid: int) -> list[list[bytes]]:
    """proc_pid_mountinfo(5); nothing of who has ended. Its names are random, too."""
    with suppress(OSError):
        return [line.split(b" ") for line in Path(f"/proc/{pid}/mountinfo").read_bytes().splitlines()]
    return []


def _settled(host: whole.Host, before: dict[str, int]) -> dict[str, int] | None:
    now = of_the_supervisor(host)
    return now if now["fds"] <= before["fds"] + 2 and now["threads"] <= before["threads"] + 1 else None
