"""Symbolic links that lead out of a container, in images and in volumes, while the host's root makes the container.

Where the links lead, there is something on the host, so that who follows one does what is then seen.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import whole
from support.mounts import mounts
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


@pytest.fixture
def trap(host: whole.Host) -> Path:
    """A directory of the host's."""
    at = Path(tempfile.mkdtemp(prefix="trap-", dir=host.directory))
    for name in ("in", "null", "docker"):
        (at / name).mkdir(parents=True)
    return at


def caught(host: whole.Host, trap: Path) -> list[str]:
    """What was mounted or made there."""
    mounted = host.run("cat", "/proc/self/mountinfo").stdout.splitlines()
    made = {str(path.relative_to(trap)) for path in trap.rglob("*")} - {"in", "null", "docker"}
    return [line.split()[4] for line in mounted if Path(line.split()[4]).is_relative_to(trap)] + sorted(made)


def bind(source: Path, destination: str) -> dict[str, Any]:
    return {"destination": destination, "type": "bind", "source": str(source), "options": ["rbind"]}


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

    The way into the volume is a link of the image's: mounts over volumes themselves are the runtime's to make.
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


def place_of(box: whole.Box) -> set[str]:
    """Where the second volume came to lie. In the first it is seen by the name that its directory has now."""
    points = [mount.point for mount in mounts(box.init) if mount.point.endswith("/in")]
    return {"/vol" if point.startswith("/vol/") else point.removesuffix("/in") for point in points}


@pytest.mark.parametrize("name", ["dev", "proc", "sys", "etc", "run", "var", "data"])
@pytest.mark.parametrize("way", ["/", UP], ids=["absolute", "climbing"])
def test_directories_of_an_image_that_are_links(host: whole.Host, trap: Path, name: str, way: str) -> None:
    """Whatever is mounted there, made there or looked for there: if the container is made at all, it is made inside."""
    (trap.parent / "given").mkdir(exist_ok=True)
    box = whole.Box(host, whole.ALL, [bind(trap.parent / "given", f"/{name}/in"), bind(trap.parent / "given", f"/{name}/a/b")])
    host.undo.callback(box.remove)
    with contextlib.suppress(FileNotFoundError):
        (box.rootfs / name).rename(box.rootfs / f"{name}.old")
    (box.rootfs / name).symlink_to(way + str(trap.relative_to("/")))
    with contextlib.suppress(AssertionError):
        box.start()
    found = caught(host, trap)
    box.remove()
    assert not found


@pytest.mark.parametrize("name", ["null", "full", "kmsg", "console"])
def test_nodes_that_are_links_to_knobs(host: whole.Host, name: str) -> None:
    """CVE-2025-31133, CVE-2025-52565: /dev comes from somewhere else, and what is bound from there is a file of proc's."""
    devices = host.directory / f"dev-{name}"
    devices.mkdir()
    (devices / name).symlink_to("/proc/sys/kernel/core_pattern")
    box = whole.Box(host, whole.ALL, [])
    box.change(lambda values: with_dev(values, devices))
    host.undo.callback(box.remove)
    before = Path("/proc/sys/kernel/core_pattern").read_bytes()
    with contextlib.suppress(AssertionError):
        box.start()
        knobs = ("/proc/sys/kernel/core_pattern", f"/dev/{name}", "/mnt/sys/kernel/core_pattern")
        box.exec("sh", "-c", "mount -t proc p /mnt; " + "; ".join(f"echo '|/evil' > {knob}" for knob in knobs))
    after = Path("/proc/sys/kernel/core_pattern").read_bytes()
    box.remove()
    assert after == before


def with_dev(values: dict[str, Any], devices: Path) -> None:
    masked = ["/proc/kcore", "/proc/sys/kernel/core_pattern"]
    rest = [mount for mount in values["mounts"] if not mount["destination"].startswith("/dev")]
    values["mounts"] = [*rest, bind(devices, "/dev")]
    values["linux"]["maskedPaths"] = masked


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
