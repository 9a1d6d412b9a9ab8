"""The supervisor: one per host, what the runtime's `create` talks to and where every notifier ends up.

trio is the control plane: both sockets, container lifetimes, trace readers. No notification passes through it.
"""

from __future__ import annotations

import faulthandler
import itertools
import json
import os
import signal
import socket
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
import trio

from interceptor import diagnosis, registry, shortcut, succession
from interceptor.agent_pool import AgentPool
from interceptor.args import Arch
from interceptor.client import program
from interceptor.contexts import Contexts
from interceptor.contexts import inherit as inherit_contexts
from interceptor.control import Control
from interceptor.device_programs import Programs, inherit
from interceptor.dispatch import Dispatcher, Routes, routes_of
from interceptor.errors import ConfigError, InterceptorError, PolicyError
from interceptor.explain import explained
from interceptor.listener import ProcessState
from interceptor.listener import serve as serve_listener
from interceptor.listener import serve_one as serve_connection
from interceptor.log import configure
from interceptor.native import sockets
from interceptor.native.agentlink import Link
from interceptor.native.journal import Journal
from interceptor.native.keeper import Keeper
from interceptor.native.notifier import Notifier, Pace, Table, receive_returns
from interceptor.policy_file import PolicySet, load_all, remember, search_path
from interceptor.reload import change, filter_drift, record
from interceptor.session import Parking, Session
from interceptor.stanza import table
from interceptor.trace import stream
from interceptor.trace.event import event
from interceptor.trace.ring import Hub, Ring, Selection

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Mapping

    from interceptor.container import Container
    from interceptor.native.keeper import Kept
    from interceptor.policy import Policy, Told
    from interceptor.ports import Fresh, Launcher, Operation, Plugin, PluginFactory, Request, Shown
    from interceptor.reload import Change

log = structlog.get_logger(__name__)

DRAIN_INTERVAL = 1.0
"""Seconds between looks at what the sessions answered: often enough that none has more to remember than it can."""
FOLLOW_INTERVAL = 0.1
"""The same while somebody follows the trace."""
IDLE_STEP = 1.0
RECENT = 200
"""Calls in a report."""
LOCK_PATIENCE = 5.0
"""Seconds for which a supervisor waits for the end of the one before it."""
NOTIFIER, SOCKET, LISTENER, CONNECTION = "notifier", "socket", "listener", "connection"
"""Kinds of what the keeper holds for us; the last two are its own words (keeper.c)."""
REMEMBERED = "policies"
"""In the run directory: the administrator's policies as they were when they were last loaded."""
STACK_SIZE = 512 * 1024
"""Bytes of a session thread's stack: address space; what is touched is a few pages."""


def run_directory() -> Path:
    """Where sockets and container records are: $INTERCEPTOR_RUN, /run/interceptor by default."""
    return Path(os.environ.get("INTERCEPTOR_RUN") or "/run/interceptor")


@dataclass(slots=True)
class Entry:
    """A registered container and what serves it."""

    container: Container
    policy: Policy
    dispatcher: Dispatcher
    table: Table
    ring: Ring
    parking: Parking
    pace: Pace
    sessions: set[Session] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Compiled:
    """What is made of a policy, once for all its containers."""

    table: Table
    routes: Routes


