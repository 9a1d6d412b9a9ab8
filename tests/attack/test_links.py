"""Symbolic links that lead out of a container, in images and in volumes, while the host's root makes the container.

Where the links lead, there is something on the host, and everybody may write to it, so that who follows one does what is then
seen. Each is followed once on purpose, by who knows no better, and caught.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import whole
from support.mounts import mounts
from support.oci import DEVPTS, bind, without_dev
from support.stock import stock
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

CREATIONS = 12
ENOUGH = 60
"""Creations after which it is no chance any more that a link never pointed elsewhere."""
UP = "../" * 14
KNOWN = ("in", "null", "docker")
"""What the trap has from the start."""


@pytest.fixture
def trap(host: whole.Host) -> Path:
    """A directory of the host's, where everybody may write."""
    at = Path(tempfile.mkdtemp(prefix="trap-", dir=host.directory))
    at.chmod(0o777)
    for name in KNOWN:
        (at / name).mkdir(mode=0o777)
        (at / name).chmod(0o777)
    return at


def caught(host: whole.Host, trap: Path) -> list[str]:
    """What was mounted or made there."""
    mounted = host.run("cat", "/proc/self/mountinfo").stdout.splitlines()
    made = {str(path.relative_to(trap)) for path in trap.rglob("*")} - set(KNOWN)
    return [line.split()[4] for line in mounted if Path(line.split()[4]).is_relative_to(trap)] + sorted(made)


@pytest.fixture
def shared(host: whole.Host, trap: Path) -> Iterator[dict[str, Any]]:
    """A volume, in which a container exchanges the directory x and a link to the trap, as fast as it can."""
    volume = trap.with_name(trap.name + "-volume")
    (volume / "x/in").mkdir(parents=True)
    (volume / "y").symlink_to(trap)
    for path in (volume, volume / "x", volume / "x/in"):
        path.chmod(0o777)
    entry = bind(volume, "/vol")
    attacker = host.box(mounts=[entry])
    at_work = subprocess.Popen(
        host.command(
            whole.ENTRY, "--root", host.directory / "oci", "exec", attacker.id, attacker.probe("attack"), "exchange", "/vol"
        ),
        env=host.environment, stdin=subprocess.DEVNULL, cwd="/",
    )  # fmt: skip
    try:
        wait_for((volume / "x").is_symlink, "an exchange", within=30)
        yield entry
        assert at_work.poll() is None
    finally:
        (volume / "enough").touch()
        at_work.wait(30)
        attacker.remove()


def test_a_mount_target_in_a_volume_that_changes(host: whole.Host, shared: dict[str, Any], trap: Path) -> None:
    """CVE-2021-30465: between the look at a mount point and the mount, another container exchanges a part of its path.

    The way into the volume is a link of the image's.
    """
    (trap.parent / "given").mkdir(exist_ok=True)
    victim = whole.Box(host, whole.ALL, [shared, bind(trap.parent / "given", "/link/in")])
    host.undo.callback(victim.remove)
    (victim.rootfs / "link").symlink_to("/vol/x")
    (victim.rootfs / trap.relative_to("/") / "in").mkdir(parents=True)
    places: set[str] = set()
    for creations in range(1, ENOUGH + 1):
        with contextlib.suppress(AssertionError):  # the link was there when nothing could be made of it
            victim.start()
        found, inside = caught(host, trap), place_of(victim)
        victim.remove()
        assert not found
        places |= inside
        if creations >= CREATIONS and len(places) > 1:
            break
    assert places == {"/vol", str(trap)}  # of the container's


def below_volume(host: whole.Host, volume: dict[str, Any], trap: Path, times: int = 8) -> whole.Box:
    """A container with volumes whose mount points are to be made in the other one."""
    given = trap.parent / "given"
    given.mkdir(exist_ok=True)
    box = whole.Box(host, whole.ALL, [])
    host.undo.callback(box.remove)
    (box.rootfs / trap.relative_to("/")).mkdir(parents=True)
    box.change(lambda values: values["mounts"].extend([volume, *(bind(given, f"/vol/x/{box.id}-{n}") for n in range(times))]))
    return box


