"""What makes root filesystems inside a system container: debootstrap, and Docker with images that are hard to unpack."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.images import image
from support.runtime import interceptor
from support.system_container import SystemContainer
from support.variants import MAIN
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from support.engine import Engine

pytestmark = [pytest.mark.root, pytest.mark.engine, pytest.mark.slow]

INNER_TAR = "/usr/share/interceptor/busybox.tar"
DEBOOTSTRAP = [Path("/usr/sbin/debootstrap"), Path("/usr/share/debootstrap")]
"""Scripts; what they need besides is in every Debian."""


@pytest.fixture(scope="module")
def system(
    start_engine: Callable[..., AbstractContextManager[Engine]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SystemContainer]:
    policies = tmp_path_factory.mktemp("policies")
    policies.joinpath("nodes.yaml").write_text("extends: [docker]\nselectable: true\nmount: {overlay-nodes: true}\n")
    with start_engine(MAIN, INTERCEPTOR_POLICIES=str(policies)) as engine:
        container = SystemContainer(engine, MAIN.image, "packages", "--label", "interceptor.policy=nodes")
        state, _ = container.wait_booted(within=30)
        assert state == "running", container.failed_units()
        yield container


@pytest.fixture(scope="module")
def inner(system: SystemContainer) -> SystemContainer:
    """With an image for its Docker."""
    wait_for(lambda: system.exec("docker", "version", check=False).returncode == 0, "the inner dockerd", within=20)
    system.inner("import", INNER_TAR, "busybox")
    return system


def test_debootstrap_makes_a_debian_that_runs(system: SystemContainer) -> None:
    """Its first step is a device node that must take what is written to it; the second stage makes all of /dev."""
    for script in DEBOOTSTRAP:
        if not script.exists():
            pytest.skip("needs debootstrap: apt-get install debootstrap")
    packages = image("bookworm-packages")
    for source in DEBOOTSTRAP:
        system.engine.docker("cp", source, f"{system.name}:{source}")
    system.engine.docker("cp", packages, f"{system.name}:/root/packages.tar")
    system.sh("ln -s /bin/busybox /usr/local/bin/wget")  # asked for, and not used
    system.sh(
        "debootstrap --variant=minbase --no-check-gpg --unpack-tarball=/root/packages.tar bookworm /srv/debian >/root/log 2>&1"
        " || { tail -20 /root/log >&2; exit 1; }",
        timeout=300,
    )
    nodes = system.sh("cd /srv/debian/dev; stat -c '%n %F %t:%T %u:%g' null zero full random urandom tty console ptmx")
    assert nodes.splitlines() == [
        f"{name} character special file {major}:{minor} 0:0"
        for name, major, minor in (
            ("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0),
            ("console", 5, 1), ("ptmx", 5, 2),
        )
    ]  # fmt: skip
    script = "echo lost > /dev/null && head -c 8 /dev/urandom | wc -c && dpkg --audit && . /etc/os-release && echo $VERSION_ID"
    assert system.sh(f"chroot /srv/debian sh -ec '{script}'").split() == ["8", "12"]
    made = json_lines(interceptor(system.engine, "trace", "--json", "--syscall", "mknodat", system.name).stdout)
    assert {event["how"] for event in made} <= {"emulated", "table"}
    system.sh("rm -rf /srv/debian /root/packages.tar")


def json_lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


# -- images ------------------------------------------------------------------------------------------------------------


def layer(*members: tuple[str, bytes, str | tuple[int, int]]) -> bytes:
    """A layer's tar: (name, type, content or device numbers)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type, member.mode = kind, 0o755 if kind == tarfile.DIRTYPE else 0o644
            data = b""
            if isinstance(content, str):
                data = content.encode()
            else:
                member.devmajor, member.devminor = content
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def archive(base: bytes, *layers: bytes) -> bytes:
    """What `docker save` writes (Docker Image Specification v1.2)."""
    blobs = [base, *layers]
    ids = [f"sha256:{hashlib.sha256(blob).hexdigest()}" for blob in blobs]
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": ids}}
    files = {f"{number}/layer.tar": blob for number, blob in enumerate(blobs)}
    manifest = [{"Config": "config.json", "RepoTags": ["hard:latest"], "Layers": [*files]}]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in {**files, "config.json": dump(config), "manifest.json": dump(manifest)}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def dump(value: object) -> bytes:
    return json.dumps(value).encode()


