"""The agents of one container: who is free, who is slow, who must die; and one call's view of them.

An action may hang for as long as a hostile filesystem pleases, so that patience is graded: a few milliseconds are
waited for quietly; then the session hears of it (`on_slow`) and can let somebody else receive; at the deadline the
agent is killed. A killed agent that the kernel cannot end yet is set aside and counted, and never waited for.

Threads: every method may be called on any thread. Waiters are served in the order in which they came.
"""

from __future__ import annotations

import errno
import functools
import operator
import os
import re
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from interceptor import loops
from interceptor.contexts import Contexts, Kept
from interceptor.errors import AgentEndedError, AgentError, NothingToLend, NotificationGone
from interceptor.loops import LoopFlag
from interceptor.native import agentlink
from interceptor.native import pin as native
from interceptor.native.agentlink import Link, Reply, Request, Slot
from interceptor.native.blockdevices import device_of
from interceptor.native.fd import Fd
from interceptor.policy import Mount
from interceptor.ports import Namespace, Way

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from interceptor.container import IdRange
    from interceptor.limits import LentDevice, Limits
    from interceptor.native.journal import Reply as Earlier
    from interceptor.netmounts import Option
    from interceptor.ports import Context, Leaves
    from interceptor.wire import Anchor

IDLE_S = 30.0
"""How long an agent beyond the first one stays without work."""
_NO_NUMBERS = (0, 0, 0, 0)
MS_RDONLY = 1
NETWORK_DEADLINE_MS = 60_000
"""Servers may be long in answering, or the network in coming up."""
GRACE_MS = 500
"""The agent's own timer is for the case that we are no more: it comes after ours."""


def _nothing() -> None:
    pass


def _nowhere() -> Mapping[int, int] | None:
    return None


@dataclass(slots=True, eq=False)
class _Waiter:
    """Somebody for whom no agent was free. Gets an agent, or None for the right to start one."""

    served: threading.Event = field(default_factory=threading.Event)
    link: Link | None = None


@dataclass(slots=True)
class _Idle:
    link: Link
    since: float


