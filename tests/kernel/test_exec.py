"""Further processes of a container, by `exec`: from its first moment on, and with what the engine says of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest
from support import whole
from support.leaks import open_files
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.root, pytest.mark.kernel]


@pytest.fixture
def crun() -> Iterator[whole.Host]:
    with whole.host("crun") as host:
        yield host


def test_as_soon_as_crun_has_started_it(crun: whole.Host) -> None:
    """`start` of crun ends when init has been told to execute its program, not when it has."""
    box = whole.Box(crun, whole.ALL, ())
    crun.undo.callback(box.remove)
    box.create()
    os.kill(box.init, signal.SIGSTOP)
    started = crun.entry("start", box.id)
    assert started.returncode == 0, started.stderr
    command = crun.command(whole.ENTRY, "--root", crun.directory / "oci", "exec", box.id, "echo", "joined")
    with subprocess.Popen(
        command, env=crun.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd="/",
    ) as joining:  # fmt: skip
        wait_for(lambda: joining.poll() is not None or waits(joining.pid), "exec waits or ends", within=20)
        os.kill(box.init, signal.SIGCONT)
        assert joining.communicate(timeout=60) == ("joined\n", "")


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_with_the_oom_score_that_its_engine_says(runtime: str) -> None:
    with whole.host(runtime) as host:
        box = whole.Box(host, whole.ALL, ())
        host.undo.callback(box.remove)
        box.change(lambda values: values["process"].update(oomScoreAdj=300))
        box.start()
        process = box.directory / "process.json"
        process.write_text(json.dumps({
            "args": ["cat", "/proc/self/oom_score_adj"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0},
            "oomScoreAdj": 300,
        }))  # fmt: skip
        done = host.entry("exec", "--process", process, box.id)
        assert (done.stdout, done.stderr) == ("300\n", "")


def waits(pid: int) -> bool:
    """Whether interceptor-runc looks after the container's init."""
    return any(target.startswith(("pidfd", "anon_inode")) for target in open_files(pid))