def test_a_mount_point_in_a_volume_that_changes(host: whole.Host, shared: dict[str, Any], trap: Path) -> None:
    """CVE-2024-45310: what a runtime makes by its path it makes in the trap, now and then."""
    started = 0
    for creations in range(1, ENOUGH + 1):
        box = below_volume(host, shared, trap, times=8 if creations % 2 else 1)  # all of eight are seldom found
        with contextlib.suppress(AssertionError):  # what was made was elsewhere when it was looked for
            box.start()
        started += bool(box.init)
        box.remove()
        assert not caught(host, trap)
        if creations >= CREATIONS and started:
            break
    assert started


def test_a_stock_runtime_makes_a_mount_point_by_its_path(host: whole.Host, shared: dict[str, Any], trap: Path) -> None:
    for _ in range(ENOUGH if host.runtime == "runc" else 1):
        with stock(below_volume(host, shared, trap)):
            if found := caught(host, trap):
                assert found[0].startswith("box-")
                return
    pytest.skip(f"this {host.runtime} did not: runc does before 1.1.14")


def place_of(box: whole.Box) -> set[str]:
    """Where the second volume came to lie. In the first it is seen by the name that its directory has now."""
    points = [mount.point for mount in mounts(box.init) if mount.point.endswith("/in")]
    return {"/vol" if point.startswith("/vol/") else point.removesuffix("/in") for point in points}


DIRECTORIES = ["dev", "proc", "sys", "etc", "run", "var", "data"]
WAYS = pytest.mark.parametrize("way", ["/", UP], ids=["absolute", "climbing"])


def linked(host: whole.Host, trap: Path, name: str, way: str) -> whole.Box:
    """A container whose image has a link in the place of the directory `name`; something is to be mounted below."""
    given = trap.parent / "given"
    given.mkdir(exist_ok=True)
    box = whole.Box(host, whole.ALL, [bind(given, f"/{name}/in"), bind(given, f"/{name}/a/b")])
    host.undo.callback(box.remove)
    with contextlib.suppress(FileNotFoundError):
        (box.rootfs / name).rename(box.rootfs / f"{name}.old")
    (box.rootfs / name).symlink_to(way + str(trap.relative_to("/")))
    return box


@pytest.mark.parametrize("name", DIRECTORIES)
@WAYS
def test_directories_of_an_image_that_are_links(host: whole.Host, trap: Path, name: str, way: str) -> None:
    """Whatever is mounted there, made there or looked for there: if the container is made at all, it is made inside."""
    box = linked(host, trap, name, way)
    with contextlib.suppress(AssertionError):
        box.start()
    found = caught(host, trap)
    box.remove()
    assert not found


@WAYS
def test_who_follows_such_a_link_is_caught(host: whole.Host, trap: Path, way: str) -> None:
    """By mkdir(1) and mount(8), which take the path as it is written."""
    box = linked(host, trap, "var", way)
    point = box.rootfs / "var/in"
    assert host.run("mount", "--bind", trap.parent / "given", point).returncode == 0
    assert host.run("mkdir", "-p", box.rootfs / "var/a/b").returncode == 0
    found = caught(host, trap)
    assert host.run("umount", point).returncode == 0
    assert found == [str(trap / "in"), "a", "a/b"]


def test_a_stock_runtime_follows_a_link_that_is_dev(host: whole.Host, trap: Path) -> None:
    """With nothing mounted over it runc makes links there, by path, and crun nodes."""
    box = linked(host, trap, "dev", "/")
    box.change(without_dev)
    with stock(box):
        found = caught(host, trap)
    if not found:
        pytest.skip(f"this {host.runtime} does not")
    assert "ptmx" in found


NAMES = ("console", "core", "fd", "full", "kmsg", "mqueue", "ptmx", "pts", "random", "shm", "stdin", "tty", "zero")