class AgentPool:
    """At most `limits.agents` agents, started when they are needed."""

    def __init__(
        self,
        container_ids: IdRange,
        limits: Limits,
        on_slow: Callable[[], None] = _nothing,
        start: Callable[[], Link] = Link,
        contexts: Contexts | None = None,
    ) -> None:
        """`on_slow` is called once for each call that takes longer than PATIENCE_MS, unless the call brings its own."""
        self.container_ids = container_ids
        self.contexts = Contexts() if contexts is None else contexts
        self._limits = limits
        self._on_slow = on_slow
        self._start = start
        self._lock = threading.Lock()
        self._idle: list[_Idle] = []
        self._waiters: list[_Waiter] = []
        self._busy: set[Link] = set()
        self._count = 0
        self._abandoned: list[Link] = []
        self._closed = False
        self.slot = Slot()
        """Where one agent lies while it is idle: sessions in C take it from there, too."""
        self.home: Callable[[], Mapping[int, int] | None] = _nowhere
        """The container's own namespaces, as descriptors by role (MNTNS, USERNS), once they are known."""

    def allow(self, limits: Limits) -> None:
        """From now on; agents that there are already may stay."""
        self._limits = limits

    @property
    def agents(self) -> int:
        """Agents that run or are about to, without the abandoned."""
        return self._count

    @property
    def abandoned(self) -> int:
        """Agents that were killed and have not ended yet."""
        self._reap_abandoned()
        return len(self._abandoned)

    def call(self, request: Request, on_slow: Callable[[], None] | None = None) -> int:
        """The value of the action's reply; see `ask`."""
        return self.ask(request, on_slow).value

    def ask(
        self, request: Request, on_slow: Callable[[], None] | None = None, hold: Callable[[Reply], None] | None = None
    ) -> Reply:
        """The action's reply. Completes `request` with the container's ids and the deadline.

        OSError with the tracee's errno; NotificationGone; AgentError when there is no answer before the deadline
        (waiting for a free agent included). For an agent that somebody killed another one goes on with the request; where
        nobody knows what was done by then, OSError(EINTR). A request that brings a later deadline than policy's has that
        one. `hold`, for an action of agentlink.STAYS, makes what the reply brings safe.
        """
        deadline_ms = max(request.deadline_ms, self._limits.agent_deadline_ms)
        watch = _Watch(deadline_ms, on_slow or self._on_slow)
        ids = self.container_ids
        request.root_uid = request.root_gid = ids.first
        request.id_count = ids.size
        request.deadline_ms = deadline_ms + GRACE_MS
        return _checked(request, self._ask(request, watch, hold))

    def close(self) -> None:
        """Ends all agents; calls that are under way fail with AgentError. Idempotent."""
        with self._lock:
            self._closed = True
            idle, busy = [entry.link for entry in self._idle], list(self._busy)
            self.slot.want(wanted=True)  # so that who has its agent now gives it to us
            link = self.slot.take()
            if link is not None:
                idle.append(link)
            elif self.slot.link is not None:  # C has it, and will hear of it
                busy.append(self.slot.link)
            self._count -= len(idle)
            self._idle.clear()
            waiters, self._waiters = self._waiters, []
        self.contexts.close()
        for waiter in waiters:
            waiter.served.set()
        for link in idle + busy:
            link.kill()
        for link in idle:  # the busy ones are buried by those whose calls then fail
            self._bury(link)
        self._reap_abandoned()

    def _ask(self, request: Request, watch: _Watch, hold: Callable[[Reply], None] | None = None) -> Reply:
        """One request to one agent; to a second one only where the first cannot have begun."""
        while True:
            link = self._acquire(watch)
            try:
                reply = _exchange(link, request, watch)
                if hold is not None:
                    _hold(link, reply, hold)
            except BrokenPipeError:
                self._lose(link)
                watch.check(f"agent {link.pid} has ended")
            except OSError:  # a request that cannot be packed: nothing was sent
                self._release(link)
                raise
            except AgentEndedError as ended:
                made = link.noted()
                link.reap(watch.left_ms())  # until then it holds on to what it mounted, and umount2(2) would find it busy
                self._lose(link)
                _make_again(request, made)
                watch.check(str(ended))
            except BaseException:
                self._lose(link)
                raise
            else:
                self._release(link)
                return reply

    def _acquire(self, watch: _Watch) -> Link:
        waiter = None
        with self._lock:
            self._check_open()
            link = self._free()
            if link is None and self._count < self._limits.agents:
                self._count += 1
            elif link is None:
                waiter = _Waiter()
                self._waiters.append(waiter)
                self.slot.want(wanted=True)
                link = self._free()  # C may have put it back before it could see that
                if link is not None:
                    self._waiters.remove(waiter)
        if link is not None:
            return link
        if waiter is not None:
            link_or_right = self._await(waiter, watch)
            if link_or_right is not None:
                return link_or_right
        return self._started()

    def _free(self) -> Link | None:
        link = self._idle.pop().link if self._idle else self.slot.take()
        if link is not None:
            self._busy.add(link)
        return link

    def _started(self) -> Link:
        """A new agent, in the place that was counted for it."""
        try:
            link = self._start()
        except BaseException:
            with self._lock:
                self._give_place()
            raise
        with self._lock:
            if not self._closed:
                self._busy.add(link)
                return link
        link.kill()
        self._bury(link)
        raise AgentError("the container is being removed")

    def _await(self, waiter: _Waiter, watch: _Watch) -> Link | None:
        while not waiter.served.wait(watch.next_ms() / 1000):
            if watch.over():
                with self._lock:
                    if waiter in self._waiters:
                        self._waiters.remove(waiter)
                        raise AgentError(f"no agent was free within {watch.deadline_ms} ms ({self._count} are busy)")
                break  # served at the last moment
            watch.slow()
        if waiter.link is None:
            with self._lock:
                self._check_open()
        return waiter.link

    def _check_open(self) -> None:
        if self._closed:
            raise AgentError("the container is being removed")

    def _release(self, link: Link) -> None:
        """`link` has answered and is free: for the first who waits, else for later."""
        if not self._lives_at_home(link):
            self._lose(link)
            return
        now = time.monotonic()
        with self._lock:
            self._busy.discard(link)
            if self._closed:
                surplus = [link]
                self._count -= 1
            elif self._waiters:
                self._serve(link)
                return
            elif link.at_home and self.slot.link is None:
                self.slot.offer(link)
                surplus = self._surplus(now)
            else:
                self._idle.append(_Idle(link, now))
                surplus = self._surplus(now)
        for old in surplus:
            old.kill()
            self._bury(old)

    def _serve(self, link: Link) -> None:
        waiter = self._waiters.pop(0)
        waiter.link = link
        self._busy.add(link)
        waiter.served.set()

    def _lives_at_home(self, link: Link) -> bool:
        """Tells `link` once where home is, as soon as that is known; False when it is of no use any more."""
        home = None if link.at_home else self.home()
        if home is None:
            return True
        try:
            reply = _exchange(link, Request(agentlink.HOME, home, {}), _Watch(self._limits.agent_deadline_ms, _nothing))
        except (OSError, AgentError):
            return False
        link.at_home = reply.outcome == agentlink.DONE and not reply.error
        return link.at_home

    def wanted(self) -> None:
        """C has put the slot's agent back, and says that somebody waits."""
        with self._lock:
            closed = self._closed
            link = self.slot.take() if self._waiters or closed else None
            if link is not None and not closed:
                self._serve(link)
            self.slot.want(wanted=closed or bool(self._waiters))
        if link is not None and closed:
            self._lose(link)

    def lost(self) -> None:
        """The slot's agent has ended, while C had it and before it took a request."""
        self._lose(self._given())

    def take_over(self, notification: int, on_slow: Callable[[], None]) -> int | None:
        """Goes on with the request for `notification` that C sent to the slot's agent; as `call`. None: nothing was done,
        because the agent wants more of the tracee than C gives it.
        """
        link, watch = self._given(), _Watch(self._limits.agent_deadline_ms, on_slow)
        link.adopt(notification)
        try:
            reply = _reply(link, None, watch)
        except AgentEndedError:
            made = link.noted()
            self._lose(link)
            if made is None:
                return None
            raise InterruptedError(errno.EINTR, _NOBODY_KNOWS) from None
        except BaseException:
            self._lose(link)
            raise
        self._release(link)
        if reply.outcome == agentlink.WANTS:
            return None
        return _checked(Request(agentlink.STAND_IN, {}, {}, notification=notification), reply).value

    def _given(self) -> Link:
        with self._lock:
            link = self.slot.forget()
            if link is None:
                raise AgentError("no agent was lent")
            self._busy.add(link)
        return link

    def _surplus(self, now: float) -> list[Link]:
        """Idle agents beyond one that had no work for a while; they lie at the bottom of the stack."""
        surplus = []
        while len(self._idle) > 1 and self._idle[0].since < now - IDLE_S:
            surplus.append(self._idle.pop(0).link)
            self._count -= 1
        return surplus

    def _lose(self, link: Link) -> None:
        """`link` is dead or must be; its place is free."""
        with self._lock:
            self._busy.discard(link)
            self._give_place()
        link.kill()
        self._bury(link)

    def _give_place(self) -> None:
        if self._waiters and not self._closed:
            self._waiters.pop(0).served.set()
        else:
            self._count -= 1

    def _bury(self, link: Link) -> None:
        """Reaps a killed agent, or sets it aside when the kernel has not ended it within a moment."""
        link.hang_up()
        if not link.reap(100):
            with self._lock:
                self._abandoned.append(link)

    def _reap_abandoned(self) -> None:
        with self._lock:
            self._abandoned = [link for link in self._abandoned if not link.reap(0)]


