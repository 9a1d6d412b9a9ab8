"""The link to one agent: the executable in its sealed memfd, starting it, one request and its reply.

Requests are packed here, once, in the layout of agent_wire.h; who asks for what is `agent_pool`'s business.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import itertools
import os
import select
import signal
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from interceptor.errors import AgentEndedError, AgentError
from interceptor.native._native import ffi as _ffi
from interceptor.native._native import lib as _lib

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from interceptor.ports import Keeper

PATIENCE_MS = 5
"""What an ordinary action takes at most; who needs longer is slow (Link.call)."""

TEXT_MAX: int = _lib.AGENT_TEXT_MAX
GROUPS_MAX: int = _lib.AGENT_GROUPS_MAX
FOLLOW: int = _lib.AGENT_FOLLOW
LOCK_COVERS: int = _lib.AGENT_LOCK_COVERS
TWIN: int = _lib.AGENT_TWIN
OURS: int = _lib.AGENT_OURS
DESCRIPTOR: int = _lib.AGENT_DESCRIPTOR
AT_HOME: int = _lib.AGENT_AT_HOME
NO_ID: int = _lib.AGENT_NO_ID
UNIQUE: int = _lib.AGENT_UNIQUE
LOOP_READ_ONLY: int = _lib.AGENT_LOOP_READ_ONLY
LOOP_AUTOCLEAR: int = _lib.AGENT_LOOP_AUTOCLEAR

PING: int = _lib.AGENT_PING
MOUNT: int = _lib.AGENT_MOUNT
STAND_IN: int = _lib.AGENT_STAND_IN
OVERLAY: int = _lib.AGENT_OVERLAY
MOUNT_ID: int = _lib.AGENT_MOUNT_ID
SETHOSTNAME: int = _lib.AGENT_SETHOSTNAME
SETDOMAINNAME: int = _lib.AGENT_SETDOMAINNAME
HOME: int = _lib.AGENT_HOME
MAKE_NODE: int = _lib.AGENT_MAKE_NODE
FSOPEN: int = _lib.AGENT_FSOPEN
OVERLAY_OPTION: int = _lib.AGENT_OVERLAY_OPTION
OVERLAY_CREATE: int = _lib.AGENT_OVERLAY_CREATE
FSMOUNT: int = _lib.AGENT_FSMOUNT
OPEN_ROOT: int = _lib.AGENT_OPEN_ROOT
MOVE_MOUNT: int = _lib.AGENT_MOVE_MOUNT
SET_XATTR: int = _lib.AGENT_SET_XATTR
GET_XATTR: int = _lib.AGENT_GET_XATTR
LIST_XATTR: int = _lib.AGENT_LIST_XATTR
REMOVE_XATTR: int = _lib.AGENT_REMOVE_XATTR
MAY_CHOWN: int = _lib.AGENT_MAY_CHOWN
DETACH: int = _lib.AGENT_DETACH
READ: int = _lib.AGENT_READ
LOOP_ATTACH: int = _lib.AGENT_LOOP_ATTACH
LOOP_DETACH: int = _lib.AGENT_LOOP_DETACH
LOOP_STATUS: int = _lib.AGENT_LOOP_STATUS
MOUNT_DEVICE: int = _lib.AGENT_MOUNT_DEVICE
MOUNT_NETWORK: int = _lib.AGENT_MOUNT_NETWORK

NOTIFIER: int = _lib.AGENT_FD_NOTIFIER
MNTNS: int = _lib.AGENT_FD_MNTNS
ROOT: int = _lib.AGENT_FD_ROOT
BASE: int = _lib.AGENT_FD_BASE
CWD: int = _lib.AGENT_FD_CWD
USERNS: int = _lib.AGENT_FD_USERNS
PIDNS: int = _lib.AGENT_FD_PIDNS
NETNS: int = _lib.AGENT_FD_NETNS
UTSNS: int = _lib.AGENT_FD_UTSNS
CONTEXT: int = _lib.AGENT_FD_CONTEXT
MEMORY: int = _lib.AGENT_FD_MEMORY
LEAVES: int = _lib.AGENT_FD_LEAVES
LEAVES_NS: int = _lib.AGENT_FD_LEAVES_NS

PATH: int = _lib.AGENT_TEXT_PATH
TYPE: int = _lib.AGENT_TEXT_TYPE
SOURCE: int = _lib.AGENT_TEXT_SOURCE
OPTIONS: int = _lib.AGENT_TEXT_OPTIONS
COVERS: int = _lib.AGENT_TEXT_COVERS
DATA: int = _lib.AGENT_TEXT_DATA
KEY: int = _lib.AGENT_TEXT_KEY
VALUE: int = _lib.AGENT_TEXT_VALUE
TAKEN: int = _lib.AGENT_TEXT_TAKEN
TAKEN_MAX: int = _lib.AGENT_TAKEN_MAX
LEAF_NAMES: int = _lib.AGENT_TEXT_LEAVES

DONE: int = _lib.AGENT_DONE
GONE: int = _lib.AGENT_GONE
MALFORMED: int = _lib.AGENT_MALFORMED
WANTS: int = _lib.AGENT_WANTS
WANTED_CWD: int = _lib.AGENT_WANTED_CWD

_VERSION: int = _lib.AGENT_WIRE_VERSION
_HEADER = struct.Struct(f"=2I2Q4I7Q8I{GROUPS_MAX}I")
_NO_GROUPS = (0,) * GROUPS_MAX
_GIVES = {FSOPEN: 2, FSMOUNT: 1, OPEN_ROOT: 1}
"""How many descriptors the reply to a request brings at most; those of no other bring any."""

STAYS = frozenset({FSMOUNT})
"""Actions whose reply stays in the socket until it is settled: what it brings cannot be made again."""

AGENT = "agent"
"""The kind under which the keeper holds agents' sockets, by pid."""