def with_links(host: whole.Host, trap: Path, *, volume: bool) -> whole.Box:
    """A container on a terminal whose /dev is the image's own, or a volume, and has links that lead out; ptmx works."""
    box = whole.Box(host, whole.ALL, [])
    host.undo.callback(box.remove)
    box.change(without_dev)
    devices = trap.with_name(trap.name + "-dev") if volume else box.rootfs / "dev"
    devices.mkdir(exist_ok=True)
    for name in NAMES:
        (devices / name).symlink_to(trap / f"made-{name}")
    os.mknod(devices / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    pts = {"destination": "/dev/pts", **DEVPTS}
    (devices / "pts").unlink()
    (devices / "pts").mkdir()
    (devices / "ptmx").unlink()
    (devices / "ptmx").symlink_to("pts/ptmx")
    box.change(lambda values: values["mounts"].extend([*([bind(devices, "/dev")] if volume else []), pts]))
    return box


@pytest.mark.parametrize("volume", [False, True], ids=["image", "volume"])
@pytest.mark.parametrize("on_terminal", [False, True], ids=["plain", "terminal"])
def test_names_in_dev_that_are_links(host: whole.Host, trap: Path, volume: bool, on_terminal: bool) -> None:
    """CVE-2026-88264, CVE-2026-88265: nothing fresh is mounted over /dev, and what a runtime makes there is made elsewhere."""
    box = with_links(host, trap, volume=volume)
    with box.terminal() if on_terminal else contextlib.nullcontext([]) as options, contextlib.suppress(AssertionError):
        box.start(*options)
    found = caught(host, trap)
    box.remove()
    assert not found


def test_a_stock_runtime_makes_its_console_through_a_link(host: whole.Host, trap: Path) -> None:
    box = with_links(host, trap, volume=False)
    with box.terminal() as options, stock(box, *options):
        found = caught(host, trap)
    if not found:
        pytest.skip(f"this {host.runtime} does not: runc makes it after pivot_root(2), crun does up to 1.29.1")
    assert "made-console" in found


# -- data directories ------------------------------------------------------------------------------------------------------

LEADS = {
    "the directory": ("var/lib/docker", "docker"),
    "one above it": ("var", ""),
    "the one that is configured": ("srv/data", "docker"),
}


def with_data(host: whole.Host, trap: Path, what: str, way: str) -> tuple[whole.Box, Path]:
    """A container with a dockerd, and the link in its image that leads to a secret of the host's."""
    box = whole.Box(host, whole.ALL, [])
    host.undo.callback(box.remove)
    for place in (trap / "docker", trap / "lib/docker"):
        place.mkdir(parents=True, exist_ok=True)
        (place / "secret").touch()
        inside = box.rootfs / place.relative_to("/")
        inside.mkdir(parents=True)
        (inside / "own").touch()
    (box.rootfs / "bin/dockerd").touch()
    name, target = LEADS[what]
    link = box.rootfs / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(way + str((trap / target).relative_to("/")))
    if name == "srv/data":
        (box.rootfs / "etc/docker").mkdir()
        (box.rootfs / "etc/docker/daemon.json").write_text('{"data-root": "/srv/data"}')
    return box, box.rootfs / ("srv/data" if name == "srv/data" else "var/lib/docker")


@pytest.mark.parametrize("what", LEADS)
@WAYS
def test_data_directories_of_an_image_that_are_links(host: whole.Host, trap: Path, what: str, way: str) -> None:
    """What they are filled with is the image's own; by the path as it is written it would be the host's."""
    box, path = with_data(host, trap, what, way)
    naive = box.directory / "naive"
    shutil.copytree(path, naive)
    assert [file.name for file in naive.iterdir()] == ["secret"]
    before = sorted(trap.rglob("*"))
    box.start()
    mounted = [point for point in caught(host, trap) if point.startswith("/")]
    stored = [file.name for file in (host.directory / "state/data" / box.id).rglob("*") if file.is_file()]
    assert box.sh(f"ls /{path.relative_to(box.rootfs)}") == "own\n"
    box.remove()
    assert sorted(trap.rglob("*")) == before
    assert not mounted
    assert stored == ["own"]


@pytest.mark.parametrize("claimed", ["../evil", "a/../../evil", ".", "..", "x" * 2000, "with\nline"])
def test_names_of_containers_that_lead_elsewhere(host: whole.Host, claimed: str) -> None:
    before = sorted(path.name for path in host.directory.iterdir())
    box = whole.Box(host, whole.ALL, [])
    done = host.entry("create", "--bundle", box.bundle, claimed)
    assert done.returncode != 0
    assert sorted(path.name for path in host.directory.iterdir() if path != box.directory) == before
    assert not list((host.directory / "run").rglob("evil*"))


def test_a_container_that_claims_the_name_of_another(host: whole.Host, box: whole.Box) -> None:
    """The first one keeps its name, its record and its ids."""
    record = host.directory / "run/containers" / box.id / "record.json"
    before = record.read_bytes()
    other = whole.Box(host, whole.ALL, [])
    done = host.entry("create", "--bundle", other.bundle, box.id)
    assert done.returncode != 0
    assert record.read_bytes() == before
    assert box.sh("mount -t proc p /mnt && umount /mnt && echo works") == "works\n"
