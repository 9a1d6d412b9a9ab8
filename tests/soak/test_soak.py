"""Under fire and for long: what `make test` does for seconds, `make soak` does for minutes.

$INTERCEPTOR_SOAK_SECONDS, _BOXES and _CYCLES say how much; each test prints a summary line (pytest -s).
"""

# ruff: noqa: T201 - summary lines
from __future__ import annotations

import json
import os
import signal
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import whole
from support.under_fire import keeper, killing, killing_agents, killing_keepers
from support.waiting import wait_for

from runtime.lifecycle import AHEAD

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

SECONDS = int(os.environ.get("INTERCEPTOR_SOAK_SECONDS", "8"))
BOXES = int(os.environ.get("INTERCEPTOR_SOAK_BOXES", "3"))
CYCLES = int(os.environ.get("INTERCEPTOR_SOAK_CYCLES", "25"))
WARM = 20
"""Cycles before anything is counted: pools and caches fill, and the traces of 16 containers that ended are kept."""
LOOKS = 20
"""At what there is, on the way."""
SLACK = {"kB": 4096, "threads": AHEAD}
"""What the supervisor may gain: resident memory (a leak of a kilobyte a cycle shows in `make soak`), and the threads of a pool
that grows when all of it are busy."""
READING = """
end=$(($(date +%s) + {seconds})) rounds=0
while [ $(date +%s) -lt $end ]; do
    cat /proc/meminfo /proc/uptime /proc/stat >/dev/null || exit 1
    hostname inner-$rounds || exit 1
    rounds=$((rounds + 1))
done
"""

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.slow,
    pytest.mark.timeout(0 if SECONDS > 60 or CYCLES > 200 else 300),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


@pytest.fixture
def host() -> Iterator[whole.Host]:
    with whole.host("crun", kept=True) as host:
        yield host


def mounting(boxes: list[whole.Box], seconds: int) -> list[subprocess.Popen[str]]:
    """In every other box by the new mount API."""
    return [
        box.begin(box.probe("steady"), str(seconds), "proc", "/mnt", *(["new"] if number % 2 else []))
        for number, box in enumerate(boxes)
    ]


def test_nothing_fails_while_supervisors_are_killed(host: whole.Host) -> None:
    boxes = [host.box() for _ in range(BOXES)]
    with killing(host, 2.0) as killed:
        running = mounting(boxes, SECONDS)
        running += [box.begin("sh", "-euc", READING.format(seconds=SECONDS)) for box in boxes]
        ended = [(process, *process.communicate(timeout=SECONDS + 120)) for process in running]
    failed = [f"{process.returncode}: {out}{error[-1000:]}" for process, out, error in ended if process.returncode]
    assert not failed, "\n".join(failed) + host.log.read_text()[-4000:]
    words = [out.split() for _, out, _ in ended if out.startswith("rounds")]
    rounds, longest = (sum(int(w[1]) for w in words), max(int(w[-1]) for w in words))
    slowest = int(max(killed.seconds) * 1000)
    print(f"\nunder fire: {BOXES} containers, {SECONDS} s, {len(killed)} supervisors killed, {rounds} mounts, 0 failures, "
          f"longest stall {longest} ms, slowest restart {slowest} ms")  # fmt: skip
    assert longest < slowest + 1000


def test_nothing_fails_while_agents_are_killed(host: whole.Host) -> None:
    boxes = [host.box() for _ in range(BOXES)]
    seconds = SECONDS // 2
    with killing_agents(host) as killed:
        running = mounting(boxes, seconds)
        running += [box.begin("sh", "-euc", READING.format(seconds=seconds)) for box in boxes]
        ended = [(process, *process.communicate(timeout=seconds + 120)) for process in running]
    failed = [f"{process.returncode}: {out}{error[-1000:]}" for process, out, error in ended if process.returncode]
    assert not failed, "\n".join(failed) + host.log.read_text()[-4000:]
    rounds = sum(int(out.split()[1]) for _, out, _ in ended if out.startswith("rounds"))
    print(f"\nagents under fire: {BOXES} containers, {seconds} s, {len(killed)} agents killed, {rounds} mounts, 0 failures")


