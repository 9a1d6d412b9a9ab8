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
        put(made, "squashfuse")
        shutil.copy2(image, made.rootfs / "probe/image.sqfs")
        made.sh("mkdir -p /data/m; mknod /dev/fuse c 10 229; echo nothing >/probe/empty.sqfs")
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
    assert said(box, "/probe/image.sqfs", fstype="ext4") == f"old errno {errno.ENODEV}"
    assert "not-there ended with status" in box.trace("--syscall", "mount", "--last", "1")[0]["why"]


@pytest.mark.parametrize("options", ["-m", "-Urm"])
def test_elsewhere_it_is_refused(box: whole.Box, options: str) -> None:
    assert said(box, "/probe/image.sqfs", before=f"unshare {options}") == f"old errno {errno.ENODEV}"


def test_the_new_api_sends_programs_back_to_mount(box: whole.Box) -> None:
    program = box.probe("newmount", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-pie", "-no-pie")
    assert box.sh(f"{program} open squashfs").strip() == f"open errno {errno.ENOSYS}"
