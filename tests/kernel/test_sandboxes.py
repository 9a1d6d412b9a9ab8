"""What sandboxes do with mounts and user namespaces, inside: bubblewrap and unshare(1), for root and for a user."""

from __future__ import annotations

import os
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

USERS = {"root": "0:0", "a user": "1000:1000"}


@pytest.fixture(params=["runc", "crun"], scope="module")
def box(request: pytest.FixtureRequest) -> Iterator[whole.Box]:
    with whole.host(request.param) as host:
        made = host.box()
        put(made, "bwrap")
        yield made


def sandbox(box: whole.Box, user: str, *options: str) -> None:
    inside = (
        "readlink /proc/self; ls /proc | grep -c '^[0-9]'; touch /data/x; ! touch /x 2>&-; test -c /dev/null; ls /sys"
    )
    done = box.exec(
        "bwrap", "--unshare-all", *options, "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/data", "--tmpfs", "/sys",
        "--die-with-parent", "sh", "-euc", inside, user=USERS[user],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 2


SYSTEM = [option for name in ("bin", "probe", "etc") for option in ("--ro-bind", f"/{name}", f"/{name}")]


@pytest.mark.parametrize("user", USERS)
def test_bubblewrap(box: whole.Box, user: str) -> None:
    """A fresh proc, devices, tmpfs, the system read-only, all namespaces of its own."""
    sandbox(box, user, *SYSTEM)


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("network", ["--share-net", "--unshare-net"])
def test_bubblewrap_with_all_of_the_root(box: whole.Box, network: str, user: str) -> None:
    sandbox(box, user, network, "--ro-bind", "/", "/")


@pytest.mark.parametrize("user", USERS)
def test_unshare(box: whole.Box, user: str) -> None:
    inside = "mount -t tmpfs t /mnt; mkdir /mnt/d; mount --bind /bin /mnt/d; mount -t proc p /proc; id -u; readlink /proc/self"
    done = box.exec("unshare", "-Urmpf", "sh", "-euc", inside, user=USERS[user])
    assert done.returncode == 0, done.stderr
    uid, number = done.stdout.split()
    assert (uid, int(number) < 10) == ("0", True)
