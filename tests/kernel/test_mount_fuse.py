"""Filesystems that a program of the container's own mounts, because policy says so: squashfs by squashfuse.

The program is the host's, copied into the container.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
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


@pytest.fixture(params=["runc", "crun"], scope="module")
def box(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[whole.Box]:
    if shutil.which("mksquashfs") is None:
        pytest.skip("mksquashfs is not installed: requirements/tests.apt")
    tree = tmp_path_factory.mktemp("tree")
    tree.chmod(0o755)
    (tree / "dir").mkdir()
    (tree / "dir/file").write_text("squashed\n", encoding="utf-8")
    image = tree.with_suffix(".sqfs")
    subprocess.run(["mksquashfs", tree, image, "-quiet", "-no-progress"], check=True, stdout=subprocess.DEVNULL)
    with whole.host(request.param) as host:
        made = host.box("fuse")
        (made.rootfs / "probe").mkdir(exist_ok=True)
        for program in ("squashfuse", "fuse2fs"):
            put(made, program)
        for program in ("mount", "umount", "losetup", "blkid"):  # busybox has its own of these names
            put(made, program, f"util-linux-{program}")
        shutil.copy2(image, made.rootfs / "probe/image.sqfs")
        ext4 = image.with_suffix(".ext4")
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, ext4, "4M"], check=True)
        shutil.copy2(ext4, made.rootfs / "probe/image.ext4")
        made.sh("mkdir -p /data/m; echo nothing >/probe/empty.sqfs")
        yield made


def said(box: whole.Box, source: str, target: str = "/data/m", *, fstype: str = "squashfs", before: str = "") -> str:
    """What mount(2) says; mount(8) would set up a loop device first, and there is none."""
    program = box.probe("newmount", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-pie", "-no-pie")
    return box.sh(f"{before} {program} old {source} {target} {fstype}").strip()


def test_squashfs(box: whole.Box) -> None:
    assert said(box, "/probe/image.sqfs") == "old ok", repr(box.trace("--last", "1"))
    assert box.sh("cat /data/m/dir/file").strip() == "squashed"
    [line] = [line for line in box.sh("cat /proc/self/mountinfo").splitlines() if " /data/m " in line]
    assert re.search(r" ro,nosuid,\S* - fuse\S* ", line), line
    box.sh("umount /data/m")
    [event] = [e for e in box.trace("--syscall", "mount") if e["args"] and e["args"]["fstype"] == "squashfs"][-1:]
    assert (event["how"], event["result"]) == ("emulated", 0)


def test_relative_to_where_the_caller_is(box: whole.Box) -> None:
    assert said(box, "image.sqfs", "../data/m", before="cd /probe;") == "old ok"
    assert box.sh("cat /data/m/dir/file; umount /data/m").strip() == "squashed"


def test_other_users_see_it(box: whole.Box) -> None:
    assert said(box, "/probe/image.sqfs") == "old ok"
    done = box.exec("cat", "/data/m/dir/file", user="1000:1000")
    box.sh("umount /data/m")
    assert done.stdout.strip() == "squashed", done.stderr


def test_the_program_is_one_of_the_containers_with_its_filter(box: whole.Box) -> None:
    assert said(box, "/probe/image.sqfs") == "old ok"
    number = box.sh("grep -l squashfuse.elf /proc/[0-9]*/cmdline | head -1").split("/")[2]
    theirs = box.sh(f"grep -E '^(Seccomp|CapBnd|Uid):' /proc/{number}/status")
    assert theirs == box.sh("grep -E '^(Seccomp|CapBnd|Uid):' /proc/self/status")
    assert "Seccomp:\t2" in theirs
    box.sh("umount /data/m")


def test_what_is_no_image_is_said(box: whole.Box) -> None:
    assert said(box, "/probe/empty.sqfs") == f"old errno {errno.EINVAL}"
    assert "squashfuse ended with status" in box.lines("--syscall", "mount", "--last", "1")[-1]


def test_a_program_that_is_not_there(box: whole.Box) -> None:
    assert said(box, "/probe/image.sqfs", fstype="ext3") == f"old errno {errno.ENODEV}"
    assert "not-there ended with status" in box.trace("--syscall", "mount", "--last", "1")[0]["why"]


@pytest.mark.parametrize("options", ["-m", "-Urm"])
def test_elsewhere_it_is_refused(box: whole.Box, options: str) -> None:
    assert said(box, "/probe/image.sqfs", before=f"unshare {options}") == f"old errno {errno.ENODEV}"


def test_the_new_api_sends_programs_back_to_mount(box: whole.Box) -> None:
    program = box.probe("newmount", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-pie", "-no-pie")
    assert box.sh(f"{program} open squashfs").strip() == f"open errno {errno.ENOSYS}"


# -- mount -o loop -----------------------------------------------------------------------------------------------------

FREE = "cut -d' ' -f5 /proc/self/mountinfo | grep -c '^/dev/loop[0-9]'"
"""Lines: one for each device, two for one that has a file."""


@pytest.mark.parametrize("mount", ["util-linux-mount", "busybox mount"])
@pytest.mark.parametrize("fstype", ["squashfs", "ext4"])
def test_mount_o_loop(box: whole.Box, mount: str, fstype: str) -> None:
    """The plain command, and nothing is left of it after the plain umount."""
    before = box.sh(FREE)
    image = "/probe/image.sqfs" if fstype == "squashfs" else "/probe/image.ext4"
    box.sh(f"{mount} -o loop -t {fstype} {image} /data/m")
    assert box.sh("cat /data/m/dir/file").strip() == "squashed"
    assert box.sh(FREE) == before, "the device is free again as soon as the program has the file open"
    if fstype == "ext4":
        box.sh("echo written >/data/m/new")
    box.sh("umount /data/m; ! grep ' /data/m ' /proc/self/mountinfo")


def test_the_type_is_found_out(box: whole.Box) -> None:
    box.sh("util-linux-mount -o loop,ro /probe/image.sqfs /data/m; cat /data/m/dir/file; util-linux-umount /data/m")


def test_what_was_written_is_in_the_file(box: whole.Box) -> None:
    script = "busybox mount -o loop -t ext4 /probe/image.ext4 /data/m"
    box.sh(f"{script}; echo kept >/data/m/kept; umount /data/m; {script}; grep kept /data/m/kept; umount /data/m")


def test_losetup(box: whole.Box) -> None:
    """A device that stays until it is detached. (util-linux detaches only what stat(2) calls a block device.)"""
    assert box.sh("util-linux-losetup -f").strip() == "/dev/loop0"
    assert box.sh("util-linux-losetup --show -f -r /probe/image.sqfs").strip() == "/dev/loop0"
    assert box.sh("util-linux-losetup -f").strip() == "/dev/loop1"
    assert 'TYPE="squashfs"' in box.sh("util-linux-blkid -p /dev/loop0")
    box.sh("! echo x >/dev/loop0")
    box.sh("for i in 1 2; do busybox mount -t squashfs /dev/loop0 /data/m; cat /data/m/dir/file; umount /data/m; done")
    box.sh("busybox losetup -d /dev/loop0")
    assert box.sh("util-linux-losetup -f").strip() == "/dev/loop0"
    box.sh("util-linux-losetup -f /probe/image.sqfs; umount /dev/loop0")
    assert box.sh("busybox losetup -f").strip() == "/dev/loop0"


def test_what_a_file_over_a_node_cannot_do_is_said(box: whole.Box) -> None:
    done = box.exec("util-linux-losetup", "-o", "512", "-f", "/probe/image.ext4")
    assert done.returncode != 0
    [why] = {event["why"] for event in box.trace("--syscall", "ioctl")} - {"", None}
    assert why.startswith("a part of a file")


def test_there_are_as_many_as_the_policy_says(box: whole.Box) -> None:
    box.sh("for i in 0 1 2; do util-linux-losetup -f /probe/image.sqfs; done; ! util-linux-losetup -f")
    box.sh("for i in 0 1 2; do busybox losetup -d /dev/loop$i; done")
    [full] = [event for event in box.trace("--syscall", "ioctl") if event["how"] == "denied"]
    assert (full["errno"], full["why"]) == ("ENOSPC", "all 3 loop devices are attached"), full


def test_who_may_not_mount_attaches_nothing(box: whole.Box) -> None:
    box.sh("chmod 666 /dev/loop* /probe/image.ext4")
    assert box.exec("util-linux-losetup", "-f", "/probe/image.ext4", user="1000:1000").returncode != 0
    assert box.sh("util-linux-losetup -f").strip() == "/dev/loop0"


def test_other_commands_never_leave_the_kernel(box: whole.Box) -> None:
    before = len(box.trace("--syscall", "ioctl"))
    box.sh("stty -a </dev/null 2>/dev/null || true; ls /data >/dev/null")
    assert len(box.trace("--syscall", "ioctl")) == before
