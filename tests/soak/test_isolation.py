"""Containers that misbehave hold nobody else up: one whose agents are stopped, one whose agents are killed all the time, one
with a filesystem that never answers on the path of its mounts, one that floods.

`make soak` holds the others' 99th percentile against what it is without them, and beside a flood against what it is beside the
same program whose calls are the kernel's: what it takes of two processors, and of the kernel's own locks, is not ours to give
back. One after the other, several times, because machines have moods. The short run holds only that they go on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest
from support import whole
from support.process import processes
from support.under_fire import meanwhile
from support.waiting import wait_for

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

SECONDS = int(os.environ.get("INTERCEPTOR_SOAK_ISOLATION", "2"))
AT_LENGTH = SECONDS > 10
ROUNDS = 3 if AT_LENGTH else 1
CALM = 2
UNINTERRUPTIBLE_S = 30
POLICIES = {
    "quick": "extends: [default]\nselectable: true\nlimits: {devices: [fuse], agent-deadline: 2s}\n",
    "patient": "extends: [default]\nselectable: true\nlimits: {agent-deadline: 60s}\n",
    "paced": "extends: [default]\nselectable: true\nlimits: {notifications: 2000}\n",
    "kernel": "extends: [default]\nselectable: true\n"
    "calls: {mount: [{do: native}], sethostname: [{do: native}], umount2: [{do: native}]}\n",
}
FLOOD = ("165", "170", "166")
"""mount, sethostname, umount2."""
WITHOUT_END = str(1 << 40)
PACED = f"{WITHOUT_END}@2000"

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.slow,
    pytest.mark.timeout(0 if AT_LENGTH else 300),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


@pytest.fixture
def host() -> Iterator[whole.Host]:
    with whole.host("crun", POLICIES) as host:
        yield host


@contextlib.contextmanager
def running(*commands: subprocess.Popen[str]) -> Iterator[None]:
    """Ended afterwards, with what they started in their containers."""
    try:
        yield
    finally:
        for command in commands:
            command.kill()
            command.communicate()


def agents(host: whole.Host) -> set[int]:
    supervisor = host.supervisor_pid()
    return {found.pid for found in processes() if found.parent == supervisor and found.comm == "agent" and found.alive()}


def steady(boxes: list[whole.Box]) -> int:
    """The worst 99th percentile of the calm ones' rounds, in microseconds; nothing of theirs may fail."""
    load = [box.begin(box.probe("steady"), str(SECONDS / ROUNDS), "proc", "/mnt") for box in boxes]
    ended = [(process, *process.communicate(timeout=SECONDS + 60)) for process in load]
    assert not [(out, error) for process, out, error in ended if process.returncode]
    words = [dict(zip(out.split()[::2], map(int, out.split()[1::2]), strict=True)) for _, out, _ in ended]
    assert all(found["rounds"] > 0 for found in words)
    return max(found["p99-us"] for found in words)


class Watch:
    """How long tasks of the supervisor's and of the containers' were in state D without a break."""

    def __init__(self, host: whole.Host) -> None:
        self._host = host
        self._over = threading.Event()
        self._since: dict[int, float] = {}
        self.longest = 0.0
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        supervisor = self._host.supervisor_pid()
        while not self._over.wait(1):
            now = time.monotonic()
            stuck = {pid for pid in self._ours(supervisor) if _state(pid) == "D"}
            self._since = {pid: self._since.get(pid, now) for pid in stuck}
            self.longest = max([self.longest, *(now - since for since in self._since.values())])

    def _ours(self, supervisor: int) -> Iterator[int]:
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, IndexError):
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                if supervisor in (int(path.name), parent) or "/interceptor-test-box-" in (path / "cgroup").read_text():
                    yield int(path.name)


def _state(pid: int) -> str:
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def probe_run(host: whole.Host) -> float:
    """Seconds that a container takes which is started, does something and is removed."""
    begin = time.monotonic()
    box = host.box()
    assert box.sh("mount -t proc none /mnt && umount /mnt && echo done") == "done\n"
    box.remove()
    return time.monotonic() - begin


