"""The leaves of all containers: one FUSE server, and for each container a directory from which its mounts are cloned.

$run/containers/ID/leaves has four mounts: `read` (computed, from the page cache), `write` (remembered values; a FUSE mount
of its own, because no-open holds for a whole connection), `whole` (the same, read-only: what is computed and may be longer than
a page, of which who opens it gets a snapshot) and `file` (a tmpfs, for what never changes). They are mounted in the engine's
mount namespace and go with everything else that the container has there.
"""

from __future__ import annotations

import json
import os
import threading
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog

from interceptor.container import DeviceNumber
from interceptor.errors import InterceptorError
from interceptor.native import fuse, mounts
from interceptor.native.fd import Fd
from interceptor.native.files import close_kept, keep_open, text
from interceptor.native.namespaces import in_mount_namespace
from interceptor.ports import Leaves, Namespace
from runtime import mountinfo
from runtime import record as records
from runtime.procfs import attach, ceilings, cpus, cpuview, files, report, views
from runtime.procfs.follow import Follower
from runtime.procfs.leaf import Leaf, Rung, View
from runtime.procfs.table import leaves as all_leaves
from runtime.procfs.values import loadavg

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from interceptor.container import Container
    from interceptor.ports import Keeper, Tracee
    from runtime.mountinfo import Mount
    from runtime.record import Record

log = structlog.get_logger(__name__)

DIRECTORY = "leaves"
KINDS = ("read", "write", "file")
"""The filesystems."""
WHOLE, WATCHED = "whole", "watched"
COMPUTED = ("read", WHOLE, WATCHED)
WRITTEN = "written.json"
INNER = "inner.json"
PAGE = os.sysconf("SC_PAGE_SIZE")
_EMPTY = {False: "file/empty", True: "file/nothing"}
"""A file and a directory with nothing in them."""
INNER_MAX = 256
"""Inner containers with a view of their own at one time; any more see the container's."""
LOAD_SECONDS = loadavg.PERIOD / 1_000_000_000
CPUS_SECONDS = 0.5
"""Between looks at the limits: the files follow them at once, the directories of CPUs within this time."""


@dataclass(slots=True)
class Served:
    """What one container has."""

    view: View
    computed: files.Computed
    remembered: files.Remembered
    opened: files.Opened
    directory: Fd
    """O_PATH of $run/containers/ID/leaves, in the engine's mount namespace."""
    namespace: Fd
    """That mount namespace."""
    root: Fd
    """Its root directory: where the cgroups' paths begin."""
    table: Sequence[Mount]
    """Its mounts of cgroup hierarchies."""
    computing: fuse.Mount
    remembering: fuse.Mount
    leaves: Sequence[Leaf]
    hidden: Sequence[tuple[str, str]]
    """(path, its place): what is empty."""
    devices: frozenset[DeviceNumber] = frozenset()
    """The filesystems that its leaves are files of."""
    cpus: cpus.Directories | None = None
    masked: Collection[str] = ()
    """Paths over which the engine mounted something of its own: that stays, in fresh filesystems too."""
    inner: dict[tuple[str, ...], int] = field(default_factory=dict)
    """Views of inner containers: their cgroups → number."""
    chains: dict[int, dict[str, list[str]]] = field(default_factory=dict)
    """Of each such view its cgroups and theirs above, by controller, as paths of the engine's mount namespace."""

    def close(self) -> None:
        """Its mounts answer ENOTCONN from now on."""
        self.computing.close()
        self.remembering.close()
        close_kept(_reach(self, ""))
        for held in (self.directory, self.root, self.namespace):
            held.close()


@dataclass(slots=True)
class Prepared:
    """What a container will have once it has an init; close() if it never has."""

    served: Served
    trees: Mapping[str, Fd]
    """The path of each leaf → a detached mount for it."""
    undo: ExitStack

    def close(self) -> None:
        self.undo.close()


