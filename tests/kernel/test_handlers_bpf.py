"""Device programs of cgroup v2, loaded and attached inside; the same program as the host's root is the oracle."""

from __future__ import annotations

import contextlib
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import whole
from support.both_abis import MARKS
from support.waiting import wait_for

from interceptor.native import devicebpf

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

pytestmark = MARKS

TOP = Path("/sys/fs/cgroup")
OTHERWISE = {
    "attach to its own cgroup": "EPERM",
    "attach to a foreign cgroup": "EPERM",
    "query its own cgroup": "EPERM",
    "query what is effective": "EPERM",
    "others by id": "none",
    "link": "EINVAL",
    "load with a loop": "EINVAL",
    "load with a helper": "EINVAL",
    "load with a store": "EINVAL",
    "load with the context changed": "EINVAL",
    "load of another type": "EPERM",
    "load of too much": "E2BIG",
    "attr at the end of a page": "EPERM",  # of no type
    "load without end": "ENOMEM",
}
"""What real root may do, and a container must not."""


@pytest.fixture(scope="module")
def host() -> Iterator[whole.Host]:
    with whole.host("runc") as host:
        mount_v2(host)
        yield host


def mount_v2(host: whole.Host) -> None:
    done = host.run("sh", "-euc", f"umount -R {TOP}; mount -t cgroup2 none {TOP}")
    assert done.returncode == 0, done.stderr


CGROUP2 = {
    "destination": str(TOP),
    "type": "cgroup",
    "source": "cgroup",
    "options": ["rw", "nosuid", "noexec", "nodev"],
}
FOREIGN = {"destination": "/foreign", "type": "bind", "source": str(TOP), "options": ["rbind", "rw"]}


@contextlib.contextmanager
def box_in(host: whole.Host, name: str) -> Iterator[whole.Box]:
    """A container whose cgroup lies in another of the test's own."""
    box = whole.Box(host, whole.ALL, [CGROUP2, FOREIGN])
    box.cgroup = f"/{name}/{box.id}"
    box.change(lambda values: values["linux"].update(cgroupsPath=box.cgroup))
    try:
        box.start()
        yield box
    finally:
        box.remove()
        host.run("find", f"{TOP}/{name}", "-depth", "-type", "d", "-exec", "rmdir", "{}", "+")


@pytest.fixture(scope="module")
def box(host: whole.Host) -> Iterator[whole.Box]:
    with box_in(host, "interceptor-test-bpf") as box:
        yield box


def answers(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    assert done.returncode == 0, done.stderr
    return dict(line.partition(": ")[::2] for line in done.stdout.splitlines())


@pytest.fixture(scope="module", params=["64", "32"])
def both(request: pytest.FixtureRequest, host: whole.Host, box: whole.Box) -> tuple[dict[str, str], dict[str, str]]:
    options = ["-m32"] if request.param == "32" else []
    program = whole.probe("device_programs", *options)
    ours = box.exec(box.probe("device_programs", *options), f"{TOP}/inner", str(TOP), "/foreign")
    own = f"{TOP}/interceptor-test-bpf/native"
    script = f'mkdir -p {own}/other; "$@"; status=$?; rmdir {own}/other {own}; exit $status'
    native = host.run("sh", "-uc", script, "sh", program, f"{own}/inner", f"{own}/other", f"{own}/other")
    return answers(native), answers(ours)


def test_it_is_as_for_real_root_on_cgroups_below_its_own_and_nowhere_else(
    both: tuple[dict[str, str], dict[str, str]],
) -> None:
    native, ours = both
    assert {name: ours[name] for name in OTHERWISE} == OTHERWISE
    same = [name for name in native if name not in OTHERWISE and not name.startswith("type ")]
    assert {name: ours[name] for name in same} == {name: native[name] for name in same}
    assert (ours["before"], ours["attached"], ours["replaced"], ours["both"], ours["detached"]) == (
        "opens 3", "opens 1", "opens 3", "opens 1", "opens 3"
    )  # fmt: skip


def test_without_the_filter_and_for_others_than_root_nothing_is_lent(box: whole.Box) -> None:
    arguments = (box.probe("device_programs"), f"{TOP}/inner", str(TOP))
    for done in (box.unfiltered(*arguments), box.exec(*arguments, user="1000:1000")):
        found = answers(done) if done.returncode == 0 else {"load": "EPERM"}
        assert found["load"] == "EPERM"
    box.sh(f"rmdir {TOP}/inner 2>/dev/null || true")


def test_nothing_is_left_in_the_supervisor(box: whole.Box) -> None:
    supervisor = Path(f"/proc/{box.host.supervisor_pid()}/fd")
    program = box.probe("device_programs")
    box.exec(program, f"{TOP}/inner", str(TOP))
    before = len(list(supervisor.iterdir()))
    for _ in range(2):
        box.exec(program, f"{TOP}/inner", str(TOP))
    assert len(list(supervisor.iterdir())) <= before + 2


def test_what_the_host_has_attached_cannot_be_replaced_from_inside(host: whole.Host) -> None:
    """A program above that gives way to those below: nothing is attached then."""
    name = "interceptor-test-bpf-gives-way"
    host.run("mkdir", "-p", f"{TOP}/{name}")
    inode = int(host.run("stat", "-c", "%i", f"{TOP}/{name}").stdout)
    allows = bytes.fromhex("b7000000010000009500000000000000")
    with devicebpf.open_cgroup(inode) as above, devicebpf.load(allows, b"host") as program:
        devicebpf.attach(above.fileno(), program.fileno(), 1)  # BPF_F_ALLOW_OVERRIDE
        with box_in(host, name) as box:
            found = answers(box.exec(box.probe("device_programs"), f"{TOP}/inner", str(TOP)))
            assert (found["load"], found["attach"], found["query"]) == ("ok", "EPERM", "EPERM")
            [event, *_] = [e for e in box.trace("--syscall", "bpf") if e["errno"] == "EPERM"]
            assert "give way" in event["why"]


def test_a_program_outlives_the_supervisor() -> None:
    with whole.host("runc", kept=True) as host:
        mount_v2(host)
        with box_in(host, "interceptor-test-bpf-kept") as box, ThreadPoolExecutor() as aside:
            started = aside.submit(box.exec, box.probe("device_programs"), f"{TOP}/inner", "/data/go", "-")
            wait_for(lambda: box.sh("ls /data").split() == ["go"], "the pipe", within=20)
            before = host.supervisor_pid()
            os.kill(before, signal.SIGKILL)
            box.sh("echo >/data/go")
            found = answers(started.result(60))
            assert host.supervisor_pid() != before
            assert (found["attach"], found["attached"], found["detach"]) == ("ok", "opens 1", "ok")


def test_without_a_cgroup_of_its_own_in_v2_the_kernel_decides() -> None:
    if (TOP / "cgroup.controllers").exists():
        pytest.skip("the host has no cgroup v1")
    with whole.host("runc") as host:
        host.run("umount", TOP / "unified")
        box = host.box()
        assert "load: EPERM" in box.exec(box.probe("device_programs"), "/data/inner", "/data").stdout
