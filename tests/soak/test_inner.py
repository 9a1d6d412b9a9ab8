"""System containers with engines inside, whose containers come and go, while supervisors are killed under them: no command
fails, no task is stuck, and another system's engine starts containers meanwhile as it always does.

`make soak` has ten of them, with SYSTEMS, INNER containers at once in each, and INNER_SECONDS to say otherwise.
"""

# ruff: noqa: T201 - summary lines

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from support.engine import Engine
from support.images import image
from support.runtime import over, view_for, why_not
from support.system_container import SystemContainer
from support.under_fire import meanwhile
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

SYSTEMS = int(os.environ.get("INTERCEPTOR_SOAK_SYSTEMS", "1"))
INNER = int(os.environ.get("INTERCEPTOR_SOAK_INNER", "2"))
SECONDS = int(os.environ.get("INTERCEPTOR_SOAK_INNER_SECONDS", "8"))
AT_LENGTH = SECONDS > 30
EVERY_S = 2.0
UNINTERRUPTIBLE_S = 30
SLOWEST_MS = 5000
"""An engine's container in a system that has no part in the load. Where it takes longer beside systems that only compute, its
share of the processors is too small, whatever anybody does: then it takes no more than TIMES as long beside the load.
"""
TIMES = 2
UNDERNEATH = "crun"
INNER_TAR = "/usr/share/interceptor/busybox.tar"
LOOPS = {
    "docker run": "docker run --rm --network none busybox sh -c 'read x < /proc/uptime' >/dev/null",
    "systemctl restart": "systemctl reset-failed systemd-journald.service; systemctl restart systemd-journald.service",
    "mount": "LIBMOUNT_FORCE_MOUNT2=never mount -t proc none /mnt && umount /mnt",
    "read /proc": "cat /proc/meminfo /proc/uptime /proc/stat /proc/loadavg >/dev/null",
}
FLEET = """\
seq {inner} | xargs -P {hands} -I % docker run --detach --name inner-% --network none busybox sleep 3600 >/dev/null &&
        docker ps --quiet | xargs -P {hands} -n 1 docker rm --force >/dev/null"""