class Procfs:
    """Gives containers their leaves. Methods may be called on any thread."""

    def __init__(self, table: Sequence[Leaf] | None = None, keeper: Keeper | None = None) -> None:
        self._keeper = keeper
        self._inherited = dict(keeper.inherited(fuse.KEPT)) if keeper else {}
        self._watches = dict(keeper.inherited(fuse.WATCHES)) if keeper else {}
        self._table = [leaf for leaf in (all_leaves() if table is None else table) if files.exists(leaf)]
        self._lock = threading.Lock()
        self._server: fuse.Server | None = None
        self._served: dict[str, Served] = {}
        self._followers = (
            Follower(lambda: [served.view for served in self._all()], loadavg.load, every=LOAD_SECONDS, name="load"),
            Follower(self._all, _follow_cpus, every=CPUS_SECONDS, name="cpus"),
        )

    def prepare(self, record: Record, base: str) -> Prepared | None:
        """Makes the container's leaves, before it has an init; the caller closes them if it comes to nothing.

        Runs in the mount namespace where `base` is. A host without FUSE gives none, and says so in the log.
        """
        with ExitStack() as undo:
            try:
                served = self._serve(record, base, undo)
                _begin(served)
                _make_cpus(served)
                places = _places(served, 0)
                trees = mounts.clones(served.directory.fileno(), list(places.values()))
                for tree in trees:
                    undo.enter_context(tree)
            except (OSError, InterceptorError) as error:
                _without(record, error)
                return None
            return Prepared(served, dict(zip(places, trees, strict=True)), undo.pop_all())

    def give(self, record: Record, prepared: Prepared, pid: int) -> None:
        """Attaches what was prepared to the proc and sysfs of the container, whose init `pid` has not run anything yet."""
        served = prepared.served
        with prepared.undo:
            try:
                _look(served, pid)
                _follow_cpus(served)
                served.masked = attach.attach(pid, prepared.trees)
                if served.computing.tree is None:  # that supervisor may have attached some
                    served.masked = attach.masked(pid, prepared.trees)
                ceilings.at_start(prepared.trees, record.sysctls)
            except OSError as error:
                _without(record, error)
                return
            with self._lock:
                self._served[record.id] = served
            for tree in prepared.trees.values():
                tree.close()
            prepared.undo.pop_all()

    def take_over(self, record: Record, pid: int, base: str) -> None:
        """Goes on serving what an earlier supervisor gave; in the mount namespace where `base` is."""
        if f"{record.id}/read" not in self._inherited:
            return
        with ExitStack() as undo:
            try:
                served = self._serve(record, base, undo)
                _look(served, pid)
                self._show_inner_again(served)
                self._watch_again(served)
                _begin(served)
                _make_cpus(served)
                served.masked = attach.masked(pid, _places(served, 0))
            except (OSError, InterceptorError) as error:
                log.error("the leaves of /proc are lost", container=record.id, error=str(error))
                return
            with self._lock:
                self._served[record.id] = served
            undo.pop_all()

    def drop_others(self, expected: Collection[str] = ()) -> None:
        """What an earlier supervisor kept for containers that are gone; those `expected` are yet to be created."""
        for key in [key for key in self._inherited if key.rpartition("/")[0] not in expected]:
            self._drop(key)
        for key in tuple(self._watches):
            self._drop_watch(key)

    def _drop(self, key: str) -> None:
        kept = self._inherited.pop(key, None)
        if kept is not None and self._keeper is not None:
            self._keeper.drop(fuse.KEPT, key)
            Fd(kept.fd).close()

    def _watch_again(self, served: Served) -> None:
        """What poll(2) of its open files waits for."""
        for key in [key for key in self._watches if key.startswith(f"{served.view.name}/write/")]:
            try:
                served.remembering.watch_again(key, self._watches.pop(key).fd)
            except OSError as error:
                log.warning("somebody waits for pressure in vain", container=served.view.name, error=str(error))

    def _drop_watch(self, key: str) -> None:
        if self._keeper is not None:
            self._keeper.drop(fuse.WATCHES, key)
            Fd(self._watches.pop(key).fd).close()

    def view_of(self, container: Container, tracee: Tracee) -> View | None:
        """Whose machine a call of the tracee's asks about: the same as what it is shown where it mounts proc."""
        served = self._served.get(container.id)
        return served.computed.view(self._view_of(served, container, tracee, make=False)) if served else None

    def report(self, container: Container) -> dict[str, Any]:
        """What a container's leaves show now (docs/control.md, proc)."""
        served = self._served.get(container.id)
        if served is None:
            return {"leaves": [], "hidden": [], "inner": []}
        at = served.directory.fileno()
        rows = [
            report.row(
                leaf, report.read(_place(leaf, 0), at), leaf.host(served.view) if leaf.host else report.read(leaf.path),
                report.changed(served.remembered.who(leaf), container.ids), masked=leaf.path in served.masked,
            )
            for leaf in sorted(served.leaves, key=lambda leaf: leaf.path)
        ]  # fmt: skip
        inner = [sorted({chain[0] for chain in chains.values()}) for chains in tuple(served.chains.values())]
        return {"leaves": rows, "hidden": [path for path, _ in served.hidden], "inner": inner}

    def devices(self, container_id: str) -> frozenset[DeviceNumber]:
        """The filesystems that its leaves are files of."""
        served = self._served.get(container_id)
        return frozenset() if served is None else served.devices

    def forget(self, container_id: str) -> ExitStack:
        """The container is gone; its mounts answer ENOTCONN from now on, wherever somebody kept one. Idempotent.

        Answers what to close when nobody waits any more: as long as it is open, unmounting does not take the filesystems
        apart, for which the kernel waits several times (deactivate_super(), bdi_unregister()).
        """
        held = ExitStack()
        with self._lock:
            served = self._served.pop(container_id, None)
        if served is not None:
            for place in (*KINDS, cpus.PLACE):
                with suppress(OSError):
                    held.enter_context(Fd(os.open(place, os.O_PATH | os.O_CLOEXEC, dir_fd=served.directory.fileno())))
            served.close()
        for kind in KINDS:
            self._drop(f"{container_id}/{kind}")
        return held

    def start(self) -> None:
        """Starts the threads, if they are to be: they stay in the mount namespace that the caller is in."""
        if self._table:
            self._running()

    def _all(self) -> Sequence[Served]:
        return tuple(self._served.values())

    def _running(self) -> fuse.Server:
        with self._lock:
            if self._server is None:
                self._server = fuse.Server()
                for follower in self._followers:
                    follower.start()
            return self._server

    def _serve(self, record: Record, base: str, undo: ExitStack) -> Served:
        """The leaves of a container whose cgroups are not known yet: see `_look`."""
        stack = undo.enter_context(ExitStack())
        table = text("/proc/thread-self/mountinfo")
        namespace = stack.enter_context(Fd(os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)))
        root = stack.enter_context(Fd(os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)))
        view = View({}, name=record.id)
        computed, remembered = files.Computed(), files.Remembered(f"{base}/{WRITTEN}", view, record.sysctls)
        top = f"{base}/{DIRECTORY}"
        owner = (record.ids.first, record.ids.first)
        _make_directories(top)
        made = {}
        opened = files.Opened(remembered, computed, len(self._of("write")))
        for kind, source in (("read", computed), ("write", opened)):
            made[kind] = mount = self._mount(f"{record.id}/{kind}", f"{top}/{kind}", table, source, owner)
            stack.callback(mount.close)
        made["write"].add(remembered.add(self._of("write")))
        _add(computed.show(0, view, self._of(*COMPUTED)), made["read"], made["write"], opened)
        if made["write"].tree is not None or not mountinfo.topmost(mountinfo.parse(table), f"{top}/{WHOLE}"):
            _bind_read_only(f"{top}/write", f"{top}/{WHOLE}")
        if made["read"].tree is not None or not os.path.ismount(f"{top}/file"):
            _write_constants(top, self._of("file"), view, owner)
        directory = stack.enter_context(Fd(os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)))
        hidden = [(path, _EMPTY[os.path.isdir(path)]) for path in record.hidden if os.path.exists(path)]
        stack.pop_all()
        served = Served(
            view, computed, remembered, opened, directory, namespace, root, mountinfo.of_cgroups(table), made["read"],
            made["write"], self._table, hidden,
        )  # fmt: skip
        keep_open(_reach(served, ""))
        undo.callback(served.close)
        return served

    def _show_inner_again(self, served: Served) -> None:
        """The views of inner containers that an earlier supervisor made, under their numbers and with their inodes."""
        for number, chains in sorted(_read_inner(served).items()):
            cgroups = {name: tuple(_reach(served, path) for path in chain) for name, chain in chains.items()}
            self._show_inner(served, number, cgroups)

    def _show_inner(self, served: Served, number: int, cgroups: Mapping[str, tuple[str, ...]]) -> None:
        view = views.inner(cgroups, served.view)
        rows = served.computed.show(number, view, self._of(*COMPUTED))
        _add(rows, served.computing, served.remembering, served.opened)
        if served.cpus is not None:
            with in_mount_namespace(served.namespace.fileno()):
                served.cpus.make(number, view, _leaf_places(served, number))
        served.inner[_key(cgroups)] = number
        prefix = _reach(served, "")
        served.chains[number] = {name: [path.removeprefix(prefix) for path in chain] for name, chain in cgroups.items()}

    def _mount(self, key: str, at: str, table: str, source: fuse.Source, owner: tuple[int, int]) -> fuse.Mount:
        """A new one, attached at `at`, or that which an earlier supervisor left there: `table` is mountinfo's text."""
        kept, direct = (self._keeper, key) if self._keeper is not None else None, key.endswith("/write")
        if kept is not None and key in self._inherited and mountinfo.topmost(mountinfo.parse(table), at):
            return self._running().inherit(source, self._inherited.pop(key).fd, owner=owner, direct=direct, kept=kept)
        self._drop(key)  # that one died before it had attached it
        made = self._running().mount(source, name=attach.SOURCE, owner=owner, direct=direct, kept=kept)
        assert made.tree is not None  # noqa: S101 - it is new
        try:
            mounts.move_mount(made.tree.fileno(), at)
        except OSError:
            made.close()
            raise
        return made

    def _of(self, *kinds: str) -> list[Leaf]:
        return [leaf for leaf in self._table if _kind(leaf) in kinds]

    # -- fresh mounts inside ------------------------------------------------------------------------------------

    def leaves(self, container: Container, fstype: str, tracee: Tracee) -> Leaves | None:
        """ports.Fresh."""
        served = self._served.get(container.id)
        if served is None:
            return None
        number = self._view_of(served, container, tracee, make=True)
        top = next(path for path, of_type in attach.FILESYSTEMS.items() if of_type == fstype) + "/"
        places = _places(served, number)
        rows = [
            (path[len(top) :].encode(), place.encode())
            for path, place in places.items()
            if path.startswith(top) and path not in served.masked
        ]
        return Leaves(served.directory.fileno(), served.namespace.fileno(), rows)

    def _view_of(self, served: Served, container: Container, tracee: Tracee, *, make: bool) -> int:
        """The number of the view for what `tracee` mounts: an inner container's where it is in one."""
        if tracee.namespace_id(Namespace.PID) == container.pid_namespace:
            return 0
        membership = tracee.cgroups.decode(errors="surrogateescape")
        cgroups = views.cgroups(membership, served.table, _reach(served, ""))
        if not views.is_inner(cgroups, served.view):
            return 0
        with self._lock:
            known = served.inner.get(_key(cgroups))
            number = known or (_free_number(served.inner) if make else 0)
            if number and not known:
                self._show_inner(served, number, cgroups)
                _write_inner(served)
            return number


