"""Privileges that are carried along by what copies files: overlays, and programs that unpack.

Each attack is made twice: where it must fail, and where the same is somebody's right, so that it is seen to work at all.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support import whole

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

USER = 1000
OPTIONS = ["userxattr,", "", "metacopy=on,", "redirect_dir=on,"]


@pytest.fixture
def foreign(box: whole.Box) -> Iterator[str]:
    """A lower layer whose one file is root's and setuid, from a filesystem that somebody made up."""
    program = box.probe("suid_fuse")
    box.sh("mkdir -p /data/f; [ -e /dev/fuse ] || mknod -m 666 /dev/fuse c 10 229")
    box.sh(f"{program} /data/f >/dev/null 2>&1 </dev/null & until grep -q ' /data/f fuse' /proc/mounts; do :; done")
    yield "/data/f"
    box.sh("umount /data/f")


def copied_up(box: whole.Box, layer: str, options: str, *enter: str, user: int) -> os.stat_result | None:
    """Mounts an overlay over `layer` as `user`, touches its file, and looks for the copy on disk."""
    top = box.rootfs / "data/overlay"
    for name in ("up", "work", "all"):
        (top / name).mkdir(parents=True, exist_ok=True)
        os.chown(top / name, user, user)
    os.chown(top, user, user)
    script = (
        f"cd /data/overlay; mount -t overlay -o {options}lowerdir={layer},upperdir=up,workdir=work o all "
        "&& touch all/program; umount all 2>/dev/null; true"
    )
    done = box.exec(*enter, "sh", "-c", script, user=f"{user}:{user}")
    assert done.returncode == 0, done.stderr
    file = top / "up/program"
    found = file.stat() if file.exists() else None
    box.sh("rm -rf /data/overlay")
    return found


NESTED = ("unshare", "-U", "-r", "-m")


@pytest.mark.parametrize("options", OPTIONS)
def test_a_setuid_file_of_a_foreign_layer(box: whole.Box, foreign: str, options: str) -> None:
    """CVE-2023-0386: a user's overlay in a user namespace of his own copies root's setuid file to where it counts."""
    found = copied_up(box, foreign, options, *NESTED, user=USER)
    assert found is None or not found.st_mode & stat.S_ISUID or found.st_uid == USER


def test_a_setuid_file_is_roots_to_copy(box: whole.Box, foreign: str) -> None:
    """The same by the container's root, whose it is."""
    found = copied_up(box, foreign, "userxattr,", user=0)
    assert found is not None
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0o4777)


def capability(file: Path) -> tuple[int, int]:
    """Revision, and the root of the user namespace for which it counts (vfs_ns_cap_data; revision 2: for every one)."""
    value = os.getxattr(file, "security.capability")
    return value[3], struct.unpack_from("<I", value, 20)[0] if value[3] == 3 else 0


@pytest.mark.parametrize("options", OPTIONS)
def test_capabilities_that_a_user_gives_through_an_overlay(box: whole.Box, options: str) -> None:
    """CVE-2021-3493: setxattr(2) on a user's overlay reached the upper layer unchecked. On plain files it never did."""
    top = box.rootfs / "data/caps"
    for name in ("low", "up", "work", "all"):
        (top / name).mkdir(parents=True)
        os.chown(top / name, USER, USER)
    os.chown(top, USER, USER)
    program = box.probe("attack")
    script = (
        f"cd /data/caps; cp /bin/busybox plain; cp /bin/busybox low/program; {program} setcap plain; "
        f"mount -t overlay -o {options}lowerdir=low,upperdir=up,workdir=work o all && {program} setcap all/program; "
        "umount all 2>/dev/null; true"
    )
    done = box.exec(*NESTED, "sh", "-c", script, user=f"{USER}:{USER}")
    assert done.returncode == 0, done.stderr
    assert capability(top / "plain") == (3, USER)
    upper = top / "up/program"
    assert not upper.exists() or capability(upper) == (3, USER)
    if options == "userxattr,":  # which the kernel gives everybody
        assert upper.exists()
    box.sh("rm -rf /data/caps")


def archive(at: Path, nodes: dict[str, tuple[bytes, int]]) -> None:
    with tarfile.open(at, "w") as tar:
        for name, (kind, device) in nodes.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = kind, 0o666
            entry.devmajor, entry.devminor = os.major(device), os.minor(device)
            tar.addfile(entry, io.BytesIO())


@pytest.mark.parametrize("where", ["/data/unpacked", "/mnt"], ids=["disk", "tmpfs"])
def test_device_nodes_in_an_archive(box: whole.Box, where: str) -> None:
    """Unpacked by the container's root; /dev/null's is lent, and so is seen to be made."""
    disk = Path("/").stat().st_dev
    nodes = {
        "null": (tarfile.CHRTYPE, os.makedev(1, 3)),
        "disk": (tarfile.BLKTYPE, disk),
        "mem": (tarfile.CHRTYPE, os.makedev(1, 1)),
        "kmsg": (tarfile.CHRTYPE, os.makedev(1, 11)),
        "loop": (tarfile.BLKTYPE, os.makedev(7, 0)),
        "control": (tarfile.CHRTYPE, os.makedev(10, 237)),
    }
    archive(box.rootfs / "data/nodes.tar", nodes)
    on_tmpfs = where == "/mnt"
    box.sh("mount -t tmpfs t /mnt" if on_tmpfs else f"mkdir -p {where}")
    for name in nodes:
        box.exec("/bin/busybox", "tar", "-x", "-f", "/data/nodes.tar", "-C", where, name)
    tries = "(: < $name) 2>/dev/null && echo $name; (: > $name) 2>/dev/null && echo $name"
    can = box.exec("sh", "-c", f"cd {where}; for name in *; do {tries}; done")
    box.sh("umount /mnt/null; umount /mnt" if on_tmpfs else f"rm -r {where}")
    assert can.stdout.split() == ["null", "null"]