class Supervisor:
    """Containers, sessions, policies; satisfies ports.Core. Methods may be called from any thread."""

    def __init__(self, directory: Path, policies: PolicySet, keeper: Keeper, *, poll_first: bool) -> None:
        self.directory = directory
        self.keeper = keeper
        self.journal = Journal(keeper)
        self._launcher: Launcher | None = None
        self._numbers = itertools.count(time.monotonic_ns())
        """Of notifiers: those of an earlier supervisor do not come again."""
        self.rows = registry.load()
        self.hub = Hub()
        self.last_activity = time.monotonic()
        self._policies = policies
        self._poll_first = poll_first
        self._entries: dict[str, Entry] = {}
        self._compiled: dict[str, Compiled] = {}
        self._told: Callable[[str, int], None] | None = None
        self._shown: Shown | None = None
        self._fresh: Fresh | None = None
        self._lock = threading.Lock()
        self._reloading = threading.Lock()
        """Held while policies are loaded: one reload after the other."""

    @property
    def listener_path(self) -> str:
        return str(self.directory / "seccomp.sock")

    @property
    def containers(self) -> Mapping[str, Container]:
        with self._lock:
            return {entry.container.id: entry.container for entry in self._entries.values()}

    def policy(self, name: str) -> Policy:
        """Of the last load; one that is gone since, as long as a container has it."""
        with self._lock:
            kept = next((e.policy for e in self._entries.values() if e.policy.name == name), None)
            known = self._policies
        return kept if kept is not None and name not in known.policies else known.get(name)

    def reload(self) -> list[Change]:
        """Reads the policies again, and has them decide from the next call on. With a mistake in any file nothing changes.

        PolicyErrors with every mistake's place.
        """
        with self._reloading:
            policies = load_all(search_path(os.environ), self.rows)
            remember(search_path(os.environ), self.directory / REMEMBERED)
            with self._lock:
                self._policies, self._compiled = policies, {}
                entries = list(self._entries.values())
            changes = [self._adopt(entry, policies.policies.get(entry.policy.name)) for entry in entries]
        log.info("policies reloaded", policies=len(policies.policies), containers=len(changes))
        return changes

    def _adopt(self, entry: Entry, policy: Policy | None) -> Change:
        """The container's sessions go over to the policy, one after the other; those that come have it already."""
        found = change(entry.container, entry.policy, policy, self.rows)
        if policy is not None:
            compiled = self._compile(policy)
            table = compiled.table
            dispatcher = Dispatcher(entry.container, policy, compiled.routes, entry.dispatcher.pool, entry.dispatcher)
            entry.dispatcher.pool.allow(policy.limits)
            entry.parking.allow(policy.limits.parked)
            entry.pace.allow(policy.limits.notifications)
            with self._lock:
                entry.policy, entry.dispatcher, entry.table = policy, dispatcher, table
                sessions = tuple(entry.sessions)
            for session in sessions:
                session.adopt(dispatcher, table)
        entry.ring.publish(record(found, time.time_ns()))
        log.info("policy of a container", container=entry.container.id, what=found.words())
        return found

    def policy_of(self, name: object) -> Policy:
        """The policy that a container really has, by its id, the start of it, or its name."""
        with self._lock:
            entries = list(self._entries.values())
        for entry in entries:
            container = entry.container
            if name in {container.id, container.id[:12], container.name}:
                return entry.policy
        known = ", ".join(e.container.name or e.container.id[:12] for e in entries)
        raise ConfigError(f"there is no container {name!r}; there are: {known or 'none'}")

    def choose_policy(self, told: Told) -> Policy:
        return self._policies.choose(told)

    def tell_of_notifiers(self, told: Callable[[str, int], None]) -> None:
        self._told = told

    def show(self, shown: Shown) -> None:
        self._shown = shown

    def cover_fresh(self, fresh: Fresh) -> None:
        self._fresh = fresh

    def register(self, container: Container) -> None:
        policy = self.policy(container.policy)
        contexts = Contexts(container.id, self.keeper)
        pool = AgentPool(container.ids, policy.limits, start=partial(Link, self.keeper), contexts=contexts)
        compiled = self._compile(policy)
        entry = Entry(
            container, policy, Dispatcher(container, policy, compiled.routes, pool, launch=self._launcher), compiled.table,
            self.hub.open(container.id, container.name), Parking(policy.limits.parked),
            Pace(policy.limits.notifications),
        )  # fmt: skip
        entry.dispatcher.shown, entry.dispatcher.fresh = self._shown, self._fresh
        entry.dispatcher.device_programs = Programs(container.id, self.keeper)
        with self._lock:
            if container.id in self._entries:
                raise InterceptorError(f"container {container.id!r} is registered already; delete it first")
            self._entries[container.id] = entry
            self.last_activity = time.monotonic()

    def _compile(self, policy: Policy) -> Compiled:
        """Once per policy; shared by its containers."""
        with self._lock:
            if policy.name not in self._compiled:
                arches = Arch.here()
                rows = {arch: table(self.rows, policy, arch) + shortcut.rows(self.rows, policy, arch) for arch in arches}
                self._compiled[policy.name] = Compiled(Table(rows), routes_of(self.rows, policy, arches))
            return self._compiled[policy.name]

    def launch_with(self, launcher: Launcher) -> None:
        self._launcher = launcher

    def unregister(self, container_id: str) -> Container | None:
        with self._lock:
            entry = self._entries.pop(container_id, None)
            self.last_activity = time.monotonic()
        if entry is None:
            return None
        for session in tuple(entry.sessions):
            session.drain()  # so that whoever follows the trace misses nothing
        entry.dispatcher.close()
        self.hub.retire(container_id)
        return entry.container

    def accept(self, state: ProcessState, fd: int) -> None:
        """Takes over a notifier that a runtime sent (listener.Accept)."""
        with self._lock:
            entry = self._entries.get(state.container)
        if entry is None:
            raise InterceptorError(
                f"a runtime sent a notifier for container {state.container!r}, which is not registered"
            )
        if self._told is not None:  # before anything else: the runtime has almost done its part
            self._told(state.container, state.pid)
        key = f"{state.container}/{next(self._numbers)}"
        self.keeper.keep(NOTIFIER, key, fd, f"pid {state.pid}")
        self._serve(entry, key, fd)
        log.info("session", container=state.container, pid=state.pid)

    def inherit(self) -> None:
        """Goes on with the notifiers that an earlier supervisor served, and with what it had not answered; for containers
        that were registered again.
        """
        inherit(self.keeper, self._device_programs)
        inherit_contexts(self.keeper, self._contexts)
        unfinished = dict(self.journal.unfinished())
        for key, kept in self.keeper.inherited(NOTIFIER).items():
            with self._lock:
                entry = self._entries.get(key.rpartition("/")[0])
            if entry is None:
                log.info("a notifier's container is gone", key=key)
                self.keeper.drop(NOTIFIER, key)
                sockets.close([kept.fd])
            else:
                session = self._serve(entry, key, kept.fd)
                left = unfinished.pop(_number(key), [])
                for call in left:
                    session.finish(call)
                log.info("session goes on", key=key, unfinished=len(left))
        for orphan in (call for left in unfinished.values() for call in left):
            orphan.slot.close()

    def _device_programs(self, container_id: str) -> Programs | None:
        with self._lock:
            entry = self._entries.get(container_id)
        return entry.dispatcher.device_programs if entry else None

    def _contexts(self, container_id: str) -> Contexts | None:
        with self._lock:
            entry = self._entries.get(container_id)
        return entry.dispatcher.pool.contexts if entry else None

    def _serve(self, entry: Entry, key: str, fd: int) -> Session:
        slot = partial(self.journal.open, _number(key))
        giver = self.journal.give if entry.dispatcher.container.wait_killable else None
        with self._lock:  # so that a reload finds the session, or the session what was reloaded
            notifier = Notifier(fd, entry.table, poll_first=self._poll_first, slot=slot, pace=entry.pace, giver=giver)
            session = Session(notifier, entry.dispatcher, entry.parking, entry.ring, partial(self._ended, entry, key))
            entry.sessions.add(session)
        try:
            session.start()
        except InterceptorError:
            self._ended(entry, key, session)
            raise
        return session

    def _ended(self, entry: Entry, key: str, session: Session) -> None:
        self.keeper.drop(NOTIFIER, key)
        with self._lock:
            entry.sessions.discard(session)

    def drain(self) -> None:
        """Brings the trace up to date with what the decision tables answered."""
        for session in self._sessions():
            session.drain()

    def _sessions(self) -> list[Session]:
        with self._lock:
            return [session for entry in self._entries.values() for session in entry.sessions]

    def sessions(self) -> list[Session]:
        return self._sessions()

    def state(self) -> dict[str, Any]:
        """What a report shows: containers, and the newest calls of each."""
        self.drain()
        return {
            "containers": self.describe(), "keeper": self.keeper.exists, "journal": self.journal.occupied,
            "unanswered": self.journal.unanswered,
            "calls": [event(record, self.rows) for record in self.hub.history(None, Selection(), RECENT)],
        }  # fmt: skip

    def examine(self, container_id: str) -> dict[str, Any] | None:
        """The facts that `interceptor doctor --container` judges; None when it is not registered."""
        with self._lock:
            entry = self._entries.get(container_id)
        if entry is None:
            return None
        now = time.monotonic_ns()
        handled = [now - since for session in tuple(entry.sessions) for _, since in session.busy()]
        return self._description(entry) | {
            "abandoned": entry.dispatcher.pool.abandoned, "handling_ms": max(handled, default=0) // 10**6,
            "parked_max": entry.policy.limits.parked, "keeper": self.keeper.exists,
        }  # fmt: skip

    def close(self) -> None:
        """Ends every agent. Sessions end with the process."""
        with self._lock:
            entries = list(self._entries.values())
        for entry in entries:
            entry.dispatcher.close()

    def describe(self) -> list[dict[str, Any]]:
        """What `interceptor ps` shows; docs/control.md."""
        self.drain()
        with self._lock:
            return [self._description(entry) for entry in self._entries.values()]

    def _description(self, entry: Entry) -> dict[str, Any]:
        drifted = filter_drift(entry.container, entry.policy, self.rows)
        return {**_description(entry), "narrower": list(drifted.narrower), "wider": list(drifted.wider)}


