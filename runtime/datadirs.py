"""Directories that inner engines keep their images in: on a filesystem of the host's own instead of the container's
overlay.

An overlay's upper directory cannot lie on an overlay, so an inner Docker on the container's root filesystem would
fall back to copying (vfs). Each such directory lies inside the *engine's* directory of the container's layer: kept
by stop and start, removed by rm, counted where the engine counts. What the image has in it is copied there once.

Only where the program is in the image, or the directory: a busybox image sees nothing of it.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from interceptor.errors import ConfigError, InterceptorError
from interceptor.native import children, mounts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from interceptor.native.fd import Fd

DIRECTORY = "interceptor-data"

_PATHS = ("usr/bin", "usr/sbin", "usr/local/bin", "usr/local/sbin", "bin", "sbin")
_DAEMON_JSON = "etc/docker/daemon.json"
_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Kind:
    """An inner program and the directory that it keeps its data in."""

    program: str
    directory: str


KINDS = (
    Kind("dockerd", "/var/lib/docker"),
    Kind("containerd", "/var/lib/containerd"),
    Kind("kubelet", "/var/lib/kubelet"),
    Kind("buildkitd", "/var/lib/buildkit"),
    Kind("k3s", "/var/lib/rancher/k3s"),
    Kind("rke2", "/var/lib/rancher/rke2"),
    Kind("k0s", "/var/lib/k0s"),
    Kind("podman", "/var/lib/containers"),
)


@dataclass(frozen=True, slots=True)
class DataDirectory:
    """One of them, found in an image."""

    inside: str
    """Absolute path in the container."""
    outside: str
    """Absolute path on the host."""


def find(root: int, store: str, taken: Iterable[str]) -> list[DataDirectory]:
    """Which directories the image under `root` (O_PATH) needs, each below `store`.

    `taken` are destinations of other mounts: what the user mounted there is already no overlay.
    """
    used = [os.path.normpath(path) for path in taken]
    there = _programs(root)
    wanted = dict.fromkeys(
        kind.directory for kind in KINDS if kind.program in there or _has_directory(root, kind.directory)
    )
    if "dockerd" in there and (configured := _docker_data_root(root)):
        wanted.pop("/var/lib/docker", None)
        wanted[configured] = None
    return [
        DataDirectory(inside, f"{store}/{inside.strip('/').replace('/', '_')}")
        for inside in wanted
        if not any(_covers(other, inside) or _covers(inside, other) for other in used)
    ]


def fill(root: int, found: DataDirectory) -> None:
    """Makes the host's directory; copies what the image has there, once. Disk ids stay as they are.

    `root` must be the engine's view, before it is covered by the id-mapped one.
    """
    if os.path.isdir(found.outside):
        return
    draft = found.outside + ".new"
    shutil.rmtree(draft, ignore_errors=True)
    os.makedirs(draft, mode=0o711)
    try:
        source = mounts.open_in_root(root, found.inside, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        os.rename(draft, found.outside)
        return
    with source:
        status = os.fstat(source.fileno())
        if os.listdir(source.fileno()):
            _copy(source, draft, found)
        os.chown(draft, status.st_uid, status.st_gid)
        os.chmod(draft, status.st_mode & 0o7777)
    os.rename(draft, found.outside)


def _copy(source: Fd, target: str, found: DataDirectory) -> None:
    command = ["cp", "-a", "--reflink=auto", "-T", f"/proc/self/fd/{source.fileno()}/.", target]
    done = children.run(command, pass_fds=[source.fileno()])
    if done.returncode:
        shutil.rmtree(target, ignore_errors=True)
        raise InterceptorError(f"cannot copy the image's {found.inside} to {found.outside}: {done.stderr.strip()}")


def _docker_data_root(root: int) -> str | None:
    """`data-root` of the image's daemon.json; None when there is none. Read as the container would resolve the path."""
    try:
        with mounts.open_in_root(root, _DAEMON_JSON, os.O_RDONLY | os.O_NONBLOCK) as fd:
            text = os.read(fd.fileno(), _CONFIG_BYTES)
    except OSError:
        return None
    try:
        value = json.loads(text).get("data-root")
    except (ValueError, AttributeError, RecursionError):
        return None  # the inner Docker will say so itself
    if value is None:
        return None
    if not isinstance(value, str) or not value.startswith("/") or ".." in value.split("/") or not value.strip("/"):
        raise ConfigError(
            f'the image\'s /{_DAEMON_JSON} has "data-root": {value!r}; an absolute path below / is needed'
        )
    return os.path.normpath(value)


def _programs(root: int) -> set[str]:
    """Which of the programs the image has. A directory that two paths lead to (/bin and /usr/bin) is searched once."""
    found, seen = set[str](), set[tuple[int, int]]()
    for path in _PATHS:
        try:
            directory = mounts.open_in_root(root, path, os.O_PATH | os.O_DIRECTORY)
        except OSError:
            continue
        with directory:
            status = os.fstat(directory.fileno())
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                found |= {kind.program for kind in KINDS if _is_there(root, directory.fileno(), path, kind.program)}
    return found


def _is_there(root: int, directory: int, path: str, name: str) -> bool:
    """A symbolic link counts by where it leads inside the image."""
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return False
    return not stat.S_ISLNK(status.st_mode) or _exists(root, f"{path}/{name}", os.O_PATH)


def _has_directory(root: int, path: str) -> bool:
    return _exists(root, path, os.O_PATH | os.O_DIRECTORY)


def _exists(root: int, path: str, flags: int) -> bool:
    try:
        mounts.open_in_root(root, path, flags).close()
    except OSError:
        return False
    return True


def _covers(outer: str, inner: str) -> bool:
    return inner == outer or inner.startswith(outer.rstrip("/") + "/")