@contextlib.contextmanager
def stopped_agents(host: whole.Host) -> Iterator[None]:
    """A container whose agents are stopped, and waited for, while it asks for more."""
    box = host.box("patient")
    before = agents(host)
    box.sh("mount -t proc none /mnt && umount /mnt")
    over = threading.Event()

    def stop() -> None:
        while not over.wait(0.05):
            for pid in agents(host) - before - known:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)

    known = set(before)
    load = box.begin("sh", "-c", "for i in 1 2 3 4; do (while :; do mount -t proc none /mnt; umount /mnt; done) & done; wait")
    thread = threading.Thread(target=stop)
    with running(load):
        try:
            thread.start()
            try:
                with host.client() as client:
                    wait_for(
                        lambda: client.call("examine", container=box.id)["containers"][0]["handling_ms"] > 500,
                        "a call", within=20,
                    )  # fmt: skip
            finally:
                over.set()  # agents that come later are others'
                thread.join()
            yield
        finally:
            for pid in agents(host):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            box.remove()


@contextlib.contextmanager
def killed_agents(host: whole.Host) -> Iterator[None]:
    """A container whose agents are killed as soon as there are some: the supervisor makes one after the other."""
    box = host.box()
    before = agents(host)

    def kill(over: threading.Event) -> None:
        while not over.wait(0.01):
            for pid in agents(host) - before:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    load = box.begin("sh", "-c", "for i in 1 2; do (while :; do mount -t proc none /mnt; umount /mnt; done) & done; wait")
    with running(load):
        try:
            with meanwhile(kill):
                yield
        finally:
            box.remove()


@contextlib.contextmanager
def silent_filesystem(host: whole.Host) -> Iterator[None]:
    if not Path("/dev/fuse").exists():
        pytest.skip("needs /dev/fuse")
    box = host.box("quick")
    load = box.begin(box.probe("silent_fuse"), str(SECONDS + 120), "4")
    with running(load):
        assert load.stdout is not None
        assert load.stdout.readline() == "mounted\n"
        try:
            yield
        finally:
            box.remove()


@contextlib.contextmanager
def flood(host: whole.Host, policy: str = whole.ALL, calls: str = WITHOUT_END) -> Iterator[None]:
    """Four processes, each with a thread of its own beside, by a container with this policy."""
    box = host.box(policy)
    load = box.begin(box.probe("random_calls", "-pthread"), calls, "1", *FLOOD)
    with running(load):
        try:
            yield
        finally:
            box.remove()


@contextlib.contextmanager
def nobody(_host: whole.Host) -> Iterator[None]:
    yield


@dataclass(frozen=True)
class Trouble:
    make: Callable[[whole.Host], contextlib.AbstractContextManager[None]]
    beside: str = ""
    """What it is held against: another of these."""


TROUBLES = {
    "alone": Trouble(nobody),
    "stopped agents": Trouble(stopped_agents, "alone"),
    "killed agents": Trouble(killed_agents),  # only their container's own misfortune makes them, and it is no flood
    "silent filesystem": Trouble(silent_filesystem, "alone"),
    "flood": Trouble(flood, "kernel's flood"),
    "kernel's flood": Trouble(partial(flood, policy="kernel")),
    "paced flood": Trouble(partial(flood, policy="paced"), "kernel's paced flood"),
    "kernel's paced flood": Trouble(partial(flood, policy="kernel", calls=PACED)),
}


def test_others_do_not_notice(host: whole.Host) -> None:
    calm = [host.box() for _ in range(CALM)]
    figures: dict[str, list[int]] = {name: [] for name in TROUBLES}
    probes = [probe_run(host)]
    with Watch(host) as watch:
        for name, trouble in [*TROUBLES.items()] * ROUNDS:
            with trouble.make(host):
                figures[name].append(steady(calm))
                probes.append(probe_run(host))
    growth = {
        name: statistics.median(mine / its for mine, its in zip(figures[name], figures[trouble.beside], strict=True))
        for name, trouble in TROUBLES.items()
        if trouble.beside
    }
    print(  # noqa: T201 - the lines that `make soak` is read for
        f"\nisolation: p99 of {CALM} calm containers in µs: {figures}\n"
        f"grown by {', '.join(f'{name} {times:.2f} times' for name, times in growth.items())}; "
        f"slowest run of another {max(probes):.1f} s, longest in state D {watch.longest:.0f} s"
    )
    assert watch.longest <= UNINTERRUPTIBLE_S
    if AT_LENGTH:
        assert max(probes) < 5
        assert all(times < 2 for times in growth.values()), figures