def _number(key: str) -> int:
    """Of a notifier, in the journal; `key` is the keeper's."""
    return int(key.rpartition("/")[2])


def _description(entry: Entry) -> dict[str, Any]:
    container = entry.container
    return {
        "id": container.id, "name": container.name, "image": container.image, "policy": container.policy,
        "runtime": container.runtime, "pid": container.init_pid, "ids": [container.ids.first, container.ids.size],
        "created": container.created_ns, "sessions": len(entry.sessions), "calls": entry.ring.calls,
        "denied": entry.ring.denied, "parked": entry.parking.count, "agents": entry.dispatcher.pool.agents,
    }  # fmt: skip


class Service:
    """The supervisor with its sockets, for the length of one process."""

    def __init__(self, supervisor: Supervisor, *, idle: float | None) -> None:
        self._supervisor = supervisor
        self._keeper = supervisor.keeper
        self._idle = idle
        self._scope = trio.CancelScope()
        self._plugins = _load_plugins()
        self._for_good = True
        """Whether the end of this process is that of the service: no other is to go on with what it served."""

    async def run(self, ready_fd: int | None) -> None:
        """Serves until told to stop, or until idle for long enough."""
        directory = self._supervisor.directory
        self._loop = trio.lowlevel.current_trio_token()
        operations = self._operations()
        control = Control(operations, {"trace": self._trace})
        with ExitStack() as stack:
            listener = trio.socket.from_stdlib_socket(
                self._listen(stack, LISTENER, directory / "seccomp.sock", socket.SOCK_STREAM)
            )
            commands = self._listen(stack, SOCKET, directory / "control.sock", socket.SOCK_SEQPACKET)
            self._supervisor.inherit()
            connections = self._keeper.inherited(CONNECTION)
            self._keeper.drop_unclaimed()
            self._keeper.serving()
            if ready_fd is not None:
                sockets.tell_ready(ready_fd)
            log.info("supervisor started", directory=str(directory), calls=sorted(self._supervisor.rows))
            with self._scope:
                async with trio.open_nursery() as nursery:
                    if self._keeper.exists:
                        nursery.start_soon(self._serve_kept, nursery, connections.values())
                    else:
                        nursery.start_soon(serve_listener, listener, self._supervisor.accept)
                    await nursery.start(self._signals)  # who has been told our pid may send some
                    nursery.start_soon(control.serve, commands)
                    nursery.start_soon(self._watch)
                    nursery.start_soon(self._keep_draining, DRAIN_INTERVAL)
                    if self._idle is not None:
                        nursery.start_soon(self._end_when_idle, control, self._idle)
            if self._for_good:
                self._keeper.let_go()
        log.info("supervisor ended", for_good=self._for_good)
        if not self._for_good:  # as SIGKILL would: sessions and agents are in the middle of something
            os._exit(0)
        self._supervisor.close()

    def _listen(self, stack: ExitStack, kind: str, path: Path, socket_kind: socket.SocketKind) -> socket.socket:
        """A listening socket, the earlier supervisor's if there is one; its path goes when nobody is to go on with it."""
        inherited = self._keeper.inherited(kind).get(path.name)
        bound = socket.socket(fileno=inherited.fd) if inherited else sockets.bind(path, socket_kind)
        if not inherited:
            self._keeper.keep(kind, path.name, bound.fileno())
        stack.callback(bound.close)
        stack.callback(lambda: path.unlink(missing_ok=True) if self._for_good else None)
        return bound

    async def _serve_kept(self, nursery: trio.Nursery, connections: Iterable[Kept]) -> None:
        """Connections of runtimes: the keeper accepts them, so that none is lost with us."""
        for kept in connections:
            nursery.start_soon(self._serve_connection, kept)
        while True:
            await trio.lowlevel.wait_readable(self._keeper)
            try:
                taken = self._keeper.take()
            except (EOFError, ConnectionResetError):
                log.error("the keeper has ended; another takes its place")
                find = partial(program, "interceptor-runc")
                await trio.to_thread.run_sync(partial(self._keeper.replace, find, service=self._idle is None))
                continue
            if taken is not None:
                nursery.start_soon(self._serve_connection, taken)

    async def _serve_connection(self, kept: Kept) -> None:
        connection = trio.socket.from_stdlib_socket(socket.socket(fileno=kept.fd))
        await serve_connection(connection, self._supervisor.accept, kept=True)
        self._keeper.drop(CONNECTION, kept.key)

    def _operations(self) -> dict[str, Operation]:
        operations: dict[str, Operation] = {
            "ping": _ping, "ps": self._ps, "shutdown": self._shutdown, "explain": self._explain,
            "reload": self._reload, "restart": self._restart, "examine": self._examine,
        }  # fmt: skip
        for plugin in self._plugins:
            operations.update(plugin.start(self._supervisor))
        return operations

    def _ps(self, _request: Request) -> Mapping[str, Any]:
        return {"containers": self._supervisor.describe()}

    def _explain(self, request: Request) -> Mapping[str, Any]:
        supervisor = self._supervisor
        return {"explanation": explained(request.body, supervisor.policy_of(request.body.get("container")), supervisor.rows)}

    def _reload(self, _request: Request) -> Mapping[str, Any]:
        return {"containers": [found.describe() for found in self._supervisor.reload()]}

    async def _reload_for_a_signal(self) -> None:
        try:
            await trio.to_thread.run_sync(self._supervisor.reload)
        except InterceptorError as error:
            for line in str(error).splitlines():
                log.error("policies not reloaded", why=line)

    def _shutdown(self, request: Request) -> Mapping[str, Any]:
        running = self._supervisor.containers
        if running and not request.body.get("force"):
            raise InterceptorError(
                f"{len(running)} containers are registered ({', '.join(running)}); say force to end anyway"
            )
        request.afterwards.append(partial(self._loop.run_sync_soon, self._scope.cancel))
        return {}

    def _restart(self, request: Request) -> Mapping[str, Any]:
        """Lets another process go on, which reads program, policies and configuration anew; all is checked before."""
        if not self._keeper.exists:
            raise InterceptorError("this supervisor has no keeper, which could start another: end it, and start it again")
        following = succession.wanted(request.body.get("program"))
        request.afterwards += [
            partial(self._keeper.succeed, following), partial(self._loop.run_sync_soon, self._hand_over),
        ]  # fmt: skip
        return {"pid": os.getpid()}

    def _hand_over(self) -> None:
        self._for_good = False
        self._scope.cancel()

    async def _trace(self, body: Mapping[str, Any], send: stream.Send) -> None:
        self._supervisor.drain()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_draining, FOLLOW_INTERVAL)
            await stream.serve(self._supervisor.hub, self._supervisor.rows, body, send)
            nursery.cancel_scope.cancel()

    def _examine(self, request: Request) -> Mapping[str, Any]:
        wanted = request.body.get("container")
        if not isinstance(wanted, str):
            raise InterceptorError(f'"container" must be a name or an id, not {wanted!r}')
        found = [self._supervisor.examine(ring.container) for ring in self._supervisor.hub.find(wanted)]
        return {"containers": [facts for facts in found if facts is not None]}

    async def _watch(self) -> None:
        """Says what hangs; should this very loop hang, faulthandler does."""
        watchdog = diagnosis.Watchdog()
        while True:
            diagnosis.alive()
            watchdog.look(self._supervisor.sessions())
            await trio.sleep(IDLE_STEP)

    async def _keep_draining(self, interval: float) -> None:
        while True:
            await trio.sleep(interval)
            self._supervisor.drain()

    async def _signals(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1) as signals:
            task_status.started()
            async for number in signals:
                if number == signal.SIGUSR1:
                    path = diagnosis.report(self._supervisor.directory, "dump", self._supervisor.state)
                    log.info("dumped", path=str(path))
                    continue
                if number == signal.SIGHUP:
                    await self._reload_for_a_signal()
                    continue
                log.info("told to stop", signal=signal.Signals(number).name)
                self._for_good = not (self._keeper.exists and self._supervisor.containers)
                self._scope.cancel()

    async def _end_when_idle(self, control: Control, idle: float) -> None:
        """A spawned supervisor ends by itself; whoever connects while it does starts the next one."""
        supervisor = self._supervisor
        while True:
            await trio.sleep(min(IDLE_STEP, idle))
            if supervisor.containers or control.busy:
                supervisor.last_activity = time.monotonic()
            elif time.monotonic() - supervisor.last_activity >= idle:
                self._scope.cancel()


