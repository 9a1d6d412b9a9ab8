"""Runtimes that are led to mount or to write something else in proc than they mean: CVE-2025-31133, -52565 and -52881.

Each is made by the runtime underneath alone as well, with no user namespace, where it takes effect if that one is older than
the mend (runc 1.2.8, 1.3.3). With us an older one does the same, but as the container's root, for whom the files of the host's
are what they always are. A race by which an attacker gets so far is left out where what it leads to can stand in the bundle
from the start.

Not here: labels of AppArmor and SELinux (/proc/self/attr), which a host writes only where it has one of them. What a runtime
writes there it writes as it writes sysctls.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import whole
from support.mounts import mounts
from support.oci import DEVPTS, bind, without_dev
from support.probes import probe
from support.stock import stock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

KNOB = "/proc/sys/kernel/core_pattern"
MASKED = "/proc/timer_list"
CREATIONS = 4
ENOUGH = 40
"""Creations after which it is no chance any more that a runtime is not led astray."""


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """The host's own, whatever is done inside."""
    files = (Path(KNOB), Path("/proc/sys/kernel/hostname"))
    before = [file.read_bytes() for file in files]
    yield
    assert [file.read_bytes() for file in files] == before


def container(host: whole.Host, edit: Callable[[dict[str, Any]], object]) -> whole.Box:
    """One that is not started yet."""
    box = whole.Box(host, whole.ALL, [])
    host.undo.callback(box.remove)
    box.change(edit)
    box.probe("attack")
    return box


def lies_over(init: int) -> list[str]:
    """Over what the knob was mounted, in the container whose init that is; ours over the knob itself is another file."""
    return [mount.point for mount in mounts(init) if mount.fstype == "proc" and mount.root == "/sys/kernel/core_pattern"]


def try_all(box: whole.Box, *paths: str) -> None:
    """Writes where a knob may be now; the fixture looks whether it was one."""
    every = (*paths, KNOB, "/mnt/sys/kernel/core_pattern", "/mnt/sysrq-trigger")
    box.exec("sh", "-c", "mount -t proc p /mnt; " + "; ".join(f"echo '|/evil' > {path}" for path in every))


# -- what is mounted over masked paths -------------------------------------------------------------------------------------