class _Watch:
    """The patience with one call."""

    def __init__(self, deadline_ms: int, on_slow: Callable[[], None]) -> None:
        self.deadline_ms = deadline_ms
        self._end = time.monotonic() + deadline_ms / 1000
        self._on_slow: Callable[[], None] | None = on_slow

    def next_ms(self) -> int:
        """How long to wait before something has to be done: tell that the call is slow, or give up."""
        left = self.left_ms()
        return min(left, agentlink.PATIENCE_MS) if self._on_slow is not None else left

    def left_ms(self) -> int:
        return max(0, int((self._end - time.monotonic()) * 1000) + 1)

    def over(self) -> bool:
        return time.monotonic() >= self._end

    def slow(self) -> None:
        if self._on_slow is not None:
            on_slow, self._on_slow = self._on_slow, None
            on_slow()

    def check(self, what: str) -> None:
        if self.over():
            raise AgentError(f"{what}, and {self.deadline_ms} ms are over")


_NOBODY_KNOWS = "an agent was killed in it, and nobody knows what was done"
_HARMLESS = frozenset((
    agentlink.PING, agentlink.MOUNT_ID, agentlink.FSOPEN, agentlink.OPEN_ROOT, agentlink.GET_XATTR, agentlink.LIST_XATTR,
    agentlink.MAY_CHOWN, agentlink.READ, agentlink.LOOP_STATUS, agentlink.SETHOSTNAME, agentlink.SETDOMAINNAME,
))  # fmt: skip
"""What has the same result when it is done twice."""
_NOTED = frozenset((
    agentlink.MOUNT, agentlink.STAND_IN, agentlink.OVERLAY, agentlink.MOVE_MOUNT, agentlink.MAKE_NODE, agentlink.SET_XATTR,
    agentlink.REMOVE_XATTR, agentlink.DETACH,
))  # fmt: skip
"""What notes that it is about to change something (still_waiting() of native/agent_attach.c)."""
_ATTACHES = frozenset((agentlink.MOUNT, agentlink.STAND_IN, agentlink.OVERLAY))
"""What looks for `unless_mount` before it attaches."""


