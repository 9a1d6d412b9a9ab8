"""Block devices and images of the host's that policy lends: mounted by the kernel, id-mapped, and coherent with the host."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import whole
from support.borrowed import put

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data.ext4, tools.sqfs: files of uid 0 and 1000, a setuid program, a device node."""
    if not Path("/dev/loop-control").exists():
        pytest.skip("this host has no loop devices")
    if any(shutil.which(program) is None for program in ("mksquashfs", "mke2fs")):
        pytest.skip("mksquashfs or mke2fs is not installed: requirements/tests.apt")
    directory = tmp_path_factory.mktemp("images")
    tree = directory / "tree"
    tree.mkdir(mode=0o755)
    (tree / "root").write_text("of root\n")
    (tree / "user").write_text("of 1000\n")
    os.chown(tree / "user", 1000, 1000)
    shutil.copy2(shutil.which("busybox") or "/bin/busybox", tree / "setuid")
    (tree / "setuid").chmod(0o4755)
    os.mknod(tree / "null", 0o020666, os.makedev(1, 3))
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, directory / "data.ext4", "8M"], check=True)
    squash = ["mksquashfs", tree, directory / "tools.sqfs", "-quiet", "-no-progress"]
    subprocess.run(squash, check=True, stdout=subprocess.DEVNULL)
    return directory


@pytest.fixture(params=["runc", "crun"], scope="module")
def boxes(request: pytest.FixtureRequest, images: Path) -> Iterator[tuple[whole.Box, whole.Box]]:
    """Two containers with the same policy."""
    policy = f"""\
extends: [default]
selectable: true
mount:
  devices:
    /dev/data: {{from: {images}/data.ext4, type: ext4, options: [noload]}}
    /dev/tools: {{from: {images}/tools.sqfs, type: squashfs, read-only: true}}
    /dev/gone: {{from: {images}/gone, type: xfs}}
    /dev/wrong: {{from: {images}/tools.sqfs, type: ext4, read-only: true}}
"""
    with whole.host(request.param, {"devices": policy}) as host:
        made = host.box("devices"), host.box("devices")
        for box in made:
            put(box, "mount", "util-linux-mount")
        yield made


@pytest.fixture
def box(boxes: tuple[whole.Box, whole.Box]) -> whole.Box:
    return boxes[0]


def test_an_image_with_ext4(box: whole.Box) -> None:
    """Ids inside are ids on the disk; what is written is there."""
    box.sh("util-linux-mount -t ext4 /dev/data /data")
    assert box.sh("stat -c '%n %u:%g' /data/root /data/user").split() == ["/data/root", "0:0", "/data/user", "1000:1000"]
    box.sh("echo written >/data/new; chown 7:8 /data/new; chmod 600 /data/root")
    [line] = [line for line in box.sh("cat /proc/self/mountinfo").splitlines() if " /data " in line]
    assert re.search(r" rw,nodev,\S*idmapped .*- ext4 /dev/data ", line), line
    box.sh("umount /data; util-linux-mount -t ext4 /dev/data /data")
    assert box.sh("stat -c '%u:%g' /data/new; cat /data/new; umount /data").split() == ["7:8", "written"]
    [event] = box.trace("--syscall", "mount", "--last", "1")
    assert (event["how"], event["result"]) == ("emulated", 0)
    assert event["rule"].endswith("devices.yaml:5"), event["rule"]


def test_what_was_written_is_on_the_disk(box: whole.Box, images: Path) -> None:
    """By the container's root as uid 0: the image is an ordinary one."""
    box.sh("util-linux-mount -t ext4 /dev/data /data; echo x >/data/owned; umount /data")
    said = subprocess.run(["debugfs", "-R", "stat owned", images / "data.ext4"], capture_output=True, text=True, check=True)
    assert re.search(r"User:\s+0\s+Group:\s+0", said.stdout), said.stdout


def test_a_squashfs(box: whole.Box) -> None:
    """Lent for reading: EACCES, upon which mount(8) tries again with ro, as for any device that is write-protected."""
    done = box.exec("util-linux-mount", "-t", "squashfs", "/dev/tools", "/data")
    assert "mounted read-only" in done.stderr
    box.sh("grep 'of 1000' /data/user; ! touch /data/x; umount /data")


def test_device_nodes_in_it_are_dead_and_stay_so(box: whole.Box) -> None:
    box.sh("util-linux-mount -t ext4 /dev/data /data; ! cat /data/null")
    assert box.exec("util-linux-mount", "-o", "remount,bind,dev", "/data").returncode != 0, "nodev is locked"
    assert box.exec("util-linux-mount", "-o", "remount,ro", "/data").returncode != 0, "the superblock is the host's"
    box.sh("umount /data")


def test_two_containers_share_a_filesystem(boxes: tuple[whole.Box, whole.Box]) -> None:
    """One loop device, one superblock: not two that write over each other."""
    one, two = boxes
    one.sh("util-linux-mount -t ext4 /dev/data /data")
    two.sh("util-linux-mount -t ext4 /dev/data /data")
    one.sh("echo told >/data/told")
    assert two.sh("cat /data/told; stat -c %u /data/told").split() == ["told", "0"]
    numbers = {b.sh("stat -c %d /data").strip() for b in boxes}
    assert len(numbers) == 1
    for each in boxes:
        each.sh("umount /data")


def test_no_loop_device_is_left(box: whole.Box, images: Path) -> None:
    box.sh("util-linux-mount -t ext4 /dev/data /data; umount /data")
    left = [entry.read_text() for entry in Path("/sys/block").glob("loop*/loop/backing_file")]
    assert not [name for name in left if name.startswith(str(images))]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("-t ext4 -o errors=panic /dev/data", errno.EINVAL),
        ("-t ext4 -o journal_path=/dev/sda /dev/data", errno.EINVAL),
        ("-t xfs /dev/data", errno.EINVAL),
        ("-t xfs /dev/gone", errno.ENOENT),
        ("-t ext4 -o ro /dev/wrong", errno.EINVAL),
        ("-t ext4 /dev/other", errno.EPERM),
    ],
)
def test_what_is_not_lent(box: whole.Box, command: str, said: int) -> None:
    assert box.exec("busybox", "mount", *command.split(), "/data").returncode != 0
    [event] = box.trace("--syscall", "mount", "--last", "1")
    if said != errno.EPERM:
        assert event["errno"] == errno.errorcode[said], event
    else:
        assert event["how"] == "continued", "the kernel's own answer"
    assert " /data " not in box.sh("cat /proc/self/mountinfo")


@pytest.mark.parametrize("how", ["-Urm", "-m"])
def test_nested_namespaces(box: whole.Box, how: str) -> None:
    """A nested user namespace gets the kernel's answer; another mount namespace of the root's what it wants."""
    done = box.exec("sh", "-c", f"unshare {how} busybox mount -t ext4 /dev/data /data")
    assert (done.returncode == 0) is (how == "-m"), done.stderr


def test_who_has_no_capability(box: whole.Box) -> None:
    assert box.exec("busybox", "mount", "-t", "ext4", "/dev/data", "/data", user="1000:1000").returncode != 0


def test_the_new_api_sends_programs_back_to_mount(box: whole.Box) -> None:
    program = box.probe("newmount", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-pie", "-no-pie")
    assert box.sh(f"{program} open ext4").strip() == f"open errno {errno.ENOSYS}"
