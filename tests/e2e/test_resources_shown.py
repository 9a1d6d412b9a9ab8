"""What programs in a container with limits size themselves by: they agree with the limits, and with each other.

The expected numbers are computed from the cgroup files by support/reference.py, which knows nothing of the runtime's
reader. Languages' runtimes that this host has are lent to the container, /usr and /etc read-only.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import cgroups, reference
from support.system_container import SystemContainer
from support.variants import MAIN, VARIANTS, Variant
from support.waiting import wait_for

from interceptor import registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from support.engine import Engine
    from support.reference import Expected

pytestmark = [
    pytest.mark.root,
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.skipif(
        not {"memory", "cpu"} <= cgroups.controllers(), reason="containers here cannot be given memory and CPU limits"
    ),
]

MiB = 1 << 20
INNER_TAR = "/usr/share/interceptor/busybox.tar"
CRUN = next(variant for variant in VARIANTS if variant.underneath == "crun")

LENT = r"""
mkdir -p /host/proc /host/sys /host/dev /host/tmp
for name in bin sbin lib lib64; do ln -sfn "usr/$name" "/host/$name"; done
for name in proc sys dev; do mount --rbind "/$name" "/host/$name"; done
"""
"""Makes the host's programs, which are in /host/usr, a root to chroot into."""


POLICY = """\
extends: [docker]
match: {{image: ["{image}"]}}
"""


