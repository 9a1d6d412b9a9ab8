"""The supervisor dies in the middle of a call, at each stage that the journal knows: the call ends as its handler declared.

An agent that is stopped holds a call where it is; what the supervisor had sent it stays sent.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import whole
from support.process import processes
from support.waiting import wait_for

from interceptor.errors import InterceptorError

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

MOUNT = ("mount", "-t", "proc", "none", "/mnt")
NAME = ("hostname", "web-7")
NEW = ("open", "proc", "create", "mount", "0", "wait", "move", "/mnt", "close", "umount", "/mnt")
"""Of support/newmount.c: there is no other descriptor of the mount's when it is unmounted."""
OVERLAY = ("open", "overlay", "wait", "set", "lowerdir=/bin:/data", "wait", "set", "metacopy=on", "wait", "create", "wait",
           "mount", "0", "wait", *NEW[6:])  # fmt: skip
"""With a supervisor between every two of its steps."""
SETTLED_S = 0.6
"""keeper_supervisor.c, SETTLED_MS."""
FREESTANDING = ("-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-pie", "-no-pie")


@pytest.fixture(scope="module")
def host() -> Iterator[whole.Host]:
    with whole.host("crun", kept=True) as host:
        yield host


@pytest.fixture
def box(host: whole.Host) -> Iterator[whole.Box]:
    box = host.box("stages")
    box.sh("mount -t proc none /mnt && umount /mnt")  # so that there is an agent
    yield box
    for pid in agents(host):
        os.kill(pid, signal.SIGCONT)
    box.remove()
    wait_for(lambda: unanswered(host) == 0, "an end of what nobody waits for", within=20)


@pytest.fixture(autouse=True, scope="module")
def _policy(host: whole.Host) -> None:
    text = whole.POLICIES["names"].replace("capabilities: engine\n", "")
    (host.directory / "policies/stages.yaml").write_text(text, encoding="utf-8")
    host.interceptor("policy", "reload")


def agents(host: whole.Host) -> list[int]:
    supervisor = host.supervisor_pid()
    return [found.pid for found in processes() if found.parent == supervisor and found.alive()]


def unanswered(host: whole.Host) -> int:
    reports = host.directory / "run/reports"
    before = set(reports.glob("*"))
    os.kill(host.supervisor_pid(), signal.SIGUSR1)
    (path,) = wait_for(lambda: set(reports.glob("dump-*")) - before, "a dump", within=10)
    wait_for(lambda: path.read_text().endswith("}"), "the whole dump", within=10)
    return int(json.loads(path.read_text())["unanswered"])


def begin(box: whole.Box, command: tuple[str, ...]) -> subprocess.Popen[str]:
    """The command, held up in an agent that was stopped."""
    inside = box.begin(*command)
    with box.host.client() as client:
        wait_for(
            lambda: client.call("examine", container=box.id)["containers"][0]["handling_ms"] > 20, "the call", within=20
        )
    return inside


def kill(*pids: int) -> None:
    """Not so soon that the keeper takes a supervisor for one that failed at start: the tenth is waited for a minute."""
    time.sleep(SETTLED_S)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        wait_for(lambda pid=pid: not Path(f"/proc/{pid}/exe").exists(), "its end", within=10)


def ended(inside: subprocess.Popen[str]) -> tuple[int, str]:
    _, error = inside.communicate(timeout=60)
    return inside.returncode, error


def mounted(box: whole.Box) -> int:
    return sum(line.split()[1] == "/mnt" for line in Path(f"/proc/{box.init}/mounts").read_text().splitlines())


def stop(pids: list[int]) -> list[int]:
    assert pids, "there is no agent"
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    return pids


def test_what_an_agent_did_after_the_supervisor_s_death_is_answered_once(box: whole.Box) -> None:
    stopped = stop(agents(box.host))
    inside = begin(box, MOUNT)
    kill(box.host.supervisor_pid())
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    assert ended(inside) == (0, "")
    assert mounted(box) == 1


def test_what_nobody_can_know_is_interrupted(box: whole.Box) -> None:
    stopped = stop(agents(box.host))
    inside = begin(box, MOUNT)
    kill(*stopped, box.host.supervisor_pid())
    status, error = ended(inside)
    assert status != 0
    assert "Interrupted system call" in error
    assert mounted(box) == 0


def test_what_is_harmless_is_done_again(box: whole.Box) -> None:
    stopped = stop(agents(box.host))
    inside = begin(box, NAME)
    kill(*stopped, box.host.supervisor_pid())
    assert ended(inside) == (0, "")
    assert box.sh("hostname") == "web-7\n"


def test_a_supervisor_may_also_die_in_the_recovery(box: whole.Box) -> None:
    stopped = stop(agents(box.host))
    inside = begin(box, MOUNT)
    for _ in range(2):
        kill(box.host.supervisor_pid())
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    assert ended(inside) == (0, "")
    assert mounted(box) == 1


@contextlib.contextmanager
def detached(box: whole.Box) -> Iterator[subprocess.Popen[str]]:
    """A program that has a mount of the new API, and waits before it attaches it."""
    with box.begin(box.probe("newmount", *FREESTANDING), *NEW, stdin=subprocess.PIPE, stderr=None) as inside:
        assert inside.stdout is not None
        assert [inside.stdout.readline() for _ in range(3)] == ["open ok\n", "create ok\n", "mount ok\n"]
        yield inside


def test_contexts_and_detached_mounts_outlive_supervisors(box: whole.Box) -> None:
    with box.begin(box.probe("newmount", *FREESTANDING), *OVERLAY, stdin=subprocess.PIPE, stderr=None) as inside:
        assert inside.stdin is not None
        assert inside.stdout is not None
        for step in ("open", "lowerdir=/bin:/data", "metacopy=on", "create", "mount"):
            assert inside.stdout.readline() == f"{step} ok\n"
            kill(box.host.supervisor_pid())
            wait_for(lambda: serves(box.host), "the next one", within=20)
            inside.stdin.write("x")
            inside.stdin.flush()
        assert inside.communicate(timeout=60)[0] == ATTACHED
    assert mounted(box) == 0


ATTACHED = "move ok\nclose ok\numount ok\n"


def test_a_mount_that_is_attached_when_the_supervisor_is_dead_is_not_busy(box: whole.Box) -> None:
    with detached(box) as inside:
        stopped = stop(agents(box.host))
        assert inside.stdin is not None
        inside.stdin.write("x")
        inside.stdin.flush()
        with box.host.client() as client:
            wait_for(
                lambda: client.call("examine", container=box.id)["containers"][0]["handling_ms"] > 20, "the call", within=20
            )
        kill(box.host.supervisor_pid())
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        assert inside.communicate(timeout=60)[0] == ATTACHED
    assert mounted(box) == 0


def serves(host: whole.Host) -> bool:
    try:
        return bool(host.supervisor_pid())
    except (InterceptorError, OSError):  # the one that has just died
        return False