def with_link(host: whole.Host, name: str) -> whole.Box:
    """Its /dev is a volume, in which `name` is a link to the knob."""
    devices = host.directory / f"dev-{name}"
    if not devices.exists():
        devices.mkdir()
        os.mknod(devices / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        (devices / name).unlink(missing_ok=True)
        (devices / name).symlink_to(KNOB)

    def edit(values: dict[str, Any]) -> None:
        without_dev(values)
        values["mounts"].append(bind(devices, "/dev"))
        values["linux"]["maskedPaths"] = [MASKED]

    return container(host, edit)


@pytest.mark.parametrize("name", ["null", "full", "kmsg", "console"])
def test_a_device_that_is_a_link_to_a_knob(host: whole.Host, name: str) -> None:
    """CVE-2025-31133: paths are masked with what /dev/null leads to. With us nothing is masked, and devices are not links."""
    box = with_link(host, name)
    with contextlib.suppress(AssertionError):
        box.start()
        assert lies_over(box.init) == []
        try_all(box, f"/dev/{name}", MASKED)
    box.remove()


def test_a_stock_runtime_masks_with_a_knob(host: whole.Host) -> None:
    with stock(with_link(host, "null")) as made:
        found = lies_over(made.init)
    if not found:
        pytest.skip(f"this {host.runtime} does not: runc does before 1.2.8 and 1.3.3")
    assert found == [MASKED]


# -- what is mounted over /dev/console -------------------------------------------------------------------------------------


@contextlib.contextmanager
def flipping(host: whole.Host) -> Iterator[Callable[[], whole.Box]]:
    """Makes containers whose /dev is a volume in which /dev/pts/N is the terminal or the knob, and changes all the time."""
    devices = host.directory / "dev-flipping"
    for name, target in (("x", KNOB), ("y", "/pts/{}")):
        (devices / name).mkdir(parents=True)
        for number in range(4):
            (devices / name / str(number)).symlink_to(target.format(number))
    os.mknod(devices / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (devices / "pts").symlink_to("x")
    (devices / "ptmx").symlink_to("/pts/ptmx")
    (devices / "console").touch()

    def edit(values: dict[str, Any]) -> None:
        without_dev(values)
        values["mounts"] += [bind(devices, "/dev"), {"destination": "/pts", **DEVPTS}]

    with subprocess.Popen([probe("attack"), "exchange", devices]) as exchanging:
        try:
            yield lambda: container(host, edit)
        finally:
            (devices / "enough").touch()
            exchanging.wait(30)
            subprocess.run(["rm", "-r", devices], check=True)


def test_a_terminal_that_is_a_knob(host: whole.Host) -> None:
    """CVE-2025-52565: /dev/pts/N, when it is mounted over /dev/console, leads elsewhere than when it is opened.

    An older runc mounts the knob there. It is the knob of the host as before, and no more to be written to.
    """
    started, creations = 0, 0
    with flipping(host) as another:
        while creations < CREATIONS or (not started and creations < ENOUGH):
            box, creations = another(), creations + 1
            with box.terminal() as options, contextlib.suppress(AssertionError):
                box.start(*options)
            if box.init:
                started += 1
                found = lies_over(box.init)
                said = box.exec("/probe/attack", "open", *found).stdout.split()
                assert {int(word) for word in said[4::5]} <= {errno.EACCES, errno.EROFS}
                try_all(box, "/dev/console")
            box.remove()
    if not started:
        pytest.skip(f"{host.runtime} made none of {creations}: it does not take such a terminal at all")


def test_a_stock_runtime_mounts_a_knob_over_its_console(host: whole.Host) -> None:
    """Where it can be written to, for the container's root is the host's."""
    with flipping(host) as another:
        for _ in range(ENOUGH if host.runtime == "runc" else CREATIONS):
            box = another()
            with box.terminal() as options, stock(box, *options) as made:
                if made.init and lies_over(made.init) == ["/dev/console"]:
                    assert made.exec("/probe/attack", "open", "/dev/console").stdout == "/dev/console read 0 write 0\n"
                    return
    pytest.skip(f"this {host.runtime} did not: runc does before 1.2.8 and 1.3.3")


# -- what is written -------------------------------------------------------------------------------------------------------


def elsewhere(host: whole.Host, knob: str) -> whole.Box:
    """Its /proc is no procfs; there is one at /p, and the file of a sysctl is a link to another in it."""

    def edit(values: dict[str, Any]) -> None:
        [proc] = [mount for mount in values["mounts"] if mount["destination"] == "/proc"]
        proc["destination"] = "/p"
        values["linux"] |= {"sysctl": {"net.ipv4.ping_group_range": "0 77"}, "maskedPaths": [], "readonlyPaths": []}

    box = container(host, edit)
    (box.rootfs / "p").mkdir()
    for name in ("self", "thread-self"):
        (box.rootfs / "proc" / name).symlink_to(f"/p/{name}")
    sysctls = box.rootfs / "proc/sys/net/ipv4"
    sysctls.mkdir(parents=True)
    (sysctls / "ping_group_range").symlink_to(f"/p/{knob}")
    return box


@pytest.mark.parametrize("knob", ["sys/kernel/core_pattern", "sys/kernel/hostname", "sysrq-trigger"])
def test_a_sysctl_that_leads_elsewhere(host: whole.Host, knob: str) -> None:
    """CVE-2025-52881: what races lead to, a file below /proc/sys that is another. None that counts for the host takes it."""
    box = elsewhere(host, knob)
    with contextlib.suppress(AssertionError):
        box.start()
    if box.init:  # crun wrote where it meant to
        assert box.sh("hostname; cat /p/sys/net/ipv4/ping_group_range").split() == ["box", "0", "77"]
    box.remove()


def test_a_stock_runtime_writes_elsewhere(host: whole.Host) -> None:
    """The name of a container's own, so that nobody is harmed."""
    with stock(elsewhere(host, "sys/kernel/hostname")) as made:
        found = made.exec("hostname").stdout.strip() if made.init else ""
    if found in ("box", ""):
        pytest.skip(f"this {host.runtime} does not: runc does before 1.2.8 and 1.3.3")
    assert found == "0 77"


# -- and who looks, as runc does since, is content -------------------------------------------------------------------------

OF_RUNC = (
    "sys/net/ipv4/ip_unprivileged_port_start", "sys/net/ipv4/ping_group_range", "sys/kernel/shmmax", "sys/kernel/sem",
    "sys/kernel/msgmax", "sys/fs/mqueue/msg_max", "sys/net/core/somaxconn", "thread-self/oom_score_adj", "self/fd",
)  # fmt: skip


def test_a_runtime_inside_finds_a_proc_that_it_trusts(box: whole.Box) -> None:
    """Nothing lies over what it opens, whether in /proc, in a clone of it or in one of its own (openat2(2), RESOLVE_NO_XDEV).
    Over core_pattern something does, and is noticed; not in what is mounted nowhere yet, where it is the kernel's.
    """
    said = box.exec(box.probe("attack"), "procfs", *OF_RUNC, "sys/kernel/core_pattern").stdout
    found = {(way, path): int(error) for way, path, error in map(str.split, said.splitlines())}
    covered = {"path": errno.EXDEV, "clone": errno.EXDEV, "fresh": 0}
    assert found == {
        **{(way, path): 0 for way in covered for path in OF_RUNC},
        **{(way, "sys/kernel/core_pattern"): error for way, error in covered.items()},
    }
