"""The leaves of all containers: one FUSE server, and for each container a directory from which its mounts are cloned.

$run/containers/ID/leaves has three mounts: `read` (computed, from the page cache), `write` (remembered values; a FUSE mount
of its own, because no-open holds for a whole connection) and `file` (a tmpfs, for what never changes). They are mounted in
the engine's mount namespace and go with everything else that the container has there.
"""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from interceptor.errors import InterceptorError
from interceptor.native import fuse, mounts
from interceptor.native.fd import Fd
from runtime.procfs import attach, files, views
from runtime.procfs.follow import Follower
from runtime.procfs.leaf import Leaf, Rung
from runtime.procfs.table import leaves as all_leaves

if TYPE_CHECKING:
    from collections.abc import Sequence

    from interceptor.container import Container
    from interceptor.ports import Keeper, Tracee
    from runtime.procfs.leaf import View
    from runtime.record import Record

log = structlog.get_logger(__name__)

DIRECTORY = "leaves"
WRITTEN = "written.json"


@dataclass(slots=True)
class Served:
    """What one container has."""

    view: View
    computed: files.Computed
    remembered: files.Remembered
    directory: Fd
    """O_PATH of $run/containers/ID/leaves, in the engine's mount namespace."""
    namespace: Fd
    """That mount namespace."""
    root: Fd
    """Its root directory: where the cgroups' paths begin."""
    mounts: ExitStack
    leaves: Sequence[Leaf]
    attached: Sequence[str] = ()
    inner: dict[tuple[str, ...], int] = field(default_factory=dict)


