"""The harness itself, on stock runc: what it starts works, and nothing of it stays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import cgroups
from support.engine import Engine, reap_dead_engines, scratch_base, why_no_engine
from support.images import image
from support.leaks import Scope, expect_none, leftovers, snapshot
from support.process import process
from support.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

REASON = why_no_engine()

pytestmark = [
    pytest.mark.root,
    pytest.mark.engine,
    pytest.mark.skipif(REASON is not None, reason=f"no Docker engine of our own: {REASON}"),
]

BUSYBOX = "busybox:test"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine() as started:
        started.import_image(image("busybox"), BUSYBOX)
        yield started


def test_runs_a_container(engine: Engine) -> None:
    assert engine.output("run", "--rm", "--runtime", "runc", BUSYBOX, "/bin/echo", "hello") == "hello"


def test_a_published_port_answers_in_the_engines_network(engine: Engine) -> None:
    serve = "echo from inside > /root/index.html; exec httpd -f -p 80 -h /root"
    container = engine.output("run", "--detach", "--publish", "8080:80", BUSYBOX, "/bin/sh", "-c", serve)
    answer = engine.in_network("busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/index.html")
    assert answer.stdout == "from inside\n", answer.stderr
    engine.docker("rm", "--force", container)


def test_a_terminal_is_one(engine: Engine) -> None:
    with Terminal([*engine.client, "run", "--rm", "-it", BUSYBOX, "/bin/sh"]) as terminal:
        terminal.expect("# ")
        # Docker gives the size to a terminal after it has started what runs on it.
        terminal.send("until stty size | grep '24 120'; do sleep 0.1; done; tty; exit 7\n")
        terminal.expect(r"\n24 120\n/dev/pts/0\n")
        assert terminal.wait() == 7


def test_what_is_left_is_named(engine: Engine) -> None:
    scope = Scope(marks=(engine.name, str(engine.directory)), cgroups=(engine.name,), namespaces_of=(engine.pid,))
    before = snapshot(scope)
    container = engine.output("run", "--detach", BUSYBOX, "/bin/sleep", "1000")
    left = leftovers(before, snapshot(scope))
    kinds = {line.split(":")[0] for line in left}
    assert {"processes", "mounts", "cgroups", "devices"} <= kinds, left
    assert any("sleep" in line for line in left), left
    engine.docker("rm", "--force", container)
    expect_none(before, scope)


def test_nothing_is_left_of_an_engine() -> None:
    before = snapshot(Scope(directories=()))
    engine = Engine()
    scope = Scope(directories=(), marks=(engine.name, str(engine.directory)), cgroups=(engine.name,))
    engine.import_image(image("busybox"), BUSYBOX)
    engine.docker("run", "--detach", BUSYBOX, "/bin/sleep", "1000")
    assert engine.owned_processes()
    assert engine.close() == []
    expect_none(before, scope)
    assert not engine.directory.exists()


@pytest.mark.parametrize("view", ["v1", "v2"])
def test_the_engine_sees_the_cgroup_layout_asked_for(view: str) -> None:
    if view == "v1" and cgroups.is_unified():
        pytest.skip("this host has no cgroup v1")
    with Engine(cgroup_view="v1" if view == "v1" else "v2") as engine:
        assert engine.output("info", "--format", "{{.CgroupVersion}}") == view.removeprefix("v")
        engine.import_image(image("busybox"), BUSYBOX)
        assert engine.output("run", "--rm", BUSYBOX, "/bin/echo", "hello") == "hello"


def test_the_next_engine_ends_what_a_killed_test_left() -> None:
    """SIGKILL leaves no chance to clean up; one container runs, another is paused, which even SIGKILL does not wake."""
    tests = Path(__file__).resolve().parents[1]
    program = f"""
import os, sys
sys.path.insert(0, {str(tests)!r})
from support.engine import Engine
engine = Engine()
engine.docker("import", {str(image("busybox"))!r}, {BUSYBOX!r})
engine.docker("run", "--detach", {BUSYBOX!r}, "/bin/sleep", "1000")
engine.docker("run", "--detach", "--name", "paused", {BUSYBOX!r}, "/bin/sleep", "1000")
engine.docker("pause", "paused")
print(engine.name, engine.pid, engine.directory, flush=True)
os.kill(os.getpid(), 9)
"""
    killed = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=120)
    assert killed.returncode == -9, killed.stderr
    name, pid, directory = killed.stdout.split()
    dockerd = process(int(pid))
    assert dockerd is not None
    assert dockerd.alive(), "dockerd was expected to survive its test"
    assert len(cgroups.members(name)) == 2, "the containers were expected to survive their test"
    assert name in reap_dead_engines()
    assert not dockerd.alive()
    assert not list(cgroups.directories(name))
    assert not Path(directory).exists()
    assert Path(directory).parent == scratch_base()