def _make_again(request: Request, made: int | None) -> None:
    """Prepares a request for a second agent after the first was killed; `made` as `Link.noted` says it. OSError(EINTR) where
    nobody knows what was done.
    """
    if request.op in _HARMLESS or (request.op in _NOTED and made is None):
        return
    if not made or request.op not in _ATTACHES:
        raise InterruptedError(errno.EINTR, _NOBODY_KNOWS)
    request.unless_mount = made


def _exchange(link: Link, request: Request, watch: _Watch) -> Reply:
    return _reply(link, link.call(request), watch)


def _hold(link: Link, reply: Reply, hold: Callable[[Reply], None]) -> None:
    try:
        if reply.given:
            hold(reply)
    finally:
        link.settle()


def _reply(link: Link, reply: Reply | None, watch: _Watch) -> Reply:
    while reply is None:
        if watch.over():
            raise AgentError(f"agent {link.pid} does not answer within {watch.deadline_ms} ms")
        watch.slow()
        reply = link.wait(watch.left_ms())
    return reply


def _checked(request: Request, reply: Reply) -> Reply:
    if reply.outcome == agentlink.GONE:
        raise NotificationGone(f"notification {request.notification} ended before the agent acted")
    if reply.outcome == agentlink.WANTS:
        raise DescriptorWanted(reply.value)
    if reply.outcome != agentlink.DONE:
        raise AgentError(f"the agent takes action {request.op} with these arguments for malformed")
    if reply.error:
        raise OSError(reply.error, os.strerror(reply.error))
    return reply


class DescriptorWanted(Exception):  # noqa: N818 - no error: the request is made again, with the descriptor
    """A path leads through a descriptor of the tracee's, which the agent has not got."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class AgentSubject(Protocol):
    """Whose call it is, as descriptors and credentials (a pinned tracee has all of it)."""

    @property
    def notifier_fd(self) -> int:
        """The seccomp notify fd."""

    @property
    def notification_id(self) -> int:
        """seccomp_notif.id; 0 where nobody asks whether it is still valid."""

    def namespace_fd(self, namespace: Namespace) -> int:
        """An open /proc/TID/ns/NAME."""

    @property
    def root_fd(self) -> int:
        """The root directory, O_PATH."""

    @property
    def cwd_fd(self) -> int:
        """The working directory, O_PATH."""

    @property
    def fsuid(self) -> int:
        """As a host id, as the next two."""

    @property
    def fsgid(self) -> int: ...

    @property
    def groups(self) -> tuple[int, ...]: ...

    @property
    def filesystem_ids(self) -> tuple[int, int]:
        """Exactly its fsuid and fsgid, as host ids: what new files belong to."""

    @property
    def umask(self) -> int: ...

    @property
    def capabilities(self) -> int:
        """The effective set: bit N is capability N of linux/capability.h."""

    @property
    def in_nested_user_namespace(self) -> bool: ...

    def take(self, fd: int) -> int:
        """A duplicate of the tracee's descriptor; OSError(EBADF) for one that is not open."""

    @property
    def proc_fd(self) -> int:
        """/proc/TID, O_PATH."""


