"""Bundles of busybox for a runtime that we put underneath, and how to call that runtime on this host."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

APPLETS = ("sh", "cat", "echo", "hostname", "id", "ls", "nc", "readlink", "sleep", "stty", "test", "true", "tty")


def busybox_rootfs(directory: Path) -> Path:
    """A root filesystem of busybox and links to it; its root is readable by all, as engines' are."""
    (directory / "bin").mkdir(parents=True)
    for name in ("dev", "etc", "proc", "sys", "tmp"):
        (directory / name).mkdir()
    shutil.copy("/bin/busybox", directory / "bin" / "busybox")
    for applet in APPLETS:
        (directory / "bin" / applet).symlink_to("busybox")
    return directory


@contextlib.contextmanager
def world_readable_directory() -> Iterator[Path]:
    """A temporary directory that a mapped root may walk through; pytest's own are closed."""
    path = Path(tempfile.mkdtemp(prefix="interceptor-test-"))
    path.chmod(0o711)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def user_namespace_config(arguments: Sequence[str], *, first: int, terminal: bool = False) -> dict[str, Any]:
    """`runc spec`'s configuration with a user namespace whose root is host id `first`."""
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(["runc", "spec", "--bundle", scratch], check=True)
        config: dict[str, Any] = json.loads((Path(scratch) / "config.json").read_text(encoding="utf-8"))
    config["process"] |= {"args": [*arguments], "terminal": terminal}
    config["root"]["readonly"] = False
    linux = config["linux"]
    linux["namespaces"].append({"type": "user"})
    linux["uidMappings"] = linux["gidMappings"] = [{"containerID": 0, "hostID": first, "size": 65536}]
    linux["resources"] = {}
    return config


def bundle(directory: Path, arguments: Sequence[str], *, first: int = 300_000, terminal: bool = False) -> Path:
    """A bundle in `directory` that runs `arguments` on busybox."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o711)
    busybox_rootfs(directory / "rootfs")
    config = user_namespace_config(arguments, first=first, terminal=terminal)
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return directory


def cgroup_wrapper(runtime: str) -> list[str]:
    """What to put before a command that calls `runtime`: crun before 1.29 refuses the hybrid cgroup layout."""
    if runtime != "crun" or not Path("/sys/fs/cgroup/unified").is_dir():
        return []
    return ["unshare", "--mount", "sh", "-c", 'umount --lazy /sys/fs/cgroup/unified; exec "$@"', "sh"]
