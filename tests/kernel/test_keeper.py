"""The supervisor may die: calls wait, connections queue, and the next one goes on."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import whole
from support.pressure import WAIT, counted
from support.under_fire import killing
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

LEAVES = "grep ' - [^ ]* interceptor ' /proc/self/mountinfo | cut -d' ' -f5"


@pytest.fixture(params=["runc", "crun"])
def host(request: pytest.FixtureRequest) -> Iterator[whole.Host]:
    with whole.host(request.param, kept=True) as host:
        yield host


def kill_supervisor(host: whole.Host) -> int:
    pid = host.supervisor_pid()
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{pid}/exe").exists(), "the end of the supervisor", within=10)
    return pid


def test_a_call_that_comes_while_no_supervisor_runs_waits_for_the_next(host: whole.Host) -> None:
    box = host.box()
    killed = kill_supervisor(host)
    assert box.sh("mount -t proc none /mnt && umount /mnt && echo done") == "done\n"
    assert host.supervisor_pid() != killed
    kill_supervisor(host)
    steady = box.probe("steady")
    assert box.unfiltered("true").returncode == 0
    assert "errors 0" in box.sh(f"{steady} 1 proc /mnt")


def test_a_container_is_created_and_deleted_though_the_supervisor_has_just_died(host: whole.Host) -> None:
    kill_supervisor(host)
    box = host.box()
    kill_supervisor(host)
    assert box.sh("mount -t sysfs none /mnt && echo done") == "done\n"
    kill_supervisor(host)
    box.remove()
    assert host.interceptor("ps", "--json").count(box.id) == 0


def test_leaves_that_a_dying_supervisor_had_made_are_attached_by_the_next(host: whole.Host) -> None:
    """By a hook, which runs while the runtime creates the container, and the supervisor makes its leaves."""
    other = host.box()
    box = whole.Box(host, whole.ALL, ())
    host.undo.callback(box.remove)
    script = f"""
        for i in $(seq 1000); do grep -q {box.id}/leaves/file /proc/self/mountinfo && break; sleep 0.01; done
        kill -9 {host.supervisor_pid()}
        """
    hook = {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}
    box.change(lambda values: values.update(hooks={"createRuntime": [hook]}))
    box.start()
    for path in ("/proc/stat", "/proc/slabinfo", "/proc/sys/vm/swappiness"):
        assert f" {path} " in box.sh("cat /proc/self/mountinfo")
        assert box.sh(f"head -n1 {path}") == other.sh(f"head -n1 {path}") or path == "/proc/stat"
    box.sh("echo 7 > /proc/sys/vm/swappiness")
    assert box.sh("cat /proc/sys/vm/swappiness") == "7\n"
    assert box.sh(LEAVES) == other.sh(LEAVES)


def test_who_waits_for_pressure_is_woken_by_the_next(host: whole.Host) -> None:
    if host.runtime == "crun":
        pytest.skip("whole.host takes v2 away from it")
    box = host.box()
    counted(box)
    command = ["python3", "-c", WAIT, f"/proc/{box.init}/root/proc/pressure/cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd="/") as waiter:
        assert waiter.stdout
        assert waiter.stdout.readline() == "waiting\n"
        kill_supervisor(host)
        box.sh("(trap '' HUP; for i in 1 2 3 4 5 6 7 8; do (while :; do :; done) & done) >/dev/null 2>&1 &")
        assert waiter.wait() == 0


def test_sessions_of_exec_are_inherited_too(host: whole.Host) -> None:
    box = host.box()
    script = "echo ready; read line; mount -t proc none /mnt && umount /mnt && echo $line"
    with box.begin("sh", "-c", script, stdin=subprocess.PIPE, stderr=None) as inside:
        assert inside.stdout
        assert inside.stdin
        assert inside.stdout.readline() == "ready\n"
        kill_supervisor(host)
        output, _ = inside.communicate("mounted\n", timeout=60)
    assert output == "mounted\n"


def test_another_keeper_takes_the_place_of_one_that_died(host: whole.Host) -> None:
    box = host.box()
    supervisor = host.supervisor_pid()
    host.supervisor.kill()
    host.supervisor.wait()
    lock = host.directory / "run/keeper.lock"
    wait_for(lambda: locked(lock), "another keeper", within=10)
    assert host.supervisor_pid() == supervisor
    assert box.sh("mount -t proc none /mnt && umount /mnt && echo done") == "done\n"
    kill_supervisor(host)
    assert box.sh("mount -t proc none /mnt && umount /mnt && echo done") == "done\n"
    assert host.supervisor_pid() != supervisor


def locked(path: Path) -> bool:
    return subprocess.run(["flock", "--nonblock", path, "true"], check=False).returncode != 0


def test_no_mount_fails_is_doubled_or_lost_while_supervisors_are_killed(host: whole.Host) -> None:
    box = host.box()
    steady = box.probe("steady")
    with killing(host, 1.0) as killed:
        done = box.exec(steady, "8", "proc", "/mnt", timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:] + host.log.read_text()[-4000:]
    assert killed, "on a busy machine, a supervisor takes seconds to start"
    words = done.stdout.split()
    assert int(words[words.index("longest-ms") + 1]) < 5000


def test_containers_are_created_and_deleted_while_supervisors_are_killed(host: whole.Host) -> None:
    with killing(host, 1.6) as killed:
        while len(killed) < 3:
            box = host.box()
            assert box.sh("mount -t proc none /mnt && echo done") == "done\n"
            box.remove()
    assert host.interceptor("ps", "--json").strip() in ("", "[]")


def test_leaves_of_proc_are_read_while_supervisors_are_killed(host: whole.Host) -> None:
    box = host.box()
    if "fuse" not in box.sh("cat /proc/self/mounts"):
        pytest.skip("no leaves: this host has no FUSE")
    script = """
end=$(($(date +%s) + 6)) rounds=0
leaves=$(grep ' - fuse.interceptor ' /proc/self/mountinfo | cut -d' ' -f5)
while [ $(date +%s) -lt $end ]; do
    cat $leaves /proc/uptime >/dev/null || exit 1
    rounds=$((rounds + 1))
done
echo $rounds rounds
"""
    with killing(host, 1.5) as killed:
        output = box.sh(script, timeout=60)
    assert output.endswith("rounds\n")
    assert killed