class Limited(SystemContainer):
    """512 MB and 1.5 CPUs."""

    def __init__(self, engine: Engine, variant: Variant) -> None:
        options = ("--memory", "512m", "--memory-swap", "768m", "--cpus", "1.5")
        lent = ("--volume", "/usr:/host/usr:ro", "--volume", "/etc:/host/etc:ro")
        super().__init__(engine, variant.image, "limited", *options, *lent)
        self.image = variant.image
        self.wait_booted(within=30)
        self.sh(LENT)

    @property
    def id(self) -> str:
        return self.engine.output("inspect", "--format", "{{.Id}}", self.name)

    def expected(self) -> Expected:
        return reference.expected(self.pid)

    def lent(self, program: str, *arguments: str) -> str:
        """What a program of the host prints inside; both streams."""
        if not shutil.which(program, path="/usr/local/bin:/usr/bin:/bin"):
            pytest.skip(f"this host has no {program} to lend")
        done = self.exec("chroot", "/host", program, *arguments, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def htop(self) -> str:
        """What htop has on its screen at first."""
        if not shutil.which("htop"):
            pytest.skip("this host has no htop to lend")
        look = ["env", "TERM=vt100", "COLUMNS=100", "LINES=20", "timeout", "-s", "INT", "1", "htop", "--no-color"]
        said = self.exec("chroot", "/host", "python3", "-c", f"import pty; pty.spawn({look})", check=False).stdout
        return re.sub(r"\x1b(\[[0-9;?]*[A-Za-z]|\([A-Z0-9]|[=>])|[\x0e\x0f]", "", said)

    def meminfo(self) -> dict[str, int]:
        content = self.sh("cat /proc/meminfo")
        return {name: int(value) for name, value in re.findall(r"^(\S+): +(\d+) kB$", content, re.MULTILINE)}


@pytest.fixture(scope="module", params=[MAIN, CRUN], ids=str)
def limited(
    request: pytest.FixtureRequest,
    start_engine: Callable[..., AbstractContextManager[Engine]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Limited]:
    policies = tmp_path_factory.mktemp("policies")
    (policies / "site.yaml").write_text(POLICY.format(image=request.param.image), encoding="utf-8")
    with start_engine(request.param, INTERCEPTOR_POLICIES=str(policies)) as engine:
        yield Limited(engine, request.param)


def test_the_limits_are_those_that_were_asked_for(limited: Limited) -> None:
    wanted = limited.expected()
    assert wanted.memory == 512 << 10
    assert wanted.swap == min(256 << 10, reference.host("SwapTotal"))


def test_every_count_of_cpus_is_the_same(limited: Limited) -> None:
    counts = {
        "nproc": "nproc",
        "getconf": "getconf _NPROCESSORS_ONLN",
        "cpuinfo": "grep -c ^processor /proc/cpuinfo",
        "stat": "grep -c '^cpu[0-9]' /proc/stat",
        "lscpu": "lscpu | sed -n 's/^CPU(s): *//p'",
        "lscpu -p": "lscpu -p | grep -vc '^#'",
        "busybox": "busybox nproc",
        "top": "top -b -n 1 -1 -w 200 | grep -o '%Cpu[0-9]' | wc -l",
    }
    found = {name: int(limited.sh(command)) for name, command in counts.items()}
    assert found == dict.fromkeys(counts, limited.expected().cpus)


METERS = r"(\d+|CPU)\[[^\[\]]*?\d+\.\d%\]"


def test_htop_agrees(limited: Limited) -> None:
    """Its meters, one for each CPU, and the size of memory."""
    screen = limited.htop()
    assert len(set(re.findall(METERS, screen))) == limited.expected().cpus, screen
    assert re.search(r"Mem\[[^\]]*/512M\]", screen), screen


def test_go_agrees(limited: Limited) -> None:
    """The inner dockerd is a Go program, and prints what its runtime and sysinfo(2) say."""
    wait_for(lambda: limited.exec("docker", "version", check=False).returncode == 0, "the inner dockerd", within=20)
    wanted = limited.expected()
    assert limited.inner("info", "--format", "{{.NCPU}} {{.MemTotal}}").split() == [str(wanted.cpus), str(wanted.memory << 10)]


def test_every_size_of_memory_is_the_same(limited: Limited) -> None:
    wanted = limited.expected()
    shown = limited.meminfo()
    assert (shown["MemTotal"], shown["SwapTotal"]) == (wanted.memory, wanted.swap)
    free = limited.sh("free -k").splitlines()
    assert [int(free[1].split()[1]), int(free[2].split()[1])] == [wanted.memory, wanted.swap]
    assert f"{wanted.memory / 1024:.1f} total" in limited.sh("top -b -n 1 | grep 'MiB Mem'")
    assert limited.sh("vmstat -s | head -n 1").split()[0] == str(wanted.memory)


@pytest.mark.skipif("sysinfo" not in registry.load(), reason="sysinfo(2) is not intercepted")
def test_sysinfo_agrees_with_the_files(limited: Limited) -> None:
    wanted = limited.expected()
    free = limited.sh("busybox free -k").splitlines()
    assert [int(free[1].split()[1]), int(free[-1].split()[1])] == [wanted.memory, wanted.swap]
    script = "import os; print(os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') >> 10)"
    assert int(limited.lent("python3", "-c", script)) == wanted.memory


def test_what_is_used_is_what_the_cgroup_uses(limited: Limited) -> None:
    shown, used = limited.meminfo(), reference.usage(limited.pid, limited.id) >> 10
    assert shown["MemTotal"] - shown["MemFree"] == pytest.approx(used, rel=0.25, abs=16 << 10)
    assert shown["MemFree"] <= shown["MemAvailable"] <= shown["MemTotal"]


def test_stat_is_the_containers_time(limited: Limited) -> None:
    words = limited.sh("cat /proc/stat /proc/uptime").split()
    ticks = [int(word) for word in words[1:11]]
    up = float(words[-2])
    assert sum(ticks) / 100 == pytest.approx(up * limited.expected().cpus, rel=0.1, abs=1)
    assert (ticks[0] + ticks[1] + ticks[2]) / 100 == pytest.approx(
        reference.cpu_seconds(limited.pid, limited.id), rel=0.2, abs=1
    )


def test_the_load_is_that_of_its_own_tasks(limited: Limited) -> None:
    """Three tasks that spin raise it by the kernel's arithmetic: 3 × (1 - 1884/2048) at the first look, and so on."""
    before = load(limited)
    limited.engine.docker("run", "--detach", "--name", "idle", "--runtime", "interceptor", limited.image, "sleep", "1000")
    limited.sh("for i in 1 2 3; do sh -c 'while :; do :; done' spin > /dev/null 2>&1 & done")
    try:
        risen = wait_for(lambda: max(0, load(limited) - before - 0.3), "two looks at the tasks", within=20)
        assert risen < 3
        assert float(limited.engine.output("exec", "idle", "cut", "-d ", "-f1", "/proc/loadavg")) < 0.2, "another's stays"
    finally:
        limited.exec("pkill", "-f", "spin$", check=False)
        limited.engine.docker("rm", "--force", "idle")


def load(system: SystemContainer) -> float:
    said = system.sh("uptime; cut -d' ' -f1 /proc/loadavg")
    first = said.split()[-1]
    assert f"load average: {first}" in said or float(first) > 0, said
    return float(first)


def test_java_sees_the_limits(limited: Limited) -> None:
    said = limited.lent("java", "-XshowSettings:system", "-XX:+PrintFlagsFinal", "-version")
    assert re.search(rf"Effective CPU Count: {limited.expected().cpus}\n", said), said[:2000]
    # A limit as large as the whole machine is none to the JVM (os::Linux::physical_memory(), from sysinfo(2)).
    assert re.search(r"Memory Limit: (512.00M|Unlimited)\n", said), said[:2000]
    heap = re.search(r" MaxHeapSize +=\s(\d+)", said)
    assert heap
    assert int(heap[1]) == 512 * MiB // 4, "what MaxRAMPercentage makes of 512 MB"


def test_node_sees_the_limits(limited: Limited) -> None:
    script = "const os = require('os'); console.log(os.cpus().length, os.availableParallelism(), os.totalmem())"
    wanted = limited.expected()
    assert limited.lent("node", "-e", script).split() == [str(wanted.cpus), str(wanted.cpus), str(wanted.memory << 10)]


def test_python_sees_the_cpus(limited: Limited) -> None:
    script = "import os; print(os.cpu_count(), len(os.sched_getaffinity(0)))"
    assert limited.lent("python3", "-c", script).split() == [str(limited.expected().cpus)] * 2


def test_an_inner_container_sees_its_own_limits(limited: Limited) -> None:
    wait_for(lambda: limited.exec("docker", "version", check=False).returncode == 0, "the inner dockerd", within=20)
    limited.inner("import", INNER_TAR, "busybox")
    script = "grep MemTotal /proc/meminfo; cat /sys/devices/system/cpu/online; grep -c ^processor /proc/cpuinfo; nproc"
    said = limited.inner("run", "--rm", "--memory", "64m", "--cpus", "0.5", "busybox", "sh", "-euc", script)
    assert said.split() == ["MemTotal:", str(64 << 10), "kB", "0", "1", "1"]
    assert limited.meminfo()["MemTotal"] == 512 << 10, "the outer one still sees its own"


def test_limits_that_are_changed_are_followed_within_a_second(limited: Limited) -> None:
    limited.engine.docker("update", "--memory", "256m", "--memory-swap", "256m", "--cpus", "0.5", limited.name)
    look = "grep MemTotal /proc/meminfo; cat /sys/devices/system/cpu/online; grep -c ^processor /proc/cpuinfo"
    wait_for(lambda: limited.sh(look).split() == ["MemTotal:", str(256 << 10), "kB", "0", "1"], "new limits", within=1)
    assert limited.expected().cpus == 1
    assert limited.sh("getconf _NPROCESSORS_ONLN; nproc; busybox nproc").split() == ["1"] * 3
    assert limited.lent("python3", "-c", "import os; print(os.cpu_count(), os.sched_getaffinity(0))").split() == [
        "1",
        "{0}",
    ]
    assert limited.sh("free -k | awk '/^Swap/ {print $2}'") == "0"
    assert limited.inner("info", "--format", "{{.NCPU}} {{.MemTotal}}").split() == ["1", str(256 * MiB)]
    look = "ls -d /sys/devices/system/cpu/cpu[0-9]*"
    wait_for(lambda: limited.sh(look) == "/sys/devices/system/cpu/cpu0", "one directory of a CPU", within=1)
    listed = dict(re.findall(r"^([^:]+): +(\d+)$", limited.sh("lscpu"), re.MULTILINE))
    assert (listed["CPU(s)"], listed["Core(s) per socket"], listed["Socket(s)"]) == ("1", "1", "1")
    screen = limited.htop()
    assert set(re.findall(METERS, screen)) == {"CPU"}, "one meter has no number"
    assert "/256M]" in screen


def test_there_is_one_cpu_number_of_the_host_that_stays(limited: Limited) -> None:
    """`possible` bounds what getcpu(2) answers: programs index arrays with it (docs/design.md, section 8)."""
    assert (
        limited.sh("cat /sys/devices/system/cpu/possible")
        == Path("/sys/devices/system/cpu/possible").read_text().strip()
    )


BAD_ADDRESSES = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
SYSINFO, SCHED_GETAFFINITY = 99, 204
for address in (0, 1, 1 << 46, (1 << 63) + 8, (1 << 64) - 8):
    pointer = ctypes.c_void_p(address)
    for call in ((SYSINFO, pointer), (SCHED_GETAFFINITY, 0, 128, pointer)):
        ctypes.set_errno(0)
        assert libc.syscall(*call) == -1
        print(os.strerror(ctypes.get_errno()))
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are x86-64's")
def test_bad_addresses_are_efault(limited: Limited) -> None:
    """With a quota that narrows the mask, so that both calls are answered by us."""
    assert set(limited.lent("python3", "-c", BAD_ADDRESSES).splitlines()) == {"Bad address"}
