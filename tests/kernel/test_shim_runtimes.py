"""interceptor-runc with stock runc and crun underneath; the supervisor is the tests' own and changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.bundles import bundle, cgroup_wrapper, world_readable_directory
from support.fake_supervisor import SHIM, FakeSupervisor, fake_supervisor, refusal
from support.process import process
from support.terminal import Terminal
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.root, pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


class Host:
    """A runtime, a fake supervisor that names it, and one container id."""

    def __init__(self, directory: Path, runtime: str, supervisor: FakeSupervisor) -> None:
        self.directory = directory
        self.runtime = runtime
        self.supervisor = supervisor
        self.path = shutil.which(runtime) or ""
        self.id = f"shim-test-{os.getpid()}-{directory.name[-6:]}"
        self.clocks = Path("/proc/self/ns/time").exists()
        supervisor.answers |= {"create": self._create, "exec": self._exec}

    def _pid_file(self) -> Path:
        return self.directory / "pid"

    def _create(self, request: dict[str, Any]) -> dict[str, Any]:
        record = self.directory / "containers" / self.id
        record.mkdir(parents=True, exist_ok=True)
        (record / "runtime").write_text(self.path, encoding="utf-8")
        command, *rest = request["argv"]
        pid_file = request["pid_file"] or str(self._pid_file())
        return {
            "exec": [self.path, command, "--pid-file", pid_file, *rest],
            "pid_file": pid_file,
            "time_namespace": True,
            "chown_stdio": True,
        }

    def _exec(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"exec": [self.path, *request["argv"]], "init_pid": self.pid()}

    def pid(self) -> int:
        return int(self._pid_file().read_text(encoding="utf-8"))

    def command(self, *arguments: str) -> list[str]:
        environment = ["env", f"INTERCEPTOR_RUN={self.directory}", f"INTERCEPTOR_RUNTIME={self.runtime}"]
        return [*cgroup_wrapper(self.runtime), *environment, str(SHIM), *arguments]

    def shim(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """With files as stdio: a pipe would be held open by the container."""
        with (self.directory / "stdout").open("w+") as out, (self.directory / "stderr").open("w+") as err:
            status = subprocess.run(
                self.command(*arguments), check=False, stdin=subprocess.DEVNULL, stdout=out, stderr=err, timeout=60
            ).returncode
            out.seek(0)
            err.seek(0)
            result = subprocess.CompletedProcess([*arguments], status, out.read(), err.read())
        assert not check or status == 0, result
        return result

    def status(self) -> str:
        return str(json.loads(self.shim("state", self.id).stdout)["status"])


@pytest.fixture(params=["runc", "crun"])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    if not shutil.which(request.param):
        pytest.skip(f"no {request.param} on this host")
    with world_readable_directory() as directory, fake_supervisor(directory) as supervisor:
        host = Host(directory, request.param, supervisor)
        try:
            yield host
        finally:
            host.shim("delete", "--force", host.id, check=False)


def test_a_container_s_life(host: Host) -> None:
    path = bundle(host.directory / "bundle", ["sleep", "1000"])
    host.shim("create", "--bundle", str(path), host.id)
    assert host.supervisor.seen[-1] == {"v": 1, "op": "created", "id": host.id, "status": 0, "pid": host.pid()}
    assert host.status() == "created"
    host.shim("start", host.id)
    assert host.status() == "running"
    assert host.shim("exec", host.id, "hostname").stdout == "runc\n"
    assert host.shim("delete", host.id, check=False).returncode != 0
    assert host.supervisor.operations()[-1] == "exec"
    host.shim("kill", host.id, "KILL")
    wait_for(lambda: host.status() == "stopped", "the container stops", within=10)
    host.shim("delete", host.id)
    assert host.supervisor.operations()[-1] == "deleted"
    assert host.shim("state", host.id, check=False).returncode != 0


def test_clocks_start_at_zero_and_our_own_stay(host: Host) -> None:
    if not host.clocks:
        pytest.skip("this kernel has no time namespaces")
    host.shim("create", "--bundle", str(bundle(host.directory / "bundle", ["sleep", "1000"])), host.id)
    host.shim("start", host.id)
    uptime = float(host.shim("exec", host.id, "cat", "/proc/uptime").stdout.split()[0])
    assert 0 <= uptime < 60
    stat = host.shim("exec", host.id, "cat", "/proc/1/stat").stdout
    assert int(stat.rpartition(")")[2].split()[19]) > 0, "crun does not know a process that starts in the first tick"
    inside = host.shim("exec", host.id, "readlink", "/proc/self/ns/time").stdout.strip()
    assert inside == os.readlink(f"/proc/{host.pid()}/ns/time") != os.readlink("/proc/self/ns/time")  # noqa: PTH115
    offsets = dict(line.split()[:2] for line in Path(f"/proc/{host.pid()}/timens_offsets").read_text().splitlines())
    assert all(int(seconds) < 0 for seconds in offsets.values())


def test_the_host_s_null_device_stays_root_s(host: Host) -> None:
    before = os.stat("/dev/null")  # noqa: PTH116
    host.shim("create", "--bundle", str(bundle(host.directory / "bundle", ["sleep", "1000"])), host.id)
    host.shim("start", host.id)
    after = os.stat("/dev/null")  # noqa: PTH116
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)
    given = os.stat(f"/proc/{host.pid()}/fd/0")  # noqa: PTH116
    assert (given.st_rdev, given.st_mode) == (before.st_rdev, before.st_mode)


def test_run_waits_and_returns_the_status(host: Host) -> None:
    path = bundle(host.directory / "bundle", ["sh", "-c", "echo out; echo err >&2; exit 5"])
    result = host.shim("run", "--bundle", str(path), host.id, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (5, "out\n", "err\n")
    assert host.supervisor.operations() == ["create", "created", "deleted"]
    assert host.shim("state", host.id, check=False).returncode != 0


def test_run_keeps_the_container_when_told_to(host: Host) -> None:
    path = bundle(host.directory / "bundle", ["true"])
    host.shim("run", "--keep", "--bundle", str(path), host.id)
    assert host.status() == "stopped"
    host.shim("delete", host.id)


def test_run_detached(host: Host) -> None:
    path = bundle(host.directory / "bundle", ["sleep", "1000"])
    host.shim("run", "--detach", "--bundle", str(path), host.id)
    assert host.status() == "running"


def test_run_hands_signals_on(host: Host) -> None:
    script = "trap 'echo got it; exit 3' TERM; echo ready; while :; do sleep 0.1; done"
    path = bundle(host.directory / "bundle", ["sh", "-c", script])
    running = subprocess.Popen(
        host.command("run", "--bundle", str(path), host.id), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert running.stdout
    with running.stdout:
        assert running.stdout.readline() == b"ready\n"
        running.send_signal(signal.SIGTERM)
        assert running.stdout.readline() == b"got it\n"
        assert running.wait(timeout=30) == 3


def test_run_on_a_terminal(host: Host) -> None:
    path = bundle(host.directory / "bundle", ["sh"], terminal=True)
    with Terminal(host.command("run", "--bundle", str(path), host.id), rows=33, columns=99) as terminal:
        terminal.expect(r"# $")
        terminal.send("stty size; tty; echo $((40 + 2))\n")
        terminal.expect("33 99")
        terminal.expect("/dev/(console|pts/0)")
        terminal.expect("42")
        terminal.send("exit 4\n")
        assert terminal.wait() == 4
    assert not list(host.directory.glob("console-*"))


def test_a_container_that_the_supervisor_disowns_is_deleted_again(host: Host) -> None:
    host.supervisor.answers["created"] = refusal("no cgroup")
    path = bundle(host.directory / "bundle", ["sleep", "1000"])
    result = host.shim("create", "--bundle", str(path), host.id, check=False)
    assert result.returncode == 1
    assert "created and deleted again: no cgroup" in result.stderr
    assert (left := process(host.pid())) is None or not left.alive()
    assert host.shim("state", host.id, check=False).returncode != 0
