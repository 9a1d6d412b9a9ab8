"""Proc and sysfs that are mounted inside carry their leaves, on the whole path with runc and crun underneath."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support import whole

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.root, pytest.mark.kernel]

LEAVES = 'grep -c " interceptor r" /proc/self/mountinfo'


@pytest.fixture(scope="module", params=["runc", "crun"])
def box(request: pytest.FixtureRequest) -> Iterator[whole.Box]:
    with whole.host(request.param) as host:
        yield host.box("everywhere")


def test_leaves_cover_the_containers_own_proc_and_sysfs(box: whole.Box) -> None:
    points = box.sh("grep ' interceptor r' /proc/self/mountinfo").split()[4::1]
    assert "/proc/meminfo" in points
    assert "/proc/stat" in points
    assert "/sys/devices/system/cpu/online" in points
    assert int(box.sh("grep -c . /proc/self/mountinfo")) < 80


def test_a_fresh_proc_and_sysfs_have_them_too(box: whole.Box) -> None:
    own = int(box.sh(LEAVES))
    script = f"""
        mkdir -p /mnt/proc /mnt/sys
        unshare -m -p -f sh -euc '
            mount -t proc proc /mnt/proc; mount -t sysfs sys /mnt/sys
            {LEAVES}; grep -c processor /mnt/proc/cpuinfo; cat /mnt/sys/devices/system/cpu/online'
        """
    out = box.sh(script).split()
    assert int(out[0]) == 2 * own
    assert out[1:] == [
        box.sh("grep -c processor /proc/cpuinfo").strip(),
        box.sh("cat /sys/devices/system/cpu/online").strip(),
    ]


def test_nested_user_namespaces_have_them(box: whole.Box) -> None:
    out = box.sh(
        f"unshare -U -r -m -p -f sh -euc 'mount -t proc proc /proc; {LEAVES}; head -1 /proc/meminfo'"
    ).splitlines()
    assert int(out[0]) >= int(box.sh(LEAVES))
    assert out[1] == box.sh("head -1 /proc/meminfo").strip()


def test_a_leaf_of_the_own_proc_stays_and_a_whole_proc_goes(box: whole.Box) -> None:
    script = """
        mkdir -p /mnt/one; mount -t proc proc /mnt/one
        umount /mnt/one && exit 1
        umount -l /mnt/one
        ! grep /mnt/one /proc/self/mountinfo
        umount /proc/meminfo && exit 2
        umount -l /proc/meminfo && exit 3
        head -1 /proc/meminfo
        """
    done = box.exec("sh", "-euc", script)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("busy") == 3


def test_in_a_chroot(box: whole.Box) -> None:
    script = """
        mkdir -p /mnt/root/proc /mnt/root/bin; cp /bin/busybox /mnt/root/bin/sh; cp /bin/busybox /mnt/root/bin/mount
        cp /bin/busybox /mnt/root/bin/head; cp /bin/busybox /mnt/root/bin/umount
        chroot /mnt/root /bin/sh -euc 'mount -t proc proc /proc; head -n 1 /proc/meminfo; umount -l /proc'
        """
    assert box.sh(script) == box.sh("head -n 1 /proc/meminfo")
