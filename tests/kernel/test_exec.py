"""Further processes of a container, by `exec`: from its first moment on, and with what the engine says of them."""

from __future__ import annotations

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


def waits(pid: int) -> bool:
    """Whether interceptor-runc looks after the container's init."""
    return any(target.startswith(("pidfd", "anon_inode")) for target in open_files(pid))