def test_nothing_hangs_while_keepers_are_killed(host: whole.Host) -> None:
    """Each is followed by one that the supervisor starts, and by which the next supervisor finds every container again."""
    boxes = [host.box() for _ in range(BOXES)]
    seconds = SECONDS // 2
    with killing_keepers(host, 2.0) as killed:
        running = mounting(boxes, seconds)
        running += [box.begin("sh", "-euc", READING.format(seconds=seconds)) for box in boxes]
        ended = [(process, *process.communicate(timeout=seconds + 30)) for process in running]
    failed = [f"{process.returncode}: {out}{error[-1000:]}" for process, out, error in ended if process.returncode]
    rounds = sum(int(out.split()[1]) for _, out, _ in ended if out.startswith("rounds"))
    print(f"\nkeepers under fire: {BOXES} containers, {seconds} s, {len(killed)} keepers killed, {rounds} mounts, "
          f"{len(failed)} commands failed")  # fmt: skip
    assert killed
    supervisor = host.supervisor_pid()
    os.kill(supervisor, signal.SIGKILL)
    for box in boxes:
        assert box.sh("mount -t proc none /mnt && umount /mnt && echo done") == "done\n"
    assert host.supervisor_pid() != supervisor
    assert {found["id"] for found in json.loads(host.interceptor("ps", "--json"))} == {box.id for box in boxes}
    assert not failed, "\n".join(failed) + host.log.read_text()[-4000:]


def resources(pid: int) -> dict[str, int]:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {
        "fds": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "threads": int(status["Threads"]),
        "kB": int(status["VmRSS"].split()[0]),
    }


def everything(host: whole.Host) -> dict[str, dict[str, int]]:
    keeping = keeper(host)
    assert keeping is not None
    namespace = host.run("cat", "/proc/self/mountinfo").stdout.count("\n")
    directories = len([path for top in ("run", "state") for path in (host.directory / top).rglob("*")])
    return {
        "supervisor": resources(host.supervisor_pid()),
        "keeper": resources(keeping),
        "host": {"mounts": namespace, "files": directories, "containers": len(json.loads(host.interceptor("ps", "--json")))},
    }


def cycle(host: whole.Host) -> None:
    box = host.box()
    box.sh("mount -t proc none /mnt && cat /proc/uptime >/dev/null && umount /mnt")
    box.remove()


def test_nothing_grows(host: whole.Host) -> None:
    for _ in range(WARM):
        cycle(host)
    before = wait_settled(host)
    looks = [before]
    for number in range(CYCLES):
        cycle(host)
        if (number + 1) % max(CYCLES // LOOKS, 1) == 0:
            looks.append(wait_settled(host, before))
    after = looks[-1]
    sizes = [look["supervisor"]["kB"] for look in looks]
    slope = statistics.linear_regression(range(len(sizes)), sizes).slope * (len(sizes) - 1)
    print(f"\ngrowth: {CYCLES} containers; before {before}, after {after}; the supervisor's kB meanwhile {sizes}, "
          f"by regression {slope:+.0f} over all")  # fmt: skip
    for part, figures in after.items():
        for name, value in figures.items():
            assert value <= before[part][name] + SLACK.get(name, 0), (part, name, before, after)


def wait_settled(host: whole.Host, like: dict[str, dict[str, int]] | None = None) -> dict[str, dict[str, int]]:
    """Sessions end a moment after their containers do."""

    def settled() -> dict[str, dict[str, int]] | None:
        found = everything(host)
        most = (like or found)["supervisor"]
        calm = all(found["supervisor"][name] <= most[name] + SLACK.get(name, 0) for name in ("threads", "fds"))
        return found if calm and not found["host"]["containers"] else None

    return wait_for(settled, "sessions to end", within=20)
