"""The life of a container as the OCI entry tells it: create, created, exec, deleted.

`create` is one stack of undo steps. It is handed to the request's connection, so a failure in the middle, an entry that
dies and a runtime that fails all undo the same list; `created` throws the list away. What `deleted` removes is read
from the record, so it needs nothing that only this process knew.
"""

from __future__ import annotations

import os
import threading
from array import array
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from interceptor import registry
from interceptor.errors import InterceptorError
from interceptor.native import files, mounts
from interceptor.native.fd import Fd
from interceptor.native.namespaces import in_mount_namespace
from interceptor.policy import LeafScope
from runtime import (
    bundle,
    capabilities,
    cgroups,
    commandline,
    mountinfo,
    nodes,
    ociconfig,
    oomscore,
    process,
    removal,
    requests,
    unfinished,
)
from runtime import record as records
from runtime.ahead import Ahead
from runtime.dockercp import Watchers
from runtime.idrange import Ranges
from runtime.launch import launch
from runtime.preparation import Host, prepare
from runtime.procfs.calls import Calls
from runtime.procfs.service import Procfs
from runtime.requests import Creation
from runtime.seccomp import Rules
from runtime.underneath import Runtimes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from interceptor.container import Container, DeviceNumber
    from interceptor.ports import Core, Request
    from runtime.config import HostConfig, Places
    from runtime.mountinfo import Mount
    from runtime.nodes import Nodes
    from runtime.procfs.service import Prepared
    from runtime.record import Record
    from runtime.underneath import Underneath


@dataclass(slots=True)
class Parts:
    """What a container's init finds when it starts, as far as it can be made before there is an init."""

    hierarchies: Sequence[Mount]
    """Of cgroups, in the engine's mount namespace."""
    nodes: Nodes
    leaves: Prepared | None
    undo: ExitStack


AHEAD = 4
"""Creations for which things are made ahead at one time; for any more they are made when they are needed."""


@dataclass(slots=True)
class Given:
    """What was given to a container's init."""

    cgroup: str | None
    """A directory of its own, if any."""
    undo: ExitStack
    """Nothing: what a container has goes with it."""


RESUME_SECONDS = 30.0
"""For an entry to find the next supervisor."""


@dataclass(slots=True)
class Pending:
    """Between `create` and `created`: what undoes it all, and where the mounts are."""

    record: Record
    container: Container
    namespace: Fd
    undo: ExitStack
    ahead: Ahead[Parts]
    init: tuple[int, Ahead[Given]] | None = None
    """Its pid, and what is given to it, once somebody has begun with that."""
    resumed: bool = True
    """Whether its creator is connected to us, not only to the supervisor before us."""
    turn: threading.RLock = field(default_factory=threading.RLock)
    """Held by who completes or undoes it."""


