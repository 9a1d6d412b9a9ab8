"""Where and how a mount is made, beside the same program without the filter: results, flags, options, owners.

The oracle is the kernel, in the same namespaces; for what it refuses and we perform, it is what it does with a tmpfs at the
same place.
"""

from __future__ import annotations

import os
import re
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

PLAIN = [
    "absolute", "relative", "dots", "dot", "slash", "beyond the root", "symlink", "absolute symlink", "chain of symlinks",
    "loop of symlinks", "nowhere", "file", "below a file", "covered twice", "descriptor", "below a descriptor",
    "descriptor of this thread", "descriptor of another thread", "descriptor by pid", "closed descriptor", "/dev/fd",
    "descriptor outside of the root", "chroot", "chroot, cwd outside", "pivot_root",
]  # fmt: skip
MAGIC = ["relative descriptor", "descriptor behind a symlink", "cwd by procfs", "root by procfs"]
"""Ways through procfs whose meaning depends on who walks them, beyond those that runc and systemd use."""

INSIDE = {
    "in the container": [],
    "in inner namespaces": ["unshare", "-mpinuf", "--mount-proc=/proc"],
    "in a nested user namespace": ["unshare", "-Urmpnf", "--mount-proc=/proc"],
}


@pytest.fixture(scope="module")
def box() -> Iterator[whole.Box]:
    """Without leaves: in a nested user namespace the kernel would refuse a fresh proc because of what they cover."""
    with whole.host("runc") as host:
        yield host.box("bare")


def compare(box: whole.Box, form: str, fstype: str, flags: int, options: str, inside: str = "in the container") -> None:
    program = box.probe("where", "-pthread")
    command = [*INSIDE[inside], program, form, fstype, hex(flags), options]
    native, ours = box.unfiltered(*command), box.exec(*command)
    assert without_covers(ours.stdout) == without_covers(native.stdout), ours.stderr + native.stderr
    assert ours.returncode == native.returncode
    assert native.stdout, native.stderr


def without_covers(text: str) -> str:
    """In a nested user namespace a fresh sysfs has the cgroups of the old one; the kernel leaves those empty."""
    return "".join(line for line in text.splitlines(keepends=True) if "/mnt/here/" not in line)


@pytest.mark.parametrize("fstype", ["proc", "sysfs"])
@pytest.mark.parametrize("form", PLAIN)
def test_a_place_is_found_as_the_kernel_finds_it(box: whole.Box, form: str, fstype: str) -> None:
    compare(box, form, fstype, 0, "-")


@pytest.mark.parametrize("form", MAGIC)
def test_a_place_behind_other_magic_links(box: whole.Box, form: str) -> None:
    compare(box, form, "proc", 0, "-")


@pytest.mark.parametrize("inside", [name for name, command in INSIDE.items() if command])
@pytest.mark.parametrize("form", ["absolute", "relative", "descriptor", "descriptor by pid", "chroot", "pivot_root"])
@pytest.mark.parametrize("fstype", ["proc", "sysfs"])
def test_the_same_in_inner_namespaces(box: whole.Box, inside: str, form: str, fstype: str) -> None:
    compare(box, form, fstype, 0, "-", inside)


BITS = {
    "RDONLY": 1, "NOSUID": 2, "NODEV": 4, "NOEXEC": 8, "SYNCHRONOUS": 16, "MANDLOCK": 64, "DIRSYNC": 128,
    "NOSYMFOLLOW": 256, "NOATIME": 1024, "NODIRATIME": 2048, "REC": 16384, "SILENT": 32768, "POSIXACL": 1 << 16,
    "RELATIME": 1 << 21, "KERNMOUNT": 1 << 22, "I_VERSION": 1 << 23, "STRICTATIME": 1 << 24, "LAZYTIME": 1 << 25,
    "bit 26": 1 << 26, "bit 27": 1 << 27, "bit 28": 1 << 28, "bit 29": 1 << 29, "bit 30": 1 << 30, "bit 31": 1 << 31,
    "magic": 0xC0ED0000, "magic and RDONLY": 0xC0ED0001, "usual": 14, "all of them": 0x3E109DF,
}  # fmt: skip


ATIME = 0x1200C00
"""NOATIME, NODIRATIME, RELATIME, STRICTATIME."""