class Procfs:
    """Gives containers their leaves. Methods may be called on any thread."""

    def __init__(self, table: Sequence[Leaf] | None = None, keeper: Keeper | None = None) -> None:
        self._keeper = keeper
        self._inherited = dict(keeper.inherited(fuse.KEPT)) if keeper else {}
        self._table = [leaf for leaf in (all_leaves() if table is None else table) if files.exists(leaf)]
        self._lock = threading.Lock()
        self._server: fuse.Server | None = None
        self._served: dict[str, Served] = {}
        self._follower = Follower(lambda: [served.view for served in tuple(self._served.values())])

    def give(self, record: Record, pid: int, base: str) -> None:
        """Makes the container's leaves and attaches them to its proc and sysfs; its init `pid` has not run anything yet.

        Runs in the mount namespace where `base` is. A host without FUSE gives none, and says so in the log.
        """
        with ExitStack() as undo:
            try:
                served = self._serve(record, pid, base, undo)
            except OSError as error:
                log.warning("no leaves: /proc shows the host", container=record.id, error=str(error))
                return
            names = {leaf.path: _place(leaf, 0) for leaf in served.leaves}
            served.attached = attach.attach(pid, f"{base}/{DIRECTORY}", names)
            with self._lock:
                self._served[record.id] = served
            undo.pop_all()

    def take_over(self, record: Record, pid: int, base: str) -> None:
        """Goes on serving what an earlier supervisor gave; in the mount namespace where `base` is."""
        if f"{record.id}/read" not in self._inherited:
            return
        with ExitStack() as undo:
            try:
                served = self._serve(record, pid, base, undo)
            except (OSError, InterceptorError) as error:
                log.error("the leaves of /proc are lost", container=record.id, error=str(error))
                return
            with self._lock:
                self._served[record.id] = served
            undo.pop_all()

    def drop_others(self) -> None:
        """What an earlier supervisor kept for containers that are gone."""
        others, self._inherited = self._inherited, {}
        for key, kept in others.items():
            assert self._keeper is not None  # noqa: S101 - it gave them
            self._keeper.drop(fuse.KEPT, key)
            Fd(kept.fd).close()

    def view_of(self, container: Container, _tracee: Tracee) -> View | None:
        """Whose machine a call of the tracee's asks about."""
        served = self._served.get(container.id)
        return served.view if served else None

    def forget(self, container_id: str) -> None:
        """The container is gone; its mounts answer ENOTCONN from now on, wherever somebody kept one. Idempotent."""
        with self._lock:
            served = self._served.pop(container_id, None)
        if served is not None:
            served.mounts.close()

    def start(self) -> None:
        """Starts the threads, if they are to be: they stay in the mount namespace that the caller is in."""
        if self._table:
            self._running()

    def _running(self) -> fuse.Server:
        with self._lock:
            if self._server is None:
                self._server = fuse.Server()
                self._follower.start()
            return self._server

    def _serve(self, record: Record, pid: int, base: str, undo: ExitStack) -> Served:
        stack = undo.enter_context(ExitStack())
        namespace = stack.enter_context(Fd(os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)))
        root = stack.enter_context(Fd(os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)))
        view = views.view(
            Path(f"/proc/{pid}/cgroup").read_text(errors="surrogateescape"),
            Path("/proc/thread-self/mountinfo").read_text(errors="surrogateescape"),
            f"/proc/self/fd/{root.fileno()}",
            init_pid=pid,
        )
        computed, remembered = files.Computed(), files.Remembered(f"{base}/{WRITTEN}", view)
        top = f"{base}/{DIRECTORY}"
        owner = (record.ids.first, record.ids.first)
        _make_directories(top)
        for kind, source in (("read", computed), ("write", remembered)):
            mount = self._mount(f"{record.id}/{kind}", source, owner, direct=kind == "write")
            stack.callback(mount.close)
            if mount.tree is not None:
                mounts.move_mount(mount.tree.fileno(), f"{top}/{kind}")
                undo.callback(mounts.unmount, f"{top}/{kind}")
            own = [leaf for leaf in self._table if _kind(leaf) == kind]
            mount.add(computed.add(0, view, own) if kind == "read" else remembered.add(own))
            if mount.tree is None:
                mount.begin()
        if not os.path.ismount(f"{top}/file"):
            _write_constants(top, [leaf for leaf in self._table if _kind(leaf) == "file"], view, owner, undo)
        directory = stack.enter_context(Fd(os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)))
        return Served(view, computed, remembered, directory, namespace, root, stack.pop_all(), self._table)


    def _mount(self, key: str, source: fuse.Source, owner: tuple[int, int], *, direct: bool) -> fuse.Mount:
        """A new one, or that which an earlier supervisor left."""
        inherited = self._inherited.pop(key, None)
        kept = (self._keeper, key) if self._keeper is not None else None
        if inherited is not None and kept is not None:
            return self._running().inherit(source, inherited.fd, owner=owner, direct=direct, kept=kept)
        return self._running().mount(source, name="interceptor", owner=owner, direct=direct, kept=kept)


def _make_directories(top: str) -> None:
    for path in (top, *(f"{top}/{kind}" for kind in ("read", "write", "file"))):
        with suppress(FileExistsError):  # an earlier supervisor's
            os.mkdir(path, 0o711)


def _write_constants(top: str, leaves: Sequence[Leaf], view: View, owner: tuple[int, int], undo: ExitStack) -> None:
    """What never changes: files of a tmpfs, which nobody can write to afterwards."""
    attributes = mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV | mounts.MOUNT_ATTR_NOEXEC
    with mounts.fresh("tmpfs", [("mode", "711"), ("size", "1m")], attributes=attributes) as tree:
        mounts.move_mount(tree.fileno(), f"{top}/file")
    undo.callback(mounts.unmount, f"{top}/file")
    for leaf in leaves:
        path = f"{top}/{_place(leaf, 0)}"
        with open(path, "xb") as file:
            file.write(leaf.read(view))
        os.chmod(path, leaf.mode)
        os.chown(path, *owner)
    mounts.set_attributes(f"{top}/file", attributes=attributes | mounts.MOUNT_ATTR_RDONLY)


def _kind(leaf: Leaf) -> str:
    if leaf.rung is Rung.FILE:
        return "file"
    return "read" if leaf.write is None else "write"


def _place(leaf: Leaf, number: int) -> str:
    """Where a leaf's file is below the container's directory."""
    kind = _kind(leaf)
    return f"{kind}/{files.name(number if kind == 'read' else 0, leaf)}"