@pytest.fixture(scope="module")
def loaded(inner: SystemContainer, tmp_path_factory: pytest.TempPathFactory) -> SystemContainer:
    """The inner Docker has an image `hard`: device nodes, a directory that a layer makes opaque, a file that one removes."""
    base = image("busybox").read_bytes()
    directory, file, node = tarfile.DIRTYPE, tarfile.REGTYPE, tarfile.CHRTYPE
    first = layer(
        ("opaque/", directory, ""), ("opaque/old", file, "old"), ("gone", file, "gone"), ("nodes/", directory, ""),
        ("nodes/null", node, (1, 3)), ("nodes/fuse", node, (10, 229)),
    )  # fmt: skip
    second = layer(
        ("opaque/", directory, ""), ("opaque/.wh..wh..opq", file, ""), ("opaque/new", file, "new"), (".wh.gone", file, "")
    )
    tar = tmp_path_factory.mktemp("hard") / "hard.tar"
    tar.write_bytes(archive(base, first, second))
    inner.engine.docker("cp", tar, f"{inner.name}:/root/hard.tar")
    inner.inner("load", "--input", "/root/hard.tar")
    return inner


def test_docker_loads_an_image_with_nodes_and_opaque_directories(loaded: SystemContainer) -> None:
    seen = loaded.inner("run", "--rm", "hard", "sh", "-c", "ls /opaque; ls / | grep -c gone; cat /opaque/new")
    assert seen.split() == ["new", "0", "new"]
    # Docker itself leaves nodes out where it runs in a user namespace (moby, pkg/archive, createTarFile()).
    assert loaded.inner("run", "--rm", "hard", "ls", "-A", "/nodes") == ""


def test_docker_saves_it_again(loaded: SystemContainer) -> None:
    """What was unpacked is packed: whiteouts and opaque marks are still what they were."""
    loaded.sh("docker save hard -o /root/again.tar && docker rmi -f hard >/dev/null && docker load -i /root/again.tar")
    assert loaded.inner("run", "--rm", "hard", "ls", "/opaque") == "new"


DOCKERFILE = """
FROM hard
RUN mknod /x c 1 3 && stat -c %t:%T /x && ! mknod /y b 8 0
RUN rm -r /opaque && mkdir /opaque && touch /opaque/newer && rm /etc/group && echo x >> /etc/passwd
"""
BUILD = "DOCKER_BUILDKIT=0 docker build --network none -t harder /root/build >/root/log 2>&1 || { cat /root/log >&2; exit 1; }"


def test_docker_builds_upon_it(loaded: SystemContainer) -> None:
    """Makes a device node; removes a directory and makes it anew, which is opaque; removes a file; copies one up."""
    loaded.exec("sh", "-c", "mkdir -p /root/build && cat > /root/build/Dockerfile", input=DOCKERFILE)
    loaded.sh(BUILD)
    assert loaded.inner("run", "--rm", "harder", "ls", "/opaque") == "newer"


MAKE = """
mknod /dev/mine c 1 3 && echo lost > /dev/mine && stat -c %t:%T /dev/mine
mknod /dev/sda b 8 0 2>&1 | sed 's/.*: //'
"""


def test_a_container_of_it_makes_devices_in_its_dev(loaded: SystemContainer) -> None:
    """An inner container's own: its tmpfs, its mount namespace; and only what is harmless."""
    made = loaded.inner("run", "--rm", "hard", "sh", "-c", MAKE)
    assert made.splitlines() == ["1:3", "Operation not permitted"]
