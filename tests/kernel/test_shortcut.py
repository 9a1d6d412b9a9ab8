"""Calls that are decided in C, on the whole path: the kernel's own answers, and a trace like that of any other call."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


DATA = {"destination": "/data", "type": "tmpfs", "source": "data", "options": ["rw"]}


@pytest.fixture(scope="module")
def host() -> Iterator[whole.Host]:
    one_agent = "extends: [default]\nselectable: true\nlimits: {agents: 1}\n"
    with whole.host("runc", policies={"one-agent": one_agent}) as made:
        yield made


@pytest.fixture(scope="module")
def box(host: whole.Host) -> whole.Box:
    return host.box(mounts=[DATA])


def test_every_call_is_traced_with_its_arguments(box: whole.Box) -> None:
    before = len(box.trace("--syscall", "mount"))
    box.sh("for i in 1 2 3; do mount -t tmpfs -o size=4k,mode=700 none$i /mnt; umount /mnt; done")
    mounts = box.trace("--syscall", "mount")[before:]
    assert [(e["args"]["source"], e["args"]["target"], e["args"]["fstype"], e["args"]["data"]) for e in mounts] == [
        (f"none{i}", "/mnt", "tmpfs", "size=4k,mode=700") for i in (1, 2, 3)
    ]
    assert {(e["how"], e["comm"], e["why"]) for e in mounts} == {
        ("continued", "mount", "the kernel mounts it with what the tracee has itself")
    }
    assert all(e["rule"].startswith("default.yaml:") for e in mounts)
    unmounts = [e for e in box.trace("--syscall", "umount2") if e["args"]["target"] == "/mnt"]
    assert {e["why"] for e in unmounts} == {"the mount was made inside; the kernel checks the rest"}


@pytest.mark.parametrize("path", ["/data", "/mnt/../data/.", "/mnt/link", "/mnt/link/", "/data/"])
def test_an_immutable_mount_is_busy_by_whatever_name(box: whole.Box, path: str) -> None:
    box.sh("ln -sfn ../data /mnt/link")
    done = box.exec("umount", path)
    assert "busy" in done.stderr.lower()
    assert box.sh("cat /proc/mounts").count(" /data ") == 1
    assert box.trace("--syscall", "umount2")[-1]["how"] == "denied"


def test_what_is_mounted_over_it_is_not(box: whole.Box) -> None:
    box.sh("mount -t tmpfs x /data; umount /data")
    assert box.sh("cat /proc/mounts").count(" /data ") == 1


def test_a_proc_is_the_kernels_to_unmount_unless_it_has_leaves(box: whole.Box) -> None:
    """Here nothing that is mounted inside gets leaves; but who mounts one there himself may unmount the proc as well."""
    for leaf, how in (("", "continued"), ("mount --bind /proc/meminfo /mnt/meminfo", "emulated")):
        box.sh(f"mount -t proc x /mnt; {leaf or ':'}; umount /mnt; ! grep ' /mnt' /proc/self/mountinfo")
        assert box.trace("--syscall", "umount2")[-1]["how"] == how


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("mount -t tmpfs x /nowhere", "no such file"),
        ("mount -t nosuchtype x /mnt", "no such device"),
        ("mount -t ext4 x /mnt", "permission denied"),
        ("umount /nowhere", "no such file"),
        ("umount /mnt", "invalid argument"),
    ],
)
def test_failures_are_the_kernels(box: whole.Box, script: str, error: str) -> None:
    ours, native = box.exec("sh", "-c", script), box.unfiltered("sh", "-c", script)
    assert ours.returncode == native.returncode != 0
    assert ours.stderr == native.stderr
    assert error in ours.stderr.lower()


MOUNT = ("mount", "-t", "debugfs", "-o", "nosuid,noexec", "here", "/mnt")


@pytest.fixture
def fresh(host: whole.Host) -> Iterator[whole.Box]:
    """A container that nobody else has."""
    made = host.box()
    yield made
    made.remove()


@pytest.fixture
def agent(fresh: whole.Box) -> int:
    """The pid of the one agent that it has."""
    before = agents(fresh.host)
    fresh.sh("mount -t debugfs x /mnt; umount /mnt")
    (pid,) = agents(fresh.host) - before
    return pid


def agents(host: whole.Host) -> set[int]:
    return {
        int(status.parent.name)
        for status in Path("/proc").glob("[0-9]*/status")
        if (known := text(status)).startswith("Name:\tagent\n") and f"PPid:\t{host.supervisor.pid}\n" in known
    }


def text(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_a_stand_in_takes_flags_and_is_traced(fresh: whole.Box, agent: int) -> None:
    for _ in range(2):
        assert fresh.exec(*MOUNT).returncode == 0
        assert "debugfs /mnt tmpfs ro,nosuid,noexec,relatime" in fresh.sh("cat /proc/mounts; umount /mnt")
    last = fresh.trace("--syscall", "mount")[-1]
    assert (last["how"], last["comm"], last["args"]["source"]) == ("emulated", "mount", "here")
    assert last["rule"].startswith("default.yaml:")
    assert Path(f"/proc/{agent}").exists()


def test_a_filesystem_is_one_for_all_of_its_mounts(box: whole.Box) -> None:
    """As debugfs is: twice at one place is refused, twice at two is not."""
    assert box.exec(*MOUNT).returncode == 0
    try:
        again = box.exec(*MOUNT)
        assert "busy" in again.stderr.lower()
        table = box.sh("mount -t debugfs -o nodev x /probe; cat /proc/self/mountinfo; umount /probe")
        rows = {row.split()[4]: row.split()[2] for row in table.splitlines()}
        assert rows["/probe"] == rows["/mnt"]
    finally:
        box.sh("umount /mnt")


def test_an_agent_that_takes_long_is_waited_for_and_holds_nobody_up(fresh: whole.Box, agent: int) -> None:
    os.kill(agent, signal.SIGSTOP)
    try:
        slow = subprocess.Popen(
            fresh.host.command(whole.ENTRY, "--root", fresh.host.directory / "oci", "exec", fresh.id, *MOUNT),
            env=fresh.host.environment, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        wait_for(lambda: described(fresh)["parked"] == 1, "the call is parked", within=5)
        fresh.sh("mount -t tmpfs x /tmp; umount /tmp; mount -t debugfs x /tmp; umount /tmp")
    finally:
        os.kill(agent, signal.SIGCONT)
    assert slow.wait(10) == 0
    wait_for(lambda: described(fresh)["parked"] == 0, "its place is free", within=5)
    assert " /mnt tmpfs ro,nosuid,noexec" in fresh.sh("cat /proc/mounts; umount /mnt")
    slowest = max(fresh.trace("--syscall", "mount")[-3:], key=lambda e: float(e["micros"]))
    assert (slowest["args"]["target"], slowest["how"], slowest["comm"]) == ("/mnt", "emulated", "mount")


def test_an_agent_that_dies_before_it_acts_leaves_the_call_to_another(fresh: whole.Box, agent: int) -> None:
    os.kill(agent, signal.SIGSTOP)
    slow = subprocess.Popen(
        fresh.host.command(whole.ENTRY, "--root", fresh.host.directory / "oci", "exec", fresh.id, *MOUNT),
        env=fresh.host.environment, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: described(fresh)["parked"] == 1, "the call is parked", within=5)
    os.kill(agent, signal.SIGKILL)
    assert slow.wait(10) == 0
    assert fresh.trace("--syscall", "mount")[-1]["how"] == "emulated"
    assert fresh.sh("grep -c ' /mnt ' /proc/mounts; umount /mnt") == "1\n"


def test_an_agent_that_died_before_is_replaced(fresh: whole.Box, agent: int) -> None:
    os.kill(agent, signal.SIGKILL)
    for _ in range(2):
        assert fresh.exec(*MOUNT).returncode == 0
        fresh.sh("umount /mnt")
    wait_for(lambda: not Path(f"/proc/{agent}").exists(), "the dead one is reaped", within=5)


def test_one_agent_serves_c_and_python_in_turn(host: whole.Host) -> None:
    box = host.box("one-agent")
    loop = "i=0; while [ $i -lt 300 ]; do mount -t {0} x {1} && umount {1} || exit 1; i=$((i+1)); done"
    running = [
        subprocess.Popen(
            host.command(
                whole.ENTRY, "--root", host.directory / "oci", "exec", box.id, "sh", "-c", loop.format(fstype, place)
            ),
            env=host.environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for fstype, place in (("debugfs", "/mnt"), ("proc", "/data"), ("tracefs", "/probe"))
    ]  # fmt: skip
    said = [process.communicate(timeout=60)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], said
    assert described(box)["agents"] == 1


def test_who_is_not_the_containers_root_gets_what_the_kernel_gives(fresh: whole.Box, agent: int) -> None:
    refused = fresh.exec(*MOUNT, user="1000:1000")
    assert "permission denied" in refused.stderr.lower()
    refused = fresh.host.box("engine").exec(*MOUNT)  # root without CAP_SYS_ADMIN
    assert "permission denied" in refused.stderr.lower()
    nested = fresh.exec("unshare", "-Urm", *MOUNT)
    assert nested.returncode == 0, "the nested namespace is its own"
    assert " /mnt " not in fresh.sh("cat /proc/mounts")
    refused = fresh.exec("unshare", "-Ur", *MOUNT)
    assert "permission denied" in refused.stderr.lower()
    assert Path(f"/proc/{agent}").exists()


def test_a_storm_of_calls_loses_none(box: whole.Box) -> None:
    before = described(box)["calls"]
    box.sh("i=0; while [ $i -lt 2000 ]; do mount -t tmpfs x /mnt && umount /mnt; i=$((i+1)); done", timeout=120)
    assert described(box)["calls"] - before >= 4000


def described(box: whole.Box) -> dict[str, Any]:
    """What `interceptor ps` says of it."""
    containers: list[dict[str, Any]] = json.loads(box.host.interceptor("ps", "--json"))
    return next(container for container in containers if container["id"] == box.id)
