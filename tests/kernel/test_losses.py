"""Losing what we stand on: clear errors, nothing hangs, nothing is lost that can be kept, and nothing is left."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import whole
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

WORKS = "mount -t proc none /mnt && umount /mnt && echo done"


@pytest.fixture
def host() -> Iterator[whole.Host]:
    with whole.host("crun", kept=True) as host:
        yield host


def keeper(host: whole.Host) -> int:
    return int((host.directory / "run/keeper.lock").read_text())


def test_supervisor_and_keeper_at_once(host: whole.Host) -> None:
    """The one thing that takes interception from what runs; the containers go on, and what joins them is intercepted."""
    old = host.box()
    both = [keeper(host), host.supervisor_pid()]
    for pid in both:
        os.kill(pid, signal.SIGSTOP)  # so that neither can replace the other
    for pid in both:
        os.kill(pid, signal.SIGKILL)
    host.supervisor.wait()
    done = old.unfiltered("true")
    assert done.returncode == 0, "the container lives"
    new = host.box()
    assert new.sh(WORKS) == "done\n"
    assert old.sh(WORKS) == "done\n", "an exec brings a notifier of its own"
    assert {container["id"] for container in containers(host)} == {old.id, new.id}


def containers(host: whole.Host) -> list[dict[str, object]]:
    with host.client() as client:
        return list(client.call("ps")["containers"])


def test_everything_stops_for_a_while_as_in_a_suspended_machine(host: whole.Host) -> None:
    box = host.box()
    stopped = [keeper(host), host.supervisor_pid()]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    command = host.command(whole.ENTRY, "--root", host.directory / "oci", "exec", box.id, "sh", "-c", WORKS)
    with subprocess.Popen(
        command, env=host.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, cwd="/"
    ) as inside:
        with pytest.raises(subprocess.TimeoutExpired):
            inside.wait(1)
        for pid in reversed(stopped):
            os.kill(pid, signal.SIGCONT)
        assert inside.communicate(timeout=30)[0] == "done\n"


def test_no_descriptor_is_free(host: whole.Host) -> None:
    box = host.box()
    pid = host.supervisor_pid()
    used = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, hard))
    done = box.host.entry("exec", box.id, "sh", "-c", WORKS, timeout=60)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    assert done.returncode == 0 or done.stderr, "an error that says something"
    assert box.sh(WORKS) == "done\n"
    assert host.supervisor_pid() == pid


def test_an_unwritable_run_directory_is_named(host: whole.Host) -> None:
    run = host.directory / "run/containers"
    host.run("mount", "--bind", str(run), str(run))
    host.run("mount", "-o", "remount,bind,ro", str(run))
    try:
        with pytest.raises(AssertionError, match=r"Read-only file system.*containers"):
            host.box()
    finally:
        host.run("umount", str(run))
    assert host.box().sh(WORKS) == "done\n"


def test_a_supervisor_that_cannot_start_lets_calls_wait_until_it_can(host: whole.Host) -> None:
    box = host.box()
    configuration = host.directory / "interceptor.yaml"
    good = configuration.read_text(encoding="utf-8")
    command = host.command(
        whole.ENTRY, "--root", host.directory / "oci", "exec", "--user", "0:0", box.id, box.probe("steady"), "4", "proc", "/mnt"
    )
    with subprocess.Popen(
        command, env=host.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, cwd="/"
    ) as load:
        wait_for(lambda: " /mnt proc" in Path(f"/proc/{box.init}/mounts").read_text(), "the load", within=10)
        configuration.write_text("nonsense: 1\n", encoding="utf-8")
        os.kill(host.supervisor_pid(), signal.SIGKILL)
        wait_for(lambda: host.log.read_text().count("interceptor.yaml") > 1, "starts that fail", within=20)
        configuration.write_text(good, encoding="utf-8")
        os.kill(keeper(host), signal.SIGHUP)
        output, _ = load.communicate(timeout=60)
    assert "errors 0 double 0 missing 0" in output