class Lifecycle:
    """The four operations on one host's containers. Operations on different containers may run at once."""

    def __init__(self, core: Core, places: Places, config: HostConfig) -> None:
        ranges = Ranges(places.state, config.ids, config.origin)
        rows = registry.load()
        self._host = Host(core, places, config, ranges, rows, Rules(rows), capabilities.known_to_kernel())
        self._core = core
        self._runtimes = Runtimes()
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(AHEAD, "ahead")
        self._moves = cgroups.Moves()
        self._copies = Watchers(lambda record: f"{places.container(record.id)}/rootfs")
        self._procfs = Procfs(keeper=core.keeper)
        core.launch_with(partial(launch, places))
        core.show(Calls(self._procfs.view_of))
        core.cover_fresh(self._procfs)
        core.tell_of_notifiers(self._init_is_there)
        self._pending: dict[str, Pending] = {}
        self._creating: dict[str, threading.Event] = {}
        """Containers that are neither complete nor undone; set once `create` has prepared it, or failed to."""

    def recover(self) -> None:
        """Registers the containers that an earlier supervisor left alive; cleans up after the others."""
        for record in removal.survivors(self._host):
            container = record.container()
            container.init_pid = None
            if record.init_pid is not None and removal.init_lives(record):
                self._take_over_leaves(record, record.init_pid)
                _note_init(container, record, record.init_pid, self._procfs.devices(record.id))
            self._core.register(container)
            if removal.being_created(record):
                self._expect(record, container)
            else:
                self._copies.add(record)
        self._procfs.drop_others(self._pending)

    def _take_over_leaves(self, record: Record, pid: int) -> None:
        self._procfs.start()
        namespace = process.mount_namespace(record.namespace) or removal.own_mount_namespace()
        with namespace, in_mount_namespace(namespace.fileno()):
            self._procfs.take_over(record, pid, self._host.places.container(record.id))

    def _expect(self, record: Record, container: Container) -> None:
        """An earlier supervisor died in the creation: the entry will say `resume`, or it is undone."""
        namespace = process.mount_namespace(record.namespace) or removal.own_mount_namespace()
        undo = ExitStack()
        self._creating[record.id] = prepared = threading.Event()
        prepared.set()
        undo.callback(self._creating.pop, record.id)
        undo.callback(self._pending.pop, record.id)
        undo.callback(removal.remove, self._host, record, namespace)
        undo.callback(self._core.unregister, record.id)
        ahead = Ahead(self._threads, partial(self._make_parts, record, namespace))
        self._pending[record.id] = Pending(record, container, namespace, undo, ahead, resumed=False)
        timer = threading.Timer(RESUME_SECONDS, self._abort_unless_resumed, [record.id])
        timer.daemon = True
        timer.start()

    def _abort_unless_resumed(self, container_id: str) -> None:
        pending = self._pending.get(container_id)
        if pending is not None and not pending.resumed:
            self._abort(pending)

    def resume(self, request: Request) -> Mapping[str, Any]:
        """An entry goes on with a creation that it began with an earlier supervisor."""
        container_id = requests.identifier(request.body)
        pending = self._pending.get(container_id)
        if pending is not None:
            pending.resumed = True
            request.on_disconnect.callback(self._abort, pending)
        elif container_id not in self._core.containers:
            raise InterceptorError(f"container {container_id} is not being created")
        return {}

    # -- create -------------------------------------------------------------------------------------------------

    def create(self, request: Request) -> Mapping[str, Any]:
        """Prepares the root filesystem and the mounts, rewrites config.json, registers the container."""
        self._moves.expect()
        asked = Creation.of(request.body)
        runtime = self._runtimes.choose(asked.runtime, self._host.config.runtime, self._host.config.origin)
        self._abort_unless_resumed(asked.id)
        with requests.mount_namespace(request) as namespace, ExitStack() as prepared, ExitStack() as undo:
            prepared.callback(undo.enter_context(self._claim(asked.id)).set)
            undo.callback(self._pending.pop, asked.id, None)
            record = prepare(self._host, asked, runtime, namespace, undo)
            undo.callback(removal.forget_data, self._host, record)
            container = record.container()
            self._core.register(container)
            undo.callback(self._core.unregister, asked.id)
            kept = namespace.duplicate()
            undo.callback(unfinished.remove, record, kept)
            ahead = Ahead(self._threads, partial(self._make_parts, record, kept))
            pending = self._pending[asked.id] = Pending(record, container, kept, undo.pop_all(), ahead)
        request.on_disconnect.callback(self._abort, pending)
        request.afterwards.append(ahead.start)
        return self._reply(asked, runtime, record)

    def _reply(self, asked: Creation, runtime: Underneath, record: Record) -> Mapping[str, Any]:
        argv, pid_file = asked.argv, asked.pid_file
        if pid_file is None:
            pid_file = f"{self._host.places.container(asked.id)}/init.pid"
            argv = commandline.with_option(argv, "--pid-file", pid_file)
        return {
            "exec": [runtime.path, *argv],
            "pid_file": pid_file,
            "time_namespace": process.has_time_namespaces(),
            "chown_stdio": runtime.chown_stdio and asked.stdio_null,
            "oom_score_adj": record.oom_score and asdict(record.oom_score),
            "absent": record.absent,
        }

    @contextmanager
    def _claim(self, container_id: str) -> Iterator[threading.Event]:
        """Nobody else creates a container of this id meanwhile."""
        with self._lock:
            if container_id in self._core.containers or container_id in self._creating:
                raise InterceptorError(f"container {container_id} exists already; delete it, or choose another id")
            prepared = self._creating[container_id] = threading.Event()
        try:
            yield prepared
        finally:
            if self._creating.get(container_id) is prepared:  # not completed
                del self._creating[container_id]

    def _abort(self, pending: Pending) -> None:
        """Undoes a creation that was not completed; returns when it is undone, by whomever. Idempotent."""
        with pending.turn:
            if not self._is_pending(pending):
                return
            self._begin_to_give(pending, 0)[1].discard()  # also if its notifier comes only now
            pending.ahead.discard()
            with pending.namespace, self._procfs.forget(pending.record.id):
                pending.undo.close()

    def _is_pending(self, pending: Pending) -> bool:
        return self._pending.get(pending.record.id) is pending

    # -- created ------------------------------------------------------------------------------------------------

    def created(self, request: Request) -> Mapping[str, Any]:
        """The runtime's `create` has ended: gives the cgroups to the container and records init, or undoes all."""
        container_id, status, pid = (
            requests.identifier(request.body),
            request.body.get("status"),
            request.body.get("pid"),
        )
        pending = self._pending.get(container_id)
        if pending is None and self._has_init(container_id, pid):
            return {}  # an earlier supervisor completed it, and died before it could say so
        if pending is None:
            raise InterceptorError(f"container {container_id} is not being created")
        with pending.turn:
            if not self._is_pending(pending):
                raise InterceptorError(f"container {container_id} was deleted while it was created")
            if status != 0:
                self._abort(pending)
                return {}
            if not isinstance(pid, int) or process.start_time(pid) is None:
                raise InterceptorError(
                    f"the runtime created container {container_id}, but its init (pid {pid!r}) does not live"
                )
            if not process.lives_as(pid, pending.record.ids.first):
                raise InterceptorError(
                    f"the runtime created container {container_id}, but its init (pid {pid}) does not live in its user "
                    "namespace: what would be mounted for the container would be mounted for somebody else"
                )
            self._complete(pending, pid)
            request.on_disconnect.pop_all()
            del self._pending[container_id], self._creating[container_id]
            pending.undo.pop_all()
            pending.namespace.close()
        return {}

    def _has_init(self, container_id: str, pid: object) -> bool:
        container = self._core.containers.get(container_id)
        return container is not None and container.init_pid is not None and container.init_pid == pid

    def _make_parts(self, record: Record, namespace: Fd) -> Parts:
        """While the runtime works. Unmounting is left to who removes the container's directory."""
        policy = self._core.policy(record.policy)
        virtual = policy.leaves is not LeafScope.NONE
        base = self._host.places.container(record.id)
        if virtual:
            self._procfs.start()
        with ExitStack() as undo, in_mount_namespace(namespace.fileno()):
            hierarchies = mountinfo.of_cgroups(files.text("/proc/thread-self/mountinfo"))
            leaves = self._procfs.prepare(record, base) if virtual else None
            if leaves is not None:
                undo.callback(leaves.close)
            made = nodes.make(base, record.ids, nodes.lent(policy), undo)
            return Parts(hierarchies, made, leaves, undo.pop_all())

    def _init_is_there(self, container_id: str, pid: int) -> None:
        """A runtime sends the notifier when nothing is left to mount for init: the filter might forbid it. So what init finds
        is given to it while the runtime does the rest. If it is its init: what is given lies over the mounts that are there.
        """
        pending = self._pending.get(container_id)
        if pending is not None and process.lives_as(pid, pending.record.ids.first):
            self._begin_to_give(pending, pid)[1].start()

    def _begin_to_give(self, pending: Pending, pid: int) -> tuple[int, Ahead[Given]]:
        with self._lock:
            if pending.init is None:
                pending.init = pid, Ahead(self._threads, partial(self._give, pending, pid))
            return pending.init

    def _complete(self, pending: Pending, pid: int) -> None:
        """Everything here may be done again by the next supervisor: the record says that it is done in the end."""
        record, base = pending.record, self._host.places.container(pending.record.id)
        given = self._given(pending, pid)
        with in_mount_namespace(pending.namespace.fileno()):
            if given.cgroup is not None:
                records.write(f"{base}/{records.CGROUP}", given.cgroup + "\n")
            record.init_pid, record.init_start = pid, process.start_time(pid)
            record.save(base)
        _note_init(pending.container, record, pid, self._procfs.devices(record.id))
        self._copies.add(record)

    def _given(self, pending: Pending, pid: int) -> Given:
        found, ahead = self._begin_to_give(pending, pid)
        try:
            given = ahead.result()
        except OSError:
            found = 0  # too early, perhaps
        if found == pid:
            return given
        self._procfs.forget(pending.record.id).close()
        return self._give(pending, pid)

    def _give(self, pending: Pending, pid: int) -> Given:
        record, parts = pending.record, pending.ahead.result()
        with parts.undo:
            membership = files.text(f"/proc/{pid}/cgroup")
            with in_mount_namespace(pending.namespace.fileno()):
                given = cgroups.delegate(pid, membership, parts.hierarchies, record.ids)
                record.cgroup = cgroups.unified(given)
                nodes.give(pid, parts.nodes)
                if parts.leaves is not None:
                    self._procfs.give(record, parts.leaves, pid)
                if record.machine:
                    _share_mounts(pid)
                record.immutable = sorted(mountinfo.ids(files.text(f"/proc/{pid}/mountinfo")))
        # Every hierarchy has all processes; the kernel names those with controllers first.
        return Given(given[0] if given else None, ExitStack())

    # -- exec ---------------------------------------------------------------------------------------------------

    def exec(self, request: Request) -> Mapping[str, Any]:
        """Gives a further process what the container's own has: rewrites the file of --process."""
        self._moves.expect()
        container_id, argv = requests.identifier(request.body), requests.strings(request.body, "argv")
        container = self._core.containers.get(container_id)
        if container is None or container.init_pid is None:
            raise InterceptorError(f"container {container_id} is not known, or has no process that one could join")
        policy = self._core.policy(container.policy)
        record = records.load(self._host.places.container(container_id))
        runtime, score = self._runtimes.know(container.runtime), record.oom_score
        if request.body.get("process") is not None:
            facts = replace(self._host.facts(container.ids, policy), oom_score=score)
            path = requests.absolute(request.body, "process")
            with self._namespace_of(request, container_id) as namespace, in_mount_namespace(namespace.fileno()):
                given = bundle.rewrite(path, lambda given: ociconfig.rewrite_process(given, facts))
            asked = given.get("oomScoreAdj")
            if score is not None:
                score = score.beginning_with(asked)
            elif not runtime.exec_scores:
                score = oomscore.given(asked, facts.oom_score_floor)
        return {
            "exec": [runtime.path, *argv],
            "init_pid": container.init_pid,
            "await_program": runtime.exec_awaits_program,
            "chown_stdio": runtime.chown_stdio,
            "oom_score_adj": score and asdict(score),
            "absent": record.absent,
        }

    def _namespace_of(self, request: Request, container_id: str) -> Fd:
        """The caller's mount namespace: sent along, or that which created the container."""
        if request.fds:
            return requests.mount_namespace(request)
        inode = records.load(self._host.places.container(container_id)).namespace
        return process.mount_namespace(inode) or removal.own_mount_namespace()

    # -- proc ---------------------------------------------------------------------------------------------------

    def proc(self, request: Request) -> Mapping[str, Any]:
        """What a container sees of the machine."""
        container = requests.container(request.body, self._core.containers.values())
        record = records.load(self._host.places.container(container.id))
        return {
            "container": container.id,
            **self._procfs.report(container),
            "oom_score_adj": record.oom_score and asdict(record.oom_score),
        }

    # -- deleted ------------------------------------------------------------------------------------------------

    def deleted(self, request: Request) -> Mapping[str, Any]:
        """Removes what `create` made; idempotent."""
        container_id = requests.identifier(request.body)
        base = self._host.places.container(container_id)
        prepared = self._creating.get(container_id)
        if prepared is not None:
            prepared.wait()
        pending = self._pending.get(container_id)
        if pending is not None:
            self._abort(pending)
        self._core.unregister(container_id)
        request.afterwards.append(self._procfs.forget(container_id).close)
        if os.path.exists(f"{base}/{records.RECORD}"):
            record = records.load(base)
            self._copies.discard(record)
            with self._namespace_of(request, container_id) as namespace:
                removal.remove(self._host, record, namespace)
        return {}