class PinnedAgent:
    """ports.Agent for one call."""

    def __init__(
        self,
        pool: AgentPool,
        subject: AgentSubject,
        on_slow: Callable[[], None] | None = None,
        unless: int = 0,
        earlier: Earlier | None = None,
    ) -> None:
        """`on_slow` stands in for the pool's. `unless` is the number of a mount that may be what the call asks for, made by
        its earlier self: where it is the target already, nothing is mounted over it. Of a device node it is
        the inode number. `earlier`: what an agent has replied to an earlier supervisor that died in this very call; it is not
        asked for that again.
        """
        self._pool = pool
        self._subject = subject
        self._on_slow = on_slow
        self._unless = unless
        self._earlier = earlier
        self.attached = 0
        """Number of the mount, or inode number of the node, that the call made; 0: none."""

    def mount(
        self,
        fstype: str,
        at: Anchor,
        *,
        source: bytes | None,
        flags: int,
        options: bytes | None,
        like: Sequence[bytes] = (),
        leaves: Leaves | None = None,
    ) -> None:
        fds = self._place(at)
        if fstype == "proc":
            fds[agentlink.PIDNS] = self._subject.namespace_fd(Namespace.PID)
        elif fstype == "sysfs":
            fds[agentlink.NETNS] = self._subject.namespace_fd(Namespace.NET)
        texts = {agentlink.PATH: at.path, agentlink.TYPE: fstype.encode()} | _given(source, options)
        how = self._finish(fds, texts, like, leaves)
        self._attach(agentlink.MOUNT, fds, texts, flags=how, mount_flags=flags)

    def _finish(
        self, fds: dict[int, int], texts: dict[int, bytes], like: Sequence[bytes], leaves: Leaves | None
    ) -> int:
        """What a fresh proc or sysfs must hide, and what comes over its files: into the request; answers its flags."""
        if leaves:
            like, rows = _instead(like, leaves)
            fds |= {agentlink.LEAVES: leaves.directory, agentlink.LEAVES_NS: leaves.namespace}
            texts[agentlink.LEAF_NAMES] = b"".join(b"%b\n%b\n" % row for row in rows)
        if not like:
            return 0
        texts[agentlink.COVERS] = b"".join(_escaped(path) + b"\n" for path in like)
        return agentlink.LOCK_COVERS if self._subject.in_nested_user_namespace else 0

    def open_context(self, context: Context, *, twin: bool) -> int:
        subject, fstype = self._subject, context.fstype
        fds = self._there()
        if fstype == b"proc":
            fds[agentlink.PIDNS] = subject.namespace_fd(Namespace.PID)
        elif fstype == b"sysfs":
            fds[agentlink.NETNS] = subject.namespace_fd(Namespace.NET)
        reply = self._act(agentlink.FSOPEN, fds, {agentlink.TYPE: fstype}, flags=agentlink.TWIN if twin else 0)
        given = [Fd(number) for number in reply.given]
        own = given[0].duplicate()
        self._pool.contexts.add(Kept(context, own, given[1] if twin else None, Fd(os.dup(subject.proc_fd))))
        return given[0].take()

    def set_overlay_option(self, context: Context, key: bytes, value: bytes | int | None) -> None:
        kept = self._kept(context)
        fds = self._there() | {agentlink.CONTEXT: _number(kept.twin), agentlink.CWD: self._subject.cwd_fd}
        texts = {agentlink.KEY: key}
        if isinstance(value, int):
            fds[agentlink.BASE] = value
        elif value is not None:
            texts[agentlink.VALUE] = value
        self._act(agentlink.OVERLAY_OPTION, fds, texts)

    def create_overlay(self, context: Context) -> None:
        kept = self._kept(context)
        self._act(agentlink.OVERLAY_CREATE, self._there() | {agentlink.CONTEXT: _number(kept.twin)}, {})

    def mount_context(
        self, context: Context, attributes: int, *, like: Sequence[bytes] = (), leaves: Leaves | None = None
    ) -> None:
        kept = self._kept(context)
        fds, texts, how = self._there(), {}, 0
        if context.choice.mount is Mount.STAND_IN:
            texts[agentlink.TYPE] = context.fstype
        elif kept.twin is not None:
            fds[agentlink.CONTEXT], how = kept.twin.fileno(), agentlink.OURS
        else:
            fds[agentlink.CONTEXT] = kept.own.fileno()
        how |= self._finish(fds, texts, like, leaves)

        def hold(reply: Reply) -> None:
            self._pool.contexts.hold(kept, Fd(reply.given[0]), reply.value)

        self._act(agentlink.FSMOUNT, fds, texts, flags=how, mount_flags=attributes, hold=hold)

    def open_mount(self, context: Context) -> int:
        kept = self._kept(context)
        return self._act(agentlink.OPEN_ROOT, self._there() | {agentlink.CONTEXT: _number(kept.mount)}, {}).given[0]

    def move_mount(self, context: Context, at: Anchor, *, follow: bool) -> None:
        kept = self._kept(context)
        fds = self._place(at) | {agentlink.CONTEXT: _number(kept.mount)}
        how = agentlink.FOLLOW if follow else 0
        self._act(agentlink.MOVE_MOUNT, fds, {agentlink.PATH: at.path}, flags=how)
        self._pool.contexts.drop(context)

    def _kept(self, context: Context) -> Kept:
        kept = self._pool.contexts.of(context)
        if kept is None:  # let go meanwhile: there were too many
            raise OSError(errno.EBUSY, "the container keeps too many filesystem contexts")
        return kept

    def stand_in(self, at: Anchor, *, name: str, flags: int) -> None:
        texts = {agentlink.PATH: at.path, agentlink.TYPE: name.encode()}
        self._attach(agentlink.STAND_IN, self._place(at), texts, mount_flags=flags)

    def overlay(self, at: Anchor, *, source: bytes | None, flags: int, options: bytes | None) -> None:
        fds = self._place(at) | {agentlink.CWD: self._subject.cwd_fd}
        self._attach(agentlink.OVERLAY, fds, {agentlink.PATH: at.path} | _given(source, options), mount_flags=flags)

    def mount_device(self, device: LentDevice, at: Anchor, *, name: bytes, flags: int) -> None:
        fds = self._place(at)
        texts = {agentlink.PATH: at.path, agentlink.TYPE: device.fstype.encode(), agentlink.SOURCE: name}
        texts[agentlink.OPTIONS] = b"".join(b"%b\n" % option.encode() for option in device.options)
        with device_of(device.host, read_only=device.read_only) as number:
            if device.read_only:
                flags |= MS_RDONLY
            self._attach(agentlink.MOUNT_DEVICE, fds, texts, mount_flags=flags, numbers=(number, 0, 0, 0))

    def mount_network(self, fstype: bytes, at: Anchor, *, source: bytes, flags: int, options: Sequence[Option]) -> None:
        fds = self._place(at) | {agentlink.NETNS: self._subject.namespace_fd(Namespace.NET)}
        lines = (key.encode() + (b"" if value is None else b"=" + value) for key, value in options)
        texts = {
            agentlink.PATH: at.path,
            agentlink.TYPE: fstype,
            agentlink.SOURCE: source,
            agentlink.OPTIONS: b"".join(b"%b\n" % line for line in lines),
        }
        self._attach(agentlink.MOUNT_NETWORK, fds, texts, mount_flags=flags, deadline_ms=NETWORK_DEADLINE_MS)

    def _attach(
        self,
        op: int,
        fds: dict[int, int],
        texts: Mapping[int, bytes],
        *,
        flags: int = 0,
        mount_flags: int = 0,
        numbers: tuple[int, int, int, int] = _NO_NUMBERS,
        deadline_ms: int = 0,
    ) -> None:
        self.attached = self._act(
            op, fds, texts, flags=flags, mount_flags=mount_flags, numbers=numbers, deadline_ms=deadline_ms
        ).value

    def mount_id(self, at: Anchor, *, follow: bool) -> int:
        return self._act(
            agentlink.MOUNT_ID, self._place(at), {agentlink.PATH: at.path}, flags=agentlink.FOLLOW if follow else 0
        ).value

    def detach(self, at: Anchor, mount_id: int, *, follow: bool) -> None:
        how, texts = agentlink.FOLLOW if follow else 0, {agentlink.PATH: at.path}
        mount = (mount_id, 0, 0, 0)
        unique = self._act(agentlink.MOUNT_ID, self._place(at), texts, flags=how | agentlink.UNIQUE, numbers=mount).value
        while True:
            try:
                self._act(agentlink.DETACH, self._place(at), texts, flags=how, numbers=(unique, 0, 0, 0))
            except InterruptedError:  # its agent was killed in it
                there = native.has_mount(self._subject.proc_fd, unique)
                if there is None:
                    raise
                if there:
                    continue
            return

    def read_file(self, fd: int, offset: int, size: int) -> bytes:
        with agentlink.Memory() as memory:
            fds = {agentlink.BASE: fd, agentlink.MEMORY: memory.fd}
            return memory.read(self._act(agentlink.READ, fds, {}, numbers=(offset, size, 0, 0)).value)

    def loop_status(self, device: int) -> LoopFlag | None:
        flags = self._loop(agentlink.LOOP_STATUS, device)
        return None if flags < 0 else _loop_flags(flags)

    def attach_loop(self, device: int, file: int, flags: LoopFlag) -> None:
        self._loop(agentlink.LOOP_ATTACH, device, flags, file)

    def change_loop(self, device: int, flags: LoopFlag) -> None:
        self._loop(agentlink.LOOP_ATTACH, device, flags)

    def detach_loop(self, device: int, *, only: LoopFlag) -> None:
        self._loop(agentlink.LOOP_DETACH, device, only)

    def _loop(self, op: int, device: int, flags: int = 0, file: int | None = None) -> int:
        fds = self._there()
        if file is not None:
            fds[agentlink.CONTEXT] = file
        number = sum(bit for flag, bit in _LOOP_FLAGS.items() if flag & flags)
        return self._act(op, fds, {agentlink.PATH: loops.path(device)}, numbers=(number, 0, 0, 0)).value

    def set_hostname(self, name: bytes) -> None:
        self._act(agentlink.SETHOSTNAME, self._uts(), {agentlink.DATA: name})

    def set_domainname(self, name: bytes) -> None:
        self._act(agentlink.SETDOMAINNAME, self._uts(), {agentlink.DATA: name})

    def make_node(self, at: Anchor, *, mode: int, device: int) -> None:
        subject = self._subject
        numbers = (mode, device, subject.umask, 0)
        self.attached = self._act(
            agentlink.MAKE_NODE, self._place(at), {agentlink.PATH: at.path}, numbers=numbers, ids=subject.filesystem_ids
        ).value

    def set_xattr(self, at: Anchor, name: bytes, value: bytes, *, flags: int, how: Way) -> None:
        with agentlink.Memory(value) as memory:
            self._xattr(agentlink.SET_XATTR, at, how, name, memory, (flags, len(value), 0, 0))

    def get_xattr(self, at: Anchor, name: bytes, *, how: Way) -> bytes:
        with agentlink.Memory() as memory:
            return memory.read(self._xattr(agentlink.GET_XATTR, at, how, name, memory))

    def list_xattr(self, at: Anchor, *, how: Way) -> bytes | None:
        with agentlink.Memory() as memory:
            size = self._xattr(agentlink.LIST_XATTR, at, how, None, memory)
            return memory.read(size) if size >= 0 else None

    def remove_xattr(self, at: Anchor, name: bytes, *, how: Way) -> None:
        self._xattr(agentlink.REMOVE_XATTR, at, how, name, None)

    def may_chown(self, at: Anchor, *, how: Way) -> bool:
        return bool(self._xattr(agentlink.MAY_CHOWN, at, how, None, None))

    def _xattr(
        self,
        op: int,
        at: Anchor,
        how: Way,
        name: bytes | None,
        memory: agentlink.Memory | None,
        numbers: tuple[int, int, int, int] = _NO_NUMBERS,
    ) -> int:
        fds, texts = self._place(at), {agentlink.PATH: at.path}
        if memory is not None:
            fds[agentlink.MEMORY] = memory.fd
        if name is not None:
            texts[agentlink.TYPE] = name
        return self._act(op, fds, texts, flags=_WAYS[how], numbers=numbers).value

    def _uts(self) -> dict[int, int]:
        return {agentlink.UTSNS: self._subject.namespace_fd(Namespace.UTS)}

    def _place(self, at: Anchor) -> dict[int, int]:
        """What a path needs: where it starts, in which tree, and for whom."""
        subject = self._subject
        if not at.path and at.fd is None:  # getname(): a path may be empty only where a descriptor is meant
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        fds = self._there()
        if at.fd is not None:
            fds[agentlink.BASE] = at.fd
        elif at.path[:1] != b"/":
            fds[agentlink.BASE] = subject.cwd_fd
        return fds

    def _there(self) -> dict[int, int]:
        """No agent has root's filesystem id, which would bring capabilities along: NothingToLend to a tracee that has."""
        subject = self._subject
        if not subject.fsuid:
            raise NothingToLend("it has root's filesystem id")
        return {
            agentlink.MNTNS: subject.namespace_fd(Namespace.MOUNT),
            agentlink.ROOT: subject.root_fd,
            agentlink.USERNS: subject.namespace_fd(Namespace.USER),
        }

    def _act(
        self,
        op: int,
        fds: dict[int, int],
        texts: Mapping[int, bytes],
        *,
        flags: int = 0,
        mount_flags: int = 0,
        numbers: tuple[int, int, int, int] = _NO_NUMBERS,
        ids: tuple[int, int] | None = None,
        deadline_ms: int = 0,
        hold: Callable[[Reply], None] | None = None,
    ) -> Reply:
        """`ids` are fsuid and fsgid where they will own something, and not only be asked for permission."""
        if self._earlier is not None and op not in _HARMLESS:
            return self._again(hold)
        subject = self._subject
        fsuid, fsgid = ids or (subject.fsuid, subject.fsgid)
        if subject.notification_id:
            fds[agentlink.NOTIFIER] = subject.notifier_fd
        request = Request(
            op=op,
            fds=fds,
            texts=texts,
            notification=subject.notification_id,
            flags=flags,
            mount_flags=mount_flags,
            unless_mount=self._unless,
            numbers=numbers,
            capabilities=subject.capabilities,
            fsuid=fsuid,
            fsgid=fsgid,
            groups=subject.groups,
            deadline_ms=deadline_ms,
        )
        if b"/fd/" in texts.get(agentlink.OPTIONS, b"") + texts.get(agentlink.VALUE, b""):
            self._foresee(request)
        while True:
            try:
                return self._pool.ask(request, self._on_slow, hold)
            except DescriptorWanted as wanted:
                self._supply(request, wanted.number)

    def _again(self, hold: Callable[[Reply], None] | None) -> Reply:
        """What was replied to an earlier supervisor, in place of asking."""
        assert self._earlier is not None  # noqa: S101 - who asks has seen it
        earlier, self._earlier = self._earlier, None
        if earlier.error:
            raise OSError(earlier.error, os.strerror(earlier.error))
        reply = Reply(0, agentlink.DONE, earlier.value, tuple(fd.take() for fd in earlier.given))
        if hold is not None:
            if not reply.given:
                raise InterruptedError(errno.EINTR, _NOBODY_KNOWS)
            hold(reply)
        return reply

    def _foresee(self, request: Request) -> None:
        """Takes what layers of an overlay name, so that the agent need not ask for one after the other."""
        text = request.texts.get(agentlink.OPTIONS, b"") + b" " + request.texts.get(agentlink.VALUE, b"")
        for number in sorted({int(digits) for digits in _LAYER_BY_DESCRIPTOR.findall(text)})[: agentlink.TAKEN_MAX]:
            with suppress(OSError):  # the agent finds out whether it is needed
                request.taken = {**request.taken, number: self._subject.take(number)}

    def _supply(self, request: Request, number: int) -> None:
        """What a path of the request leads through. OSError as procfs says it."""
        if number == agentlink.WANTED_CWD:
            request.fds = {**request.fds, agentlink.CWD: self._subject.cwd_fd}
            return
        if len(request.taken) == agentlink.TAKEN_MAX:
            raise OSError(errno.ELOOP, "too many descriptors in one call's paths")
        try:
            request.taken = {**request.taken, number: self._subject.take(number)}
        except OSError as error:
            raise OSError(errno.ENOENT, "no such descriptor") from error


