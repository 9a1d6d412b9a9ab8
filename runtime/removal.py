"""The end of a container: what `create` made is removed by its record alone, by whoever comes to do it.

Also what an earlier supervisor left, after a crash of its own or of the host.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

from interceptor.errors import InterceptorError
from interceptor.native import children
from interceptor.native.fd import Fd
from interceptor.native.namespaces import in_mount_namespace
from runtime import bundle, place, process, rootfs, unfinished
from runtime import record as records

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtime.preparation import Host
    from runtime.record import Record

_STATE_SECONDS = 60


def own_mount_namespace() -> Fd:
    return Fd(os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC))


def remove(host: Host, record: Record, namespace: Fd) -> None:
    """Removes everything of one container; `namespace` is where its mounts are."""
    base = host.places.container(record.id)
    if record.init_pid is None:
        unfinished.remove(record, namespace)
    with in_mount_namespace(namespace.fileno()):
        bundle.restore(record.bundle, base)
        if record.rootfs.covers and _is_ours(record.rootfs.engine, f"{base}/rootfs"):
            rootfs.uncover(record.rootfs.engine)
        place.unmount(base)
        rootfs.remove_work(record.rootfs.upper)
        place.remove(base)
    forget_data(host, record)
    host.ranges.release(record.id)


def forget_data(host: Host, record: Record) -> None:
    """Data directories of a container without a layer go with the container; others are the engine's to remove."""
    if record.rootfs.layer is None:
        shutil.rmtree(host.store(record), ignore_errors=True)


def survivors(host: Host) -> list[Record]:
    """The containers that live, or that their runtime still knows; cleans up after all others."""
    kept = []
    for container_id, base in records.directories(host.places):
        try:
            record = records.load(base)
        except InterceptorError:
            _sweep(base)  # its creation ended before anything outside was told of it
            continue
        if record.id == container_id and (being_created(record) or lives(record)):
            kept.append(record)
        else:
            found = process.mount_namespace(record.namespace) if record.boot == process.boot() else None
            with found or own_mount_namespace() as namespace:
                remove(host, record, namespace)
    alive = [record.id for record in kept]
    host.ranges.retain(alive)
    _sweep_data(host, alive)
    return kept


def _sweep_data(host: Host, alive: Sequence[str]) -> None:
    """Data of plain root filesystems outlives a reboot, the records do not."""
    with suppress(FileNotFoundError):
        for name in os.listdir(f"{host.places.state}/data"):
            if name not in alive:
                shutil.rmtree(f"{host.places.state}/data/{name}", ignore_errors=True)


def lives(record: Record) -> bool:
    """Whether the container is still there for somebody: its init lives, or its runtime says so."""
    if record.boot != process.boot():
        return False
    return init_lives(record) or _known_to_runtime(record)


def being_created(record: Record) -> bool:
    """Whether the entry that creates it still lives, and has not said how that went."""
    return (
        record.init_pid is None and record.creator is not None and record.boot == process.boot()
        and process.start_time(record.creator) == record.creator_start
    )  # fmt: skip


def init_lives(record: Record) -> bool:
    return record.init_pid is not None and process.start_time(record.init_pid) == record.init_start


def _known_to_runtime(record: Record) -> bool:
    """A runtime that does not answer in time has not said that the container is gone; one that is not there knows none."""
    command = [record.runtime, *record.options, "state", record.id]
    try:
        done = children.run(command, timeout=_STATE_SECONDS)
    except subprocess.TimeoutExpired:
        return True
    except OSError:
        return False
    return done.returncode == 0


def _sweep(base: str) -> None:
    with own_mount_namespace() as own, in_mount_namespace(own.fileno()):
        place.unmount(base)
        place.remove(base)


def _is_ours(engine: str, attached: str) -> bool:
    """Whether what is seen at the engine's mount point is our overlay: one superblock, so one st_dev."""
    with suppress(OSError):
        return os.stat(engine).st_dev == os.stat(attached).st_dev
    return False