_cookies = itertools.count(time.monotonic_ns())
"""Those of an earlier supervisor do not come again."""


@dataclass(slots=True)
class Request:
    """`struct agent_request` without what packing finds out by itself. Ids are the host's, mount_flags are MS_*.

    Not frozen: one is made for each action, and a frozen one takes three times as long.
    """

    op: int
    fds: Mapping[int, int]
    """Role (MNTNS, ROOT, …) → descriptor of ours; it stays ours."""
    texts: Mapping[int, bytes]
    """Kind (PATH, TYPE, …) → text without its NUL."""
    taken: Mapping[int, int] = field(default_factory=dict)
    """Number of a descriptor of the tracee's → its duplicate of ours."""
    notification: int = 0
    flags: int = 0
    mount_flags: int = 0
    unless_mount: int = 0
    numbers: tuple[int, int, int, int] = (0, 0, 0, 0)
    """What the action takes besides."""
    capabilities: int = 0
    fsuid: int = 0
    fsgid: int = 0
    groups: tuple[int, ...] = ()
    root_uid: int = 0
    root_gid: int = 0
    id_count: int = 0
    deadline_ms: int = 0


class Reply(NamedTuple):
    """`struct agent_reply`: `error` is 0 or an errno, `outcome` DONE, GONE or MALFORMED."""

    error: int
    outcome: int
    value: int
    given: tuple[int, ...] = ()
    """Descriptors that came along; the caller's to close."""


def pack(request: Request, cookie: int) -> tuple[bytes, list[int]]:
    """The message and the descriptors that go with it, both in the order of agent_wire.h.

    OSError(ENAMETOOLONG) for texts beyond AGENT_TEXT_MAX, OSError(EINVAL) for a NUL where none may be.
    """
    given = sorted(request.fds.items())
    fds, roles = [fd for _, fd in given], 0
    for role, _ in given:
        roles |= 1 << role
    given_texts = request.texts
    if request.taken:
        fds += request.taken.values()
        given_texts = {**given_texts, TAKEN: b"".join(b"%d " % number for number in request.taken)}
    texts, kinds = b"", 0
    for kind, text in sorted(given_texts.items()):
        if kind != DATA and b"\0" in text:
            raise OSError(errno.EINVAL, f"a NUL in text {kind} of a request to the agent")
        texts += text + b"\0"
        kinds |= 1 << kind
    if len(texts) > TEXT_MAX:
        raise OSError(errno.ENAMETOOLONG, f"{len(texts)} bytes of text; a request to the agent carries {TEXT_MAX}")
    groups = request.groups[:GROUPS_MAX]
    header = _HEADER.pack(
        _VERSION, request.op, cookie, request.notification, request.flags, roles, kinds, len(texts),
        request.mount_flags, request.unless_mount, *request.numbers, request.capabilities, request.fsuid, request.fsgid,
        request.root_uid, request.root_gid,
        request.id_count, request.deadline_ms, len(request.texts.get(DATA, b"")), len(groups),
        *groups, *_NO_GROUPS[len(groups):],
    )
    return header + texts, fds