def _without(record: Record, error: Exception) -> None:
    log.warning("no leaves: /proc shows the host", container=record.id, error=str(error))


def _look(served: Served, pid: int) -> None:
    """From now on leaves show the cgroups of init `pid`."""
    membership = text(f"/proc/{pid}/cgroup")
    cgroups = views.cgroups(membership, served.table, _reach(served, ""))
    served.view = View(cgroups, init_pid=pid, name=served.view.name)
    served.computed.show(0, served.view, ())
    served.remembered.view = served.view


def _add(rows: Iterable[tuple[Leaf, files.Row]], read: fuse.Mount, write: fuse.Mount, opened: files.Opened) -> None:
    """Each to the mount where its leaf is; an inherited one gets all, for an earlier supervisor may have had other reasons."""
    by_kind = [(_kind(leaf), row) for leaf, row in rows]
    read.add(row for kind, row in by_kind if kind == "read" or read.tree is None)
    write.add(opened.row(row) for kind, row in by_kind if kind != "read" or write.tree is None)


def _begin(served: Served) -> None:
    """Requests are answered from now on, also those that an earlier supervisor left unanswered."""
    for mount in (served.computing, served.remembering):
        if mount.tree is None:
            mount.begin()
    served.devices = frozenset(_device(served.directory, kind) for kind in KINDS)