"""All inner containers of a system, started and then stopped, by as many hands as there are processors."""
LOOP = """
end=$(($(date +%s) + {seconds}))
go_on() {{
    rounds=0
    while [ $(date +%s) -lt $end ]; do
        {command} || {{ echo "round $rounds failed with $?" >&2; exit 1; }}
        rounds=$((rounds + 1))
    done
    echo $rounds
}}
started=
for number in $(seq {times}); do go_on & started="$started $!"; done
for pid in $started; do wait $pid || failed=1; done
exit ${{failed:-0}}
"""
COMPUTED_S = max(4, SECONDS // 10)
COMPUTE = "end=$(($(date +%s) + {seconds})); for i in 1 2 3 4; do while [ $(date +%s) -lt $end ]; do :; done & done; wait"
"""What a system does that takes its share of the processors, and asks for nothing else."""
PROBES = """
end=$(($(date +%s) + {seconds}))
while [ $(date +%s) -lt $end ]; do
    begin=$(date +%s%N)
    {command} || exit 1
    echo $((($(date +%s%N) - begin) / 1000000))
done
"""

pytestmark = [
    pytest.mark.root,
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.timeout(0 if AT_LENGTH else 300),
]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    if reason := why_not(UNDERNEATH):
        pytest.skip(reason)
    with Engine(runtimes=over(UNDERNEATH), cgroup_view=view_for(UNDERNEATH)) as engine:
        engine.import_image(image("docker"), "docker")
        yield engine


@pytest.fixture(scope="module")
def systems(engine: Engine) -> list[SystemContainer]:
    return [_system(engine, number) for number in range(SYSTEMS)]


def _system(engine: Engine, number: int) -> SystemContainer:
    made = SystemContainer(engine, "docker", f"system-{number}")
    made.wait_booted(within=120)
    wait_for(lambda: made.exec("docker", "version", check=False).returncode == 0, "the inner dockerd", within=60)
    made.inner("import", INNER_TAR, "busybox")
    return made


def supervisor(engine: Engine) -> int | None:
    """The process that is `interceptor supervise`, and no child of one."""
    running = [found for found in engine.owned_processes() if "supervise" in found.text("cmdline").split("\n")]
    own = [found.pid for found in running if found.parent not in {other.pid for other in running}]
    return own[0] if own else None


@contextlib.contextmanager
def killing(engine: Engine) -> Iterator[list[int]]:
    killed: list[int] = []

    def kill(over: threading.Event) -> None:
        while not over.wait(EVERY_S):
            pid = supervisor(engine)
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    with meanwhile(kill):
        yield killed


class Stuck:
    """How long tasks of the engine's containers, or of the supervisor's, were in state D without a break."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.longest = 0.0

    def __enter__(self) -> Stuck:  # noqa: PYI034 - no subclass
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        since: dict[int, float] = {}
        while not self._over.wait(2):
            now = time.monotonic()
            since = {found.pid: since.get(found.pid, now) for found in self._engine.owned_processes() if found.state == "D"}
            self.longest = max([self.longest, *(now - first for first in since.values())])


def loops(system: SystemContainer) -> list[tuple[str, subprocess.Popen[str]]]:
    """What goes on in one of them: each kind once, and engines' containers as many as are asked for."""
    times = {kind: INNER if kind == "docker run" else 1 for kind in LOOPS}
    return [_go_on(system, kind, command, times[kind]) for kind, command in LOOPS.items()]


def fleet(system: SystemContainer) -> list[tuple[str, subprocess.Popen[str]]]:
    """All of its inner containers are started, and stopped, and so on; beside the other kinds."""
    command = FLEET.format(inner=INNER, hands=os.cpu_count())
    others = [_go_on(system, kind, LOOPS[kind]) for kind in LOOPS if kind != "docker run"]
    return [_go_on(system, "start and stop", command), *others]


def _go_on(system: SystemContainer, kind: str, command: str, times: int = 1) -> tuple[str, subprocess.Popen[str]]:
    return f"{system.name}: {kind}", _start(system, LOOP.format(seconds=SECONDS, command=command, times=times))


def _start(system: SystemContainer, script: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*system.engine.client, "exec", system.name, "sh", "-c", script],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def probing(system: SystemContainer, seconds: int) -> list[int]:
    """How many milliseconds each inner container took."""
    said, _ = _start(system, PROBES.format(seconds=seconds, command=LOOPS["docker run"])).communicate(timeout=seconds + 600)
    return [int(taken) for taken in said.split()]


def failures(running: list[tuple[str, subprocess.Popen[str]]], said: list[tuple[str, str]]) -> list[str]:
    ended = zip(running, said, strict=True)
    return [f"{name}: {error[-600:]}" for (name, process), (_, error) in ended if process.returncode]


def test_nothing_fails_while_supervisors_are_killed(engine: Engine, systems: list[SystemContainer]) -> None:
    with Stuck(engine) as stuck, killing(engine) as killed:
        running = [loop for system in systems for loop in loops(system)]
        with ThreadPoolExecutor(len(running)) as pool:
            said = list(pool.map(lambda loop: loop[1].communicate(timeout=SECONDS + 200), running))
    failed = failures(running, said)
    rounds = sum(int(count) for out, _ in said for count in out.split())
    print(f"\ninner load under fire: {SYSTEMS} systems × {INNER} inner containers, {SECONDS} s, {len(killed)} supervisors "
          f"killed, {rounds} commands, {len(failed)} failed, longest in state D {stuck.longest:.0f} s")  # fmt: skip
    assert not failed, "\n".join(failed)
    assert len(killed) > 1
    assert stuck.longest <= UNINTERRUPTIBLE_S


def test_another_container_starts_meanwhile(engine: Engine, systems: list[SystemContainer]) -> None:
    calm = _system(engine, SYSTEMS)
    beside = [_start(system, COMPUTE.format(seconds=COMPUTED_S)) for system in systems]
    fair = probing(calm, COMPUTED_S)
    for process in beside:
        process.communicate(timeout=60 + COMPUTED_S)
    with Stuck(engine) as stuck:
        running = [loop for system in systems for loop in fleet(system)]
        running.append(("probes", _start(calm, PROBES.format(seconds=SECONDS, command=LOOPS["docker run"]))))
        with ThreadPoolExecutor(len(running)) as pool:
            said = list(pool.map(lambda loop: loop[1].communicate(timeout=SECONDS + 600), running))
    failed = failures(running, said)
    probes = [int(taken) for taken in said.pop()[0].split()]
    rounds = sum(int(out.split()[-1]) for (name, _), (out, _) in zip(running, said, strict=False) if "start and stop" in name)
    print(f"\ninner load: {SYSTEMS} systems, {SECONDS} s: {rounds} times {INNER} inner containers started and stopped, "
          f"{len(failed)} commands failed; {len(probes)} inner containers of another system, slowest {max(probes)} ms "
          f"and half of them {statistics.median(probes):.0f}, beside systems that only compute {max(fair)} and "
          f"{statistics.median(fair):.0f}; longest in state D {stuck.longest:.0f} s")  # fmt: skip
    assert not failed, "\n".join(failed)
    if AT_LENGTH:
        assert max(probes) < SLOWEST_MS or (
            max(fair) > SLOWEST_MS and statistics.median(probes) < TIMES * statistics.median(fair)
        )
    assert stuck.longest <= UNINTERRUPTIBLE_S