@functools.cache
def executable() -> int:
    """Descriptor of the agent's executable: a copy in a sealed memfd, which nobody can write to or replace."""
    content = resources.files("interceptor.native").joinpath("agent").read_bytes()
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create("agent", flags | 0x10)  # MFD_EXEC: without it, vm.memfd_noexec decides
    except OSError as error:
        if error.errno != errno.EINVAL:  # Linux before 6.3 does not know it
            raise
        fd = os.memfd_create("agent", flags)
    with os.fdopen(os.dup(fd), "wb") as copy:
        copy.write(content)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
    return fd


class Memory:
    """A memfd that goes along with one request, for what is larger than a message."""

    def __init__(self, content: bytes = b"") -> None:
        self.fd = os.memfd_create("request", os.MFD_CLOEXEC)
        if content:
            os.pwrite(self.fd, content, 0)

    def read(self, size: int) -> bytes:
        """What the agent wrote; it says how much."""
        return os.pread(self.fd, size, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        os.close(self.fd)


@functools.cache
def _null() -> int:
    return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)


class Link:
    """One running agent and its socket. One request at a time; whoever calls has it for itself."""

    def __init__(self, keeper: Keeper | None = None) -> None:
        """Starts the agent; AgentError when that fails. Its replies outlive us with `keeper`."""
        started = _ffi.new("struct ic_agent *")
        result = _lib.ic_agent_spawn(executable(), _null(), PATIENCE_MS * 1000, started)
        if result < 0:
            raise AgentError(f"the agent does not start: {os.strerror(-result)}")
        self.pid: int = started.pid
        self._pidfd: int = started.pidfd
        self._socket: int = started.socket
        self.c = started
        self._reply = _ffi.new("struct agent_reply *")
        self._cookie = 0
        self._gives = 0
        self._stays = False
        self.at_home = False
        """It knows the container's own namespaces (AGENT_HOME)."""
        self._ending = threading.Lock()
        self._keeper = keeper
        if keeper is not None:
            keeper.keep(AGENT, str(self.pid), self._socket)

    def adopt(self, cookie: int) -> None:
        """Somebody else has sent a request with that cookie: `wait` is for its reply."""
        self._cookie, self._gives, self._stays = cookie, 0, False

    def call(self, request: Request) -> Reply | None:
        """The reply; None when there is none yet after PATIENCE_MS: go on with `wait`.

        BrokenPipeError when the agent ended before it took the request, AgentError when it ended or talked nonsense
        afterwards.
        """
        self._cookie, self._gives, self._stays = next(_cookies), _GIVES.get(request.op, 0), request.op in STAYS
        message, fds = pack(request, self._cookie)
        return self._taken(_lib.ic_agent_call(self.c, message, len(message), fds, len(fds), self._reply))

    def wait(self, timeout_ms: int) -> Reply | None:
        """Goes on waiting for the reply of the last `call`."""
        return self._taken(_lib.ic_agent_wait(self._socket, self._cookie, self._reply, timeout_ms, self._stays))

    def settle(self) -> None:
        """What the reply to a request of STAYS brought is safe: no other request before."""
        _lib.ic_agent_settle(self._socket)

    def _taken(self, result: int) -> Reply | None:
        if result > 0:
            reply = self._reply
            if reply.given[0] < 0:
                return Reply(reply.error, reply.outcome, reply.value)
            return Reply(reply.error, reply.outcome, reply.value, self._given(reply))
        if result == 0:
            return None
        if result == -errno.EPIPE:
            raise BrokenPipeError(errno.EPIPE, f"agent {self.pid} has ended")
        if result == -errno.ECONNRESET:
            raise AgentEndedError(f"agent {self.pid} ended before it replied")
        raise AgentError(f"agent {self.pid}: {os.strerror(-result)} instead of a reply")

    def _given(self, reply: Any) -> tuple[int, ...]:
        """The descriptors of a reply, when the request was for such; otherwise they are closed, and it is nonsense."""
        given = tuple(fd for fd in reply.given if fd >= 0)
        if reply.error or reply.outcome != DONE or len(given) > self._gives:
            _lib.ic_agent_drop_given(reply)
            raise AgentError(f"agent {self.pid} gave {len(given)} descriptors that nobody asked for")
        return given

    def noted(self) -> int | None:
        """Of an agent that ended before it replied: None when it had not begun to change anything; else the number of the
        mount that it was about to attach, 0 where there is none.
        """
        note = self.c.note
        return int(note.made) if note != _ffi.NULL and note.cookie == self._cookie else None

    def kill(self) -> None:
        """SIGKILL. It may take effect late (a task in state D), and has none on an agent that has ended."""
        with self._ending, contextlib.suppress(ProcessLookupError):
            if self._pidfd >= 0:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def reap(self, timeout_ms: int) -> bool:
        """Whether it has ended; then it is waited for and everything of it is closed. May be asked again."""
        with self._ending:
            if self._pidfd >= 0 and _readable(self._pidfd, timeout_ms):
                with contextlib.suppress(ChildProcessError):  # somebody who waits for any child was faster
                    os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
                os.close(self._pidfd)
                self._pidfd = -1
        if self._pidfd < 0:
            self.hang_up()
            _lib.ic_agent_bury(self.c)
        return self._pidfd < 0

    def hang_up(self) -> None:
        """Closes the socket: an idle agent then ends by itself. Only for whom the agent belongs to; idempotent."""
        if self._socket >= 0:
            if self._keeper is not None:
                self._keeper.drop(AGENT, str(self.pid))
            os.close(self._socket)
            self._socket = self.c.socket = -1