def _make_cpus(served: Served) -> None:
    """The directories of CPUs, of every view that there is; in the engine's mount namespace, and once leaves are served."""
    if cpus.wanted(_places(served, 0)):
        served.cpus = cpus.Directories(served.directory)
        served.cpus.mount(attach.SOURCE)
        for number in _numbers(served):
            served.cpus.make(number, served.computed.view(number), _leaf_places(served, number))
        served.devices |= {_device(served.directory, name) for name in served.cpus.filesystems}


def _numbers(served: Served) -> Sequence[int]:
    """Its views'."""
    return 0, *tuple(served.inner.values())


def _follow_cpus(served: Served) -> None:
    if served.cpus is not None:
        for number in _numbers(served):
            served.cpus.follow(number, served.computed.view(number))


def _leaf_places(served: Served, number: int) -> dict[str, str]:
    return {leaf.path: _place(leaf, number) for leaf in served.leaves}


def _places(served: Served, number: int) -> dict[str, str]:
    """What is mounted into a proc and sysfs of view `number`: path → where it is below the container's directory."""
    places = _leaf_places(served, number) | dict(served.hidden)
    if served.cpus is not None:
        for path, _ in cpuview.mount_points(""):
            del places[path]
        places[cpuview.DIRECTORY] = cpus.place(number)
    return places