@pytest.mark.parametrize("bit", BITS)
@pytest.mark.parametrize("fstype", ["proc", "sysfs"])
def test_flags_mean_what_they_mean(box: whole.Box, fstype: str, bit: str) -> None:
    program = box.probe("where", "-pthread")
    native = box.unfiltered(program, "absolute", fstype, hex(BITS[bit]), "-").stdout
    if native.startswith("EPERM") and BITS[bit] & ATIME:
        # mnt_already_visible() wants the same atime as the proc of the host that was visible first: a tmpfs is free.
        native = box.unfiltered(program, "absolute", "tmpfs", hex(BITS[bit]), "-").stdout
        ours = box.exec(program, "absolute", fstype, hex(BITS[bit]), "-").stdout
        assert mount_flags(ours) == mount_flags(native)
    else:
        compare(box, "absolute", fstype, BITS[bit], "-")


def mount_flags(text: str) -> set[str]:
    return {flag for flags in re.findall(r"^/mnt/here (\S+)", text, re.MULTILINE) for flag in flags.split(",")}


@pytest.mark.parametrize("fstype", ["proc", "sysfs"])
@pytest.mark.parametrize("inside", INSIDE)
def test_where_none_is_visible(box: whole.Box, inside: str, fstype: str) -> None:
    """The kernel refuses; the container's own root gets one (`ip netns exec` needs it), a nested one does not."""
    program = box.probe("where", "-pthread")
    command = [*INSIDE[inside], program, "pivot_root, nothing visible", fstype, "0", "-"]
    assert box.unfiltered(*command).stdout.startswith("EPERM")
    answer = box.exec(*command).stdout.splitlines()[0]
    assert answer == ("EPERM" if "user" in inside else "ok")


OPTIONS = [
    ("proc", "hidepid=2"), ("proc", "hidepid=invisible,gid=5"), ("proc", "subset=pid"), ("proc", ",,hidepid=1,"),
    ("proc", ""), ("proc", "hidepid=7"), ("proc", "nonsense"), ("proc", "gid=70000"), ("proc", "gid=-1"), ("proc", "ro"),
    ("proc", "source=x"), ("proc", "hidepid"), ("proc", "gid=5,gid=6"), ("proc", "context=x"), ("proc", "sync,mand,lazytime"),
    ("sysfs", ""), ("sysfs", "x=y"), ("sysfs", "ro"), ("sysfs", "source=x"), ("sysfs", "dirsync"),
]  # fmt: skip


@pytest.mark.parametrize(("fstype", "options"), OPTIONS)
def test_options_mean_what_they_mean(box: whole.Box, fstype: str, options: str) -> None:
    compare(box, "absolute", fstype, 0, options)


@pytest.mark.parametrize("form", PLAIN)
def test_a_stand_in_is_where_a_tmpfs_would_be(box: whole.Box, form: str) -> None:
    """The kernel refuses debugfs; so the place is compared with a tmpfs', and the rest with what is promised."""
    program = box.probe("where", "-pthread")
    there = re.compile(r"^(/\S+) (\S+) tmpfs source ", re.MULTILINE)
    native = box.unfiltered(program, form, "tmpfs", "0x8", "-").stdout
    ours = box.exec(program, form, "debugfs", "0x8", "-").stdout
    assert ours.splitlines()[0] == native.splitlines()[0]
    points = [point for point, _ in there.findall(native)]
    stand_ins = re.findall(r"^(/\S+) (\S+) tmpfs debugfs (\S+)", ours, re.MULTILINE)
    assert [point for point, _, _ in stand_ins] == points
    for _, flags, options in stand_ins:
        assert set(flags.split(",")) == {"ro", "noexec", "relatime"}
        assert options.split(",")[0] == "ro"


OVERLAYS = [
    "lowerdir=/etc:/bin", "lowerdir=/etc,upperdir=/mnt/u,workdir=/mnt/w", "lowerdir=/etc,upperdir=/mnt/u",
    "lowerdir=/nowhere:/etc", "lowerdir=/etc", "upperdir=/mnt/u,workdir=/mnt/w", "lowerdir=/etc,nonsense=1",
    "lowerdir=/etc:/bin,userxattr",
]  # fmt: skip


@pytest.mark.parametrize("options", OVERLAYS)
@pytest.mark.parametrize("form", ["absolute", "descriptor", "relative", "chroot", "nowhere"])
def test_an_overlay_fails_and_works_as_the_kernels(box: whole.Box, form: str, options: str) -> None:
    """Its options differ, for ours has trusted attributes; and nodev, which a native one has without showing it."""
    program = box.probe("where", "-pthread")
    native = box.unfiltered(program, form, "overlay", "0", options).stdout
    ours = box.exec(program, form, "overlay", "0", options).stdout
    assert ours.splitlines()[0] == native.splitlines()[0]
    at = re.compile(r"^(/\S+) (\S+) overlay source", re.MULTILINE)
    assert at.findall(ours.replace(",nodev,", ",")) == at.findall(native)
    assert all("nodev" in flags for _, flags in at.findall(ours)) or "userxattr" in options