def overtaken(agent: int, cookie: int, reply: Any, patience: float, *, stay: bool = False) -> bool:
    """Waits `patience` seconds for the reply to the request that an earlier supervisor may have sent, and writes it to `reply`;
    with `stay` it stays in the socket. True: it was not sent. An agent answers one request after the other, and has answered
    one of ours that came later.
    """
    ping, until = next(_cookies), time.monotonic() + patience
    with contextlib.suppress(ConnectionError):  # it has ended, and may have replied before
        os.write(agent, pack(Request(PING, {}, {}), ping)[0])
    result = -errno.EPROTO
    while result == -errno.EPROTO and reply.cookie != ping:  # somebody else's, who died in this
        result = _lib.ic_agent_wait(agent, cookie, reply, max(0, int((until - time.monotonic()) * 1000)), stay)
        if stay and result == -errno.EPROTO:
            _lib.ic_agent_settle(agent)
    return bool(reply.cookie == ping)


def dismiss(agents: Iterable[int], patience: float) -> None:
    """Has agents of an earlier supervisor end, by their sockets, and waits `patience` seconds for that: they hold what they
    were asked about last, and replies hold what they bring.
    """
    until = time.monotonic() + patience
    left = set(agents)
    for fd in left:
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as agent:  # it has ended
            agent.shutdown(socket.SHUT_WR)
    waiting = select.poll()
    for fd in left:
        waiting.register(fd, select.POLLIN)
    while left:
        ready = waiting.poll(max(0, (until - time.monotonic()) * 1000))
        if not ready:
            return
        for fd, _ in ready:
            if _drained(fd):
                waiting.unregister(fd)
                left.discard(fd)


def _drained(fd: int) -> bool:
    """Whether its end is read. What comes before is thrown away, the descriptors too: read(2) takes none."""
    try:
        return not os.read(fd, 1)
    except OSError:
        return True


class Slot:
    """A place where one idle link lies for whoever comes first: the pool, or a session in C (shortcut.h)."""

    def __init__(self) -> None:
        self.c = _ffi.new("struct ic_slot *")
        self.link: Link | None = None
        """Whose place it is, also while C has it. The pool's to change, under its lock."""

    def offer(self, link: Link) -> None:
        """Lays `link` down; nothing may lie here."""
        self.link = link
        _lib.ic_slot_put(self.c, link.c)

    def take(self) -> Link | None:
        """The link, now the caller's; None while C has it, or nothing is here."""
        return self.forget() if _lib.ic_slot_take(self.c) else None

    def forget(self) -> Link | None:
        """C has given it over."""
        link, self.link = self.link, None
        return link

    def want(self, *, wanted: bool) -> None:
        """Whether C is to say when it puts the link back."""
        _lib.ic_slot_want(self.c, wanted)


def _readable(fd: int, timeout_ms: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout_ms))
