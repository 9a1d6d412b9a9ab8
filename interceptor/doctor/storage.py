"""The filesystems that hold images, container state and inner engines' data.

Id-mapped mounts are what gives every container its own ids without a chown or a copy, so each filesystem that will hold
layers or state is tried: an id-mapped clone, then an overlay with every layer on it id-mapped.

Source: mount_setattr(2), "ID-mapped mounts"; Linux Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from interceptor.doctor.finding import Finding, Host, failure, ok, warning
from interceptor.native import probe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STATE = "/var/lib/interceptor"
DOCKER_DATA = "/var/lib/docker"
_STORES = {"containerd's root": "/var/lib/containerd", "Podman's graph root": "/var/lib/containers"}


def filesystems(host: Host) -> Iterator[Finding]:
    """One pair of findings for each filesystem, however many of our directories lie on it."""
    seen: dict[int, str] = {}
    for purpose, wanted in _directories(host):
        directory = existing(wanted)
        device = directory.stat().st_dev
        if device in seen:
            yield ok(purpose, f"{wanted}: on the same filesystem as {seen[device]}")
            continue
        seen[device] = str(wanted)
        yield _examine(purpose, wanted, directory)


def overlay(host: Host) -> Iterator[Finding]:
    """What an inner engine does with its own storage driver."""
    directory = existing(host.chosen("INTERCEPTOR_STATE", STATE))
    outcome = _on(directory, probe.unprivileged_overlay)
    what = "overlay in a user namespace"
    if outcome is None:
        yield failure(what, f"{directory} is not writable", "Make the state directory writable for root.")
    elif outcome.worked:
        yield ok(what, "mounted with userxattr; removal and replacement of directories work")
    else:
        advice = "Inner engines then need their vfs or fuse-overlayfs driver, or overlay emulated by policy."
        yield warning(what, str(outcome), advice)


def _examine(purpose: str, wanted: Path, directory: Path) -> Finding:
    kind = filesystem_type(directory)
    where = f"{wanted}: {kind}" if directory == wanted else f"{wanted}: {kind}, tried at {directory}"
    outcome = _on(directory, probe.idmapped_mount)
    if outcome is None:
        return failure(purpose, f"{where}, not writable", "Choose a directory on a writable filesystem.")
    if not outcome.worked:
        advice = (
            f"This kernel cannot id-map {kind}: containers whose root filesystem lies there are refused.\n"
            "Put it on ext4, xfs, btrfs, f2fs or tmpfs (zfs from 2.2, overlay never)."
        )
        return failure(purpose, f"{where}; {outcome}", advice)
    outcome = _on(directory, probe.idmapped_overlay)
    if outcome is None or not outcome.worked:
        advice = "Engines with an overlay driver cannot use this filesystem: it may lack extended attributes or d_type."
        return failure(purpose, f"{where}; overlay: {outcome}", advice)
    return ok(purpose, f"{where}, id-mapped mounts and overlay on them work")


def _directories(host: Host) -> Iterator[tuple[str, Path]]:
    """What the directories are for, and where they are."""
    yield "state directory", host.chosen("INTERCEPTOR_STATE", STATE)
    if host.data:
        yield "data directory", host.data
        return
    docker = docker_data_root(host)
    if docker.is_dir() or shutil.which("dockerd", path=host.environment.get("PATH")):
        yield "Docker's data-root", docker
    for purpose, place in _STORES.items():
        if host.path(place).is_dir():
            yield purpose, host.path(place)


def docker_data_root(host: Host) -> Path:
    """``data-root`` of daemon.json, else Docker's default."""
    try:
        configured = json.loads(host.text("/etc/docker/daemon.json") or "{}")
        return host.path(str(configured.get("data-root") or DOCKER_DATA))
    except (ValueError, AttributeError):
        return host.path(DOCKER_DATA)


def existing(directory: Path) -> Path:
    """`directory`, or the nearest of its parents that exists: what it will lie on once it is made."""
    return next(d for d in (directory, *directory.parents) if d.is_dir())


def filesystem_type(directory: Path) -> str:
    """``ext4``: the type of the mount that `directory` lies on (proc_pid_mountinfo(5), matched by device)."""
    device = directory.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    types = [fields[fields.index("-") + 1] for fields in lines if fields[2] == wanted]
    return types[-1] if types else _longest_mount(directory, lines)


def _longest_mount(directory: Path, lines: list[list[str]]) -> str:
    """The type by mount point: btrfs subvolumes and some network filesystems show devices of their own in stat."""
    real = directory.resolve()
    below = [f for f in lines if real.is_relative_to(f[4].encode().decode("unicode_escape"))]
    best = max(below, key=lambda fields: len(fields[4]))
    return best[best.index("-") + 1]


def _on(directory: Path, experiment: Callable[[str], probe.Outcome]) -> probe.Outcome | None:
    """Runs `experiment` in a fresh directory below `directory`; None where none can be made."""
    try:
        with _scratch(directory) as scratch:
            return experiment(scratch)
    except OSError:
        return None


@contextmanager
def _scratch(directory: Path) -> Iterator[str]:
    scratch = tempfile.mkdtemp(prefix=".interceptor-doctor-", dir=directory)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch)
