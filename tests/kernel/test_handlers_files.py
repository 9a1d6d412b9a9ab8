"""Device nodes, trusted attributes and owners on the whole path, beside what root of the host gets in a directory of its own.

What a container's root may not make at all is in the matrix (test_matrix.py).
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import whole
from support.probes import probe

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
        yield host.box()


DIRECTORIES = """
mkdir -p {at}/others {at}/shared {at}/sticky {at}/closed
chown 1000:1000 {at}/others; chmod 700 {at}/others; chown 0:7 {at}/shared; chmod 2775 {at}/shared
chmod 1777 {at}/sticky; chmod 555 {at}/closed
"""
WHO = {"root": "0", "their owner": "1000", "somebody else": "1001"}


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("directory", ["others", "shared", "sticky", "closed"])
def test_permissions_owner_and_mode_are_as_on_the_host(box: whole.Box, directory: str, who: str) -> None:
    """Root, and users without any capability but CAP_MKNOD."""
    at = f"/data/{directory}-{WHO[who]}"
    box.sh(DIRECTORIES.format(at=at))
    ours = box.exec(box.probe("maker"), WHO[who], f"{at}/{directory}/node").stdout
    with tempfile.TemporaryDirectory(dir="/var/tmp") as own:
        Path(own).chmod(0o755)  # so that a user can pass through
        subprocess.run(["sh", "-euc", DIRECTORIES.format(at=own)], check=True)
        command = [probe("maker"), WHO[who], f"{own}/{directory}/node"]
        native = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10).stdout
    assert ours == native != ""


def test_a_node_works_on_a_tmpfs_and_belongs_to_who_made_it(box: whole.Box) -> None:
    script = """
    mount -t tmpfs none /mnt; umask 022; mknod /mnt/null c 1 3; echo lost > /mnt/null; head -c 4 /dev/zero > /mnt/null
    chmod 666 /mnt/null; chown 5:6 /mnt/null; stat -c '%A %u:%g %t:%T' /mnt/null; grep /mnt/null /proc/self/mountinfo
    umount /mnt/null; cat /mnt/null 2>&1 || true; rm /mnt/null; ls /mnt; umount /mnt
    """
    stat, mount, *rest = box.sh(script).splitlines()
    assert stat == "crw-rw-rw- 5:6 1:3"
    assert "nosuid,noexec" in mount
    assert rest == ["cat: can't open '/mnt/null': Permission denied"]


def test_a_denied_device_says_which_rule_and_what_to_change(box: whole.Box) -> None:
    done = box.exec("mknod", "/data/sda", "b", "8", "0")
    assert "not permitted" in done.stderr
    event = box.trace("--denied", "--last", "1")[0]
    assert (event["call"], event["how"]) == ("mknodat", "denied")
    assert "b 8:0 is not among `limits: devices:`" in event["why"]
    assert event["rule"].startswith("default.yaml:")


def test_whiteouts_are_answered_in_c(box: whole.Box) -> None:
    box.sh("mknod /data/whiteout c 0 0; stat -c %t:%T /data/whiteout")
    event = box.trace("--syscall", "mknodat", "--last", "1")[0]
    assert event["how"] == "table"


def test_what_the_device_cgroup_allows_may_be_made(box: whole.Box) -> None:
    """Another container, to which the engine gave a device of number c 7:9."""
    rules = [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 7, "minor": 9, "access": "rwm"},
        {"allow": True, "type": "c", "major": 7, "minor": 8, "access": "m"},
    ]
    other = whole.Box(box.host, whole.ALL, ())
    other.change(lambda config: config["linux"]["resources"].update(devices=rules))
    box.host.undo.callback(other.remove)
    other.start()
    assert other.sh("mknod /data/vcsa9 c 7 9; stat -c '%t:%T' /data/vcsa9") == "7:9\n"
    assert other.exec("mknod", "/data/vcsa8", "c", "7", "8").returncode
    inner = other.exec("unshare", "-m", "mknod", "/data/other", "c", "7", "9")
    assert inner.returncode, "a mount namespace of its own is what an inner container looks like"


# -- trusted attributes ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def attributes(box: whole.Box) -> whole.Box:
    """With the shipped policies/xattr.yaml."""
    return box.host.box("xattr")


def test_a_file_of_the_hosts_keeps_its_attributes_to_itself(attributes: whole.Box) -> None:
    """One whose owner is no id of the container's."""
    foreign = attributes.rootfs / "data/foreign"
    foreign.touch()
    os.chown(foreign, 200_000, 200_000)
    os.setxattr(foreign, "trusted.host", b"secret")
    for ask in ("get /data/foreign trusted.host", "list /data/foreign"):
        assert attributes.exec(attributes.probe("attribute"), *ask.split()).stdout in {"ENODATA\n", "\n"}
    for change in ("set /data/foreign trusted.mine", "remove /data/foreign trusted.host"):
        assert attributes.exec(attributes.probe("attribute"), *change.split()).stdout == "EPERM\n"
    assert os.getxattr(foreign, "trusted.host") == b"secret"
    assert os.listxattr(foreign) == ["trusted.host"]


def test_what_the_container_sets_is_a_real_attribute_of_its_file(attributes: whole.Box) -> None:
    """So that an overlay which is mounted for it sees the mark."""
    attributes.sh("mkdir -p /data/real")
    assert attributes.exec(attributes.probe("attribute"), "set", "/data/real", "trusted.overlay.opaque").stdout == "ok\n"
    assert os.listxattr(attributes.rootfs / "data/real") == ["trusted.overlay.opaque"]


def test_other_names_are_answered_in_c(attributes: whole.Box) -> None:
    attributes.sh("touch /data/plain")
    program = attributes.probe("attribute")
    assert attributes.exec(program, "set", "/data/plain", "user.mine").stdout == "ok\n"
    assert attributes.exec(program, "get", "/data/plain", "trustedness").stdout == "EOPNOTSUPP\n"
    assert {event["how"] for event in attributes.trace("--syscall", "setxattr", "--last", "1")} == {"table"}
    assert {event["how"] for event in attributes.trace("--syscall", "getxattr", "--last", "1")} == {"table"}


def test_a_name_that_ends_where_memory_does_is_not_believed(attributes: whole.Box) -> None:
    """``trusted`` at the end of a page: nobody knows how it goes on."""
    assert attributes.exec(attributes.probe("attribute"), "edge", "/data").stdout == "EFAULT\n"
    assert attributes.trace("--syscall", "getxattr", "--last", "1")[0]["how"] != "table"


# -- listeners ---------------------------------------------------------------------------------------------------------


def test_a_second_listener_is_explained(box: whole.Box) -> None:
    done = box.exec(box.probe("attribute"), "listener", "/")
    assert done.stdout == "EBUSY\n"
    event = box.trace("--denied", "--last", "1")[0]
    assert (event["call"], event["rule"]) == ("seccomp", "kernel: by its nature")
    assert "one seccomp listener" in event["why"]
    assert "SECCOMP_FILTER_FLAG_NEW_LISTENER" in event["arguments"]