_LAYER_BY_DESCRIPTOR = re.compile(rb"self/+fd/+([0-9]{1,9})")


def _number(fd: Fd | None) -> int:
    if fd is None:
        raise AgentError("a filesystem context without what its state says that it has")
    return fd.fileno()


_LOOP_FLAGS = {LoopFlag.READ_ONLY: agentlink.LOOP_READ_ONLY, LoopFlag.AUTOCLEAR: agentlink.LOOP_AUTOCLEAR}


def _loop_flags(bits: int) -> LoopFlag:
    return functools.reduce(operator.or_, (flag for flag, bit in _LOOP_FLAGS.items() if bits & bit), LoopFlag(0))


_WAYS = {Way.FOLLOW: agentlink.FOLLOW, Way.NOFOLLOW: 0, Way.DESCRIPTOR: agentlink.DESCRIPTOR}


def _given(source: bytes | None, options: bytes | None) -> dict[int, bytes]:
    texts = {}
    if source is not None:
        texts[agentlink.SOURCE] = source
    if options is not None:
        texts[agentlink.OPTIONS] = options
    return texts


def _instead(like: Sequence[bytes], leaves: Leaves) -> tuple[Sequence[bytes], Sequence[tuple[bytes, bytes]]]:
    """The covers (their first entry is the old mount point) without those in whose place a leaf comes, or that lie in one
    that is a directory, and these leaves.

    Where something lies over the old leaf, too, that is a mask of somebody's, and stays one.
    """
    masked = {path for path, times in Counter(like[1:]).items() if times > 1}
    rows = [row for row in leaves.files if row[0] not in masked]
    ours = {path for path, _ in rows}
    below = tuple(path + b"/" for path in ours)
    return [*like[:1], *(path for path in like[1:] if path not in ours and not path.startswith(below))], rows


def _escaped(path: bytes) -> bytes:
    """As mountinfo writes it, for the two characters that the list of covers cannot hold."""
    return path.replace(b"\\", b"\\134").replace(b"\n", b"\\012")