def _share_mounts(pid: int) -> None:
    """All mounts of the container become peers of their copies in further mount namespaces inside, as the kernel's are on a
    machine that systemd boots. In a container systemd leaves that to who made it (src/shared/mount-setup.c, mount_setup()), and
    from 250 on it mounts credentials in a namespace of its own, from where they would be propagated nowhere. Nothing
    leads out: no mount here is a peer of one outside (CL_SHARED_TO_SLAVE, CL_UNPRIVILEGED; mount_namespaces(7)).
    """
    with (
        Fd(os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)) as namespace,
        in_mount_namespace(namespace.fileno()),
    ):
        mounts.set_attributes("/", propagation=mounts.MS_SHARED, recursive=True)


def _note_init(container: Container, record: Record, pid: int, leaves: frozenset[DeviceNumber]) -> None:
    """What the core wants to know of init: its mount and user namespaces, and the mounts that were there from the
    start.
    """
    container.init_pid = pid
    container.mount_namespace = os.stat(f"/proc/{pid}/ns/mnt").st_ino
    container.user_namespace = os.stat(f"/proc/{pid}/ns/user").st_ino
    container.pid_namespace = os.stat(f"/proc/{pid}/ns/pid").st_ino
    container.cgroup = record.cgroup
    container.leaves = leaves
    container.immutable = array("Q", record.immutable)
