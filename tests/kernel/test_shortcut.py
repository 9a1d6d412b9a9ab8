"""Calls that are decided in C, on the whole path: the kernel's own answers, and a trace like that of any other call."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from support import whole

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


@pytest.fixture(scope="module")
def box() -> Iterator[whole.Box]:
    with whole.host("runc") as host:
        yield host.box(mounts=[{"destination": "/data", "type": "tmpfs", "source": "data", "options": ["rw"]}])


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


def test_a_storm_of_calls_loses_none(box: whole.Box) -> None:
    before = box.host.interceptor("ps", "--json")
    box.sh("i=0; while [ $i -lt 2000 ]; do mount -t tmpfs x /mnt && umount /mnt; i=$((i+1)); done", timeout=120)
    assert calls(box, box.host.interceptor("ps", "--json")) - calls(box, before) >= 4000


def calls(box: whole.Box, text: str) -> int:
    return next(int(container["calls"]) for container in json.loads(text) if container["id"] == box.id)