def _device(directory: Fd, kind: str) -> DeviceNumber:
    number = os.stat(kind, dir_fd=directory.fileno()).st_dev
    return DeviceNumber(os.major(number), os.minor(number))


def _free_number(inner: dict[tuple[str, ...], int]) -> int:
    """The number of a view whose cgroups are gone, else a new one; 0 when a container has as many as it may."""
    for key, number in list(inner.items()):
        if not any(os.path.isdir(directory) for directory in key):
            del inner[key]
            return number
    return len(inner) + 1 if len(inner) < INNER_MAX else 0



def _key(cgroups: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(chain[0] for chain in cgroups.values())


def _reach(served: Served, path: str) -> str:
    """A path of the engine's mount namespace, as it is reached from ours."""
    return f"/proc/self/fd/{served.root.fileno()}{path}"


def _write_inner(served: Served) -> None:
    """For the next supervisor."""
    records.write(f"/proc/self/fd/{served.directory.fileno()}/{INNER}", json.dumps(served.chains))


def _read_inner(served: Served) -> dict[int, dict[str, list[str]]]:
    try:
        written = json.loads(text(f"/proc/self/fd/{served.directory.fileno()}/{INNER}"))
    except FileNotFoundError:
        return {}
    return {int(number): chains for number, chains in written.items()}


def _make_directories(top: str) -> None:
    for path in (top, *(f"{top}/{kind}" for kind in (*KINDS, WHOLE))):
        with suppress(FileExistsError):  # an earlier supervisor's
            os.mkdir(path, 0o711)


def _bind_read_only(source: str, target: str) -> None:
    with mounts.open_tree(source) as tree:
        mounts.set_attributes("", dirfd=tree.fileno(), attributes=mounts.MOUNT_ATTR_RDONLY)
        mounts.move_mount(tree.fileno(), target)


def _write_constants(top: str, leaves: Sequence[Leaf], view: View, owner: tuple[int, int]) -> None:
    """What never changes: files of a tmpfs, which nobody can write to afterwards."""
    attributes = mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV | mounts.MOUNT_ATTR_NOEXEC
    with mounts.fresh("tmpfs", [("source", attach.SOURCE), ("mode", "711"), ("size", "1m")], attributes=attributes) as tree:
        mounts.move_mount(tree.fileno(), f"{top}/file")
    os.mkdir(f"{top}/{_EMPTY[True]}", 0o555)
    with open(f"{top}/{_EMPTY[False]}", "xb") as file:
        os.fchmod(file.fileno(), 0o444)
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
    if leaf.write is not None:
        return "write"
    if leaf.watch is not None:
        return WATCHED
    return WHOLE if leaf.longest is not None and leaf.longest() > PAGE else "read"


def _place(leaf: Leaf, number: int) -> str:
    """Where a leaf's file is below the container's directory."""
    kind = _kind(leaf)
    name = files.name(number if kind in COMPUTED else 0, leaf)
    return f"{'write' if kind == WATCHED else kind}/{name}"
