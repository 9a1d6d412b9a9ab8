"""Losing what we stand on: clear errors, nothing hangs, nothing is lost that can be kept, and nothing is left."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import cgroups, whole
from support.probes import probe
from support.waiting import wait_for

from interceptor.errors import InterceptorError

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
    with box.begin(box.probe("steady"), "4", "proc", "/mnt", stderr=None) as load:
        wait_for(lambda: " /mnt proc" in Path(f"/proc/{box.init}/mounts").read_text(), "the load", within=10)
        configuration.write_text("nonsense: 1\n", encoding="utf-8")
        os.kill(host.supervisor_pid(), signal.SIGKILL)
        wait_for(lambda: host.log.read_text().count("interceptor.yaml") > 1, "starts that fail", within=20)
        configuration.write_text(good, encoding="utf-8")
        os.kill(keeper(host), signal.SIGHUP)
        output, _ = load.communicate(timeout=60)
    assert "errors 0 double 0 missing 0" in output


@pytest.fixture
def losing(tmp_path: Path) -> Iterator[tuple[whole.Host, Path]]:
    """A host whose supervisors lose what the names of files in the directory say; see support/losing.c."""
    library = probe("losing", "-shared", "-fPIC")
    with whole.host("crun", kept=True, under=["env", f"LD_PRELOAD={library}", f"LOSE={tmp_path}"]) as host:
        yield host, tmp_path


def test_the_machine_has_no_free_file(losing: tuple[whole.Host, Path]) -> None:
    host, lost = losing
    box, pid = host.box(), host.supervisor_pid()
    assert box.sh(WORKS) == "done\n"
    (lost / "files").touch()
    with steady(box, 3) as load:
        with pytest.raises(subprocess.TimeoutExpired):
            load.wait(2)
        (lost / "files").unlink()
        output, _ = load.communicate(timeout=60)
    assert "errors 0 double 0 missing 0" in output, "what came meanwhile has waited"
    assert host.box().sh(WORKS) == "done\n"
    assert host.supervisor_pid() == pid


def test_the_time_of_day_jumps(losing: tuple[whole.Host, Path]) -> None:
    """While calls are under way, and a supervisor is replaced in it: nothing waits for another year."""
    host, lost = losing
    box = host.box()
    with steady(box, 4) as load:
        for _ in range(2):
            (lost / "clock").touch()
            box.sh("cat /proc/uptime >/dev/null; hostname web-1")
            (lost / "clock").unlink()
            box.sh("cat /proc/uptime >/dev/null; hostname web-2")
        (lost / "clock").touch()
        os.kill(host.supervisor_pid(), signal.SIGKILL)
        output, _ = load.communicate(timeout=60)
    assert "errors 0 double 0 missing 0" in output
    assert host.box().sh(WORKS) == "done\n"
    assert '"2' in host.interceptor("trace", "--json", box.id)


@pytest.fixture
def small_disk() -> Iterator[tuple[whole.Host, Path]]:
    """A host whose state directory is small; and that directory, as the test can reach it."""
    make = 'd="$INTERCEPTOR_STATE"; mkdir -p "$d" && mount -t tmpfs -o size=256k,nr_inodes=64,mode=0755 s "$d" && exec "$@"'
    with whole.host("crun", kept=True, under=["unshare", "-m", "--propagation", "private", "sh", "-ec", make, "sh"]) as host:
        yield host, Path(f"/proc/{keeper(host)}/root") / str(host.directory / "state").lstrip("/")


def test_the_disk_with_the_state_is_full(small_disk: tuple[whole.Host, Path]) -> None:
    host, state = small_disk
    box, pid = host.box(), host.supervisor_pid()
    assert box.sh(WORKS) == "done\n"
    before = {str(path) for path in state.rglob("*")}
    (state / "fill").mkdir()
    with contextlib.suppress(OSError):
        for number in range(64):  # what we keep there are names: it is inodes that must be out
            (state / f"fill/{number}").touch()
    assert os.statvfs(state).f_favail == 0
    with pytest.raises(AssertionError, match="No space left on device"):
        host.box()
    assert box.sh(WORKS) == "done\n", "who has all it needs does not notice"
    assert {str(path) for path in state.rglob("*") if "fill" not in str(path)} == before
    assert [container["id"] for container in containers(host)] == [box.id]
    os.kill(pid, signal.SIGKILL)
    assert box.sh(WORKS) == "done\n", "a supervisor starts on a full disk"
    for path in (state / "fill").iterdir():
        path.unlink()
    assert host.box().sh(WORKS) == "done\n"


def test_the_kernel_kills_the_supervisor_for_its_memory(host: whole.Host) -> None:
    memory = Path("/sys/fs/cgroup/memory")
    if not (memory / "memory.limit_in_bytes").exists() and not (memory / "tasks").exists():
        pytest.skip("needs the memory controller of cgroup v1")
    group = memory / f"interceptor-test-oom-{os.getpid()}"
    group.mkdir()
    box, pid = host.box(), host.supervisor_pid()
    try:
        with steady(box, 5) as load:
            wait_for(lambda: " /mnt proc" in Path(f"/proc/{box.init}/mounts").read_text(), "the load", within=10)
            (group / "memory.limit_in_bytes").write_text("65536")
            (group / "cgroup.procs").write_text(str(pid))
            wait_for(lambda: _killed_for_memory(host, group), "the end of the supervisor", within=20)
            # It may be killed where memory is taken: as it sends a request to an agent, which then never comes.
            output, errors = load.communicate(timeout=60)
        assert "errors 0 double 0 missing 0" in output, errors
        assert host.supervisor_pid() != pid
        assert box.sh(WORKS) == "done\n"
    finally:
        wait_for(lambda: not (group / "cgroup.procs").read_text(), "an empty cgroup", within=20)
        group.rmdir()


def _killed_for_memory(host: whole.Host, group: Path) -> bool:
    with contextlib.suppress(InterceptorError, OSError), host.client() as client:
        client.call("ps")  # whatever needs memory
    return " 1" in (group / "memory.oom_control").read_text().replace("oom_kill ", " ").splitlines()[-1]


@contextlib.contextmanager
def steady(box: whole.Box, seconds: int) -> Iterator[subprocess.Popen[str]]:
    with box.begin(box.probe("steady"), str(seconds), "proc", "/mnt") as load:
        yield load


def test_init_is_killed_between_create_and_start(host: whole.Host) -> None:
    box = whole.Box(host, whole.ALL, ())
    host.undo.callback(box.remove)
    box.create()
    os.kill(box.init, signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{box.init}/exe").exists(), "its end", within=10)
    started = host.entry("start", box.id)
    assert started.returncode != 0
    assert started.stderr.strip(), "an error that says something"
    box.remove()
    assert containers(host) == []
    assert not list((host.directory / "run/containers").iterdir())


def test_the_runtime_is_killed_in_the_middle_of_create(host: whole.Host) -> None:
    """Again and again, a little later each time: whatever is left is gone after delete, or when the next one comes."""
    for milliseconds in range(5, 85, 10):
        box = whole.Box(host, whole.ALL, ())
        host.undo.callback(box.remove)
        command = host.command(whole.ENTRY, "--root", host.directory / "oci", "create", "--bundle", box.bundle, box.id)
        with (box.directory / "output").open("w") as output:
            creating = subprocess.Popen(
                command, env=host.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/"
            )
            with contextlib.suppress(subprocess.TimeoutExpired):
                creating.wait(milliseconds / 1000)
            creating.kill()
            creating.wait()
        deleted = host.entry("delete", "--force", box.id)
        assert deleted.returncode == 0, deleted.stderr
        wait_for(lambda box=box: not list(cgroups.directories(box.cgroup.strip("/"))), "its cgroups' end", within=20)
        shutil.rmtree(box.directory)
    assert host.box().sh(WORKS) == "done\n"
    wait_for(lambda: len(containers(host)) == 1, "the others' end", within=20)