def _ping(_request: Request) -> Mapping[str, Any]:
    return {"pid": os.getpid(), "version": version("interceptor"), "program": succession.own_program()}


def _load_plugins() -> list[Plugin]:
    factories: list[PluginFactory] = [point.load() for point in entry_points(group="interceptor.plugins")]
    return [factory() for factory in factories]


def prepare(directory: Path, patience: float = 0) -> int:
    """Makes the run directory; the lock that says: the one supervisor of this host. ConfigError while there is another."""
    if os.geteuid() != 0:
        raise ConfigError(f"the supervisor needs root; it was started with uid {os.geteuid()}")
    directory.mkdir(mode=0o711, parents=True, exist_ok=True)
    directory.chmod(0o711)
    lock = sockets.lock(directory / "supervisor.lock", patience)
    if lock is None:
        raise ConfigError(f"another supervisor runs: it holds {directory / 'supervisor.lock'}")
    return lock


def could_serve() -> int:
    """``interceptor supervise --check``: reads what a supervisor reads as it starts, and says which version it is."""
    load_all(search_path(os.environ))
    registry.load()
    _load_plugins()
    print(json.dumps(succession.about()))  # noqa: T201 - for succession.wanted()
    return 0


def _policies(directory: Path, keeper: Keeper) -> PolicySet:
    """All policies. Where containers wait for this supervisor, a mistake in a file must not keep it from serving them: then
    it is told in the log, and the policies are those of the last good load.
    """
    kept, files = directory / REMEMBERED, search_path(os.environ)
    try:
        policies = load_all(files)
    except PolicyError as error:
        if not (keeper.left and kept.is_dir()):
            raise
        for line in str(error).splitlines():
            log.error("policies not loaded", why=line, instead=str(kept))
        return load_all([kept, *files[-1:]])
    remember(files, kept)
    return policies


def main(arguments: argparse.Namespace) -> int:
    """``interceptor supervise``: serves in the foreground. `arguments`: spawned, ready_fd, keeper_fd, idle,
    log_format.
    """
    configure(arguments.log_format)
    if arguments.check:
        return could_serve()
    directory = run_directory()
    prepare(directory, 0 if arguments.keeper_fd is None else LOCK_PATIENCE)
    keeper = Keeper(arguments.keeper_fd)
    os.umask(0o022)
    threading.stack_size(STACK_SIZE)
    policies = _policies(directory, keeper)
    supervisor = Supervisor(directory, policies, keeper, poll_first=not receive_returns())
    idle = arguments.idle if arguments.spawned else None
    faulthandler.enable()
    try:
        trio.run(Service(supervisor, idle=idle).run, arguments.ready_fd)
    except Exception as error:
        log.critical("crashed", report=str(diagnosis.report(directory, "crash", supervisor.state, error)))
        raise
    return 0
