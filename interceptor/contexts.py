"""What the new mount API keeps for one container between its calls: contexts, and mounts that are attached nowhere yet.

A context is a descriptor of the tracee's. Of what type it is the kernel tells nobody, so those that matter are opened by the
agent and a duplicate is kept, by which a descriptor of a later call is recognised. A detached mount lives as long as the
descriptor that fsmount(2) made, which cannot be injected (seccomp_unotify(2): no O_PATH); so it is kept, and let go when
the mount was attached. All of that, and what is known of it, is kept beyond our end: in a parcel that is packed anew when
something changes.

A descriptor is closed when its last user is done: never while another thread has its number.

What a program leaves behind is let go when the thread that asked for it has ended, and the oldest when there are too
many. Threads: every method may be called on any.

Source: fsopen(2), fsmount(2); Linux fs/namespace.c dissolve_on_fput().
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, Self

from interceptor.errors import InterceptorError, NotificationGone
from interceptor.native import pin as native
from interceptor.native.fd import Fd
from interceptor.native.parcel import MESSAGE_MAX, Parcel
from interceptor.policy import FilesystemDecision, Mount
from interceptor.ports import Context

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.ports import Keeper

KEPT = 64
"""Contexts and mounts of one container; the oldest beyond are let go."""
CONTEXT = "context"
"""The kind under which the keeper holds parcels, by container and number."""
_STATE = ("created", "failed", "native", "refusal", "mounted", "given")
_numbers = itertools.count(time.monotonic_ns())
"""Those of an earlier supervisor do not come again, and are smaller."""
LINGER_S = 10.0
"""What a thread that ended left behind is kept so much longer: it may have given the descriptor to another process."""


@dataclass(slots=True, eq=False)
class Kept:
    """One context."""

    context: Context
    own: Fd
    """The tracee's, the same open file."""
    twin: Fd | None
    """Of the same type, with the host's rights; never the tracee's."""
    asked: Fd
    """/proc/TID of who opened it."""
    mount: Fd | None = None
    """What fsmount(2) made of it."""
    mount_id: int = 0
    parcel: Parcel | None = None
    """All that for the next supervisor."""
    number: int = field(default_factory=lambda: next(_numbers))
    since: float = 0.0

    def pack(self) -> Parcel | None:
        """None: what is to be said of it is too long."""
        context, choice = self.context, self.context.choice
        state = {name: getattr(context, name) for name in _STATE}
        twin, mount = self.twin, self.mount
        fds = [self.own, self.asked, *([twin] if twin else []), *([mount] if mount else [])]
        said = [context.fstype.decode(errors="surrogateescape"), choice.mount, choice.rule, choice.errno, state, self.mount_id]
        message = json.dumps([*said, twin is not None]).encode()
        return Parcel.of(message, [fd.fileno() for fd in fds]) if len(message) <= MESSAGE_MAX else None

    @classmethod
    def unpack(cls, parcel: Parcel, number: int) -> Self | None:
        """None: it was just let go of."""
        message, fds = parcel.look()
        if not fds:
            return None
        fstype, mount, rule, number_of_error, state, mount_id, has_twin = json.loads(message)
        own, asked, *more = map(Fd, fds)
        choice = FilesystemDecision(Mount(mount), rule, number_of_error)
        context = Context(fstype.encode(errors="surrogateescape"), choice, **state)
        twin = more.pop(0) if has_twin else None
        return cls(context, own, twin, asked, more[0] if more else None, mount_id, parcel, number)


class Contexts:
    """All of one container."""

    def __init__(self, container_id: str = "", keeper: Keeper | None = None) -> None:
        """What there is outlives us with `keeper`."""
        self._container_id, self._keeper = container_id, keeper
        self._lock = threading.Lock()
        self._kept: list[Kept] = []

    def add(self, kept: Kept) -> None:
        kept.since = time.monotonic()
        with self._lock:
            stay = [other for other in self._kept if not _outlived(other, kept.since)]
            self._stay([*stay, kept][-KEPT:])
            self._pack(kept)

    def hold(self, kept: Kept, mount: Fd, mount_id: int) -> None:
        """The mount that was made of it, which is detached."""
        kept.mount, kept.mount_id = mount, mount_id
        kept.context.mounted = True
        self.note(kept.context)

    def adopt(self, kept: Kept) -> None:
        """One that an earlier supervisor kept."""
        kept.since = time.monotonic()
        with self._lock:
            self._kept.append(kept)

    def note(self, context: Context) -> None:
        """What is known of it has changed."""
        with self._lock:
            for kept in self._kept:
                if kept.context is context:
                    self._pack(kept)

    def of(self, context: Context) -> Kept | None:
        with self._lock:
            return next((kept for kept in self._kept if kept.context is context), None)

    def behind(self, fd: int) -> Context | None:
        """The context that is open as `fd`, a descriptor of ours."""
        with self._lock:
            return next((kept.context for kept in self._kept if native.same_file(kept.own.fileno(), fd)), None)

    def with_mount(self, mount_id: int) -> Context | None:
        """The context whose detached mount has this STATX_MNT_ID."""
        with self._lock:
            return next((kept.context for kept in self._kept if mount_id and kept.mount_id == mount_id), None)

    def give(self, mount_id: int) -> None:
        """The detached mount with this STATX_MNT_ID, if it is one of ours, is the tracee's from now on."""
        context = self.with_mount(mount_id)
        if context is not None:
            context.given = True
            self.note(context)

    def drop(self, context: Context) -> None:
        """Idempotent."""
        with self._lock:
            self._stay([kept for kept in self._kept if kept.context is not context])

    def close(self) -> None:
        with self._lock:
            self._stay([])

    def drop_attached(self) -> None:
        """An earlier supervisor died in move_mount(2): what its agent has attached must not be busy."""
        with self._lock:
            self._stay([kept for kept in self._kept if not _attached(kept)])
        native.settle()

    def _pack(self, kept: Kept) -> None:
        """With the lock: into a new parcel, in the place of the one before."""
        if self._keeper is None:
            return
        before, kept.parcel = kept.parcel, kept.pack()
        if kept.parcel is not None:
            self._keeper.keep(CONTEXT, self._key(kept), kept.parcel.fileno())
        if before is not None:
            before.close()

    def _stay(self, stay: list[Kept]) -> None:
        """With the lock. The others are let go."""
        gone, self._kept = [kept for kept in self._kept if kept not in stay], stay
        for kept in gone:
            if kept.parcel is not None:
                kept.parcel.empty()  # the keeper's duplicate is empty now, and may go when it likes
                if self._keeper is not None:
                    self._keeper.drop(CONTEXT, self._key(kept))
                kept.parcel.close()

    def _key(self, kept: Kept) -> str:
        return f"{self._container_id}/{kept.number}"

    def __len__(self) -> int:
        return len(self._kept)


def inherit(keeper: Keeper, contexts_of: Callable[[str], Contexts | None]) -> None:
    """What an earlier supervisor left, for the containers that are known again."""
    left = keeper.inherited(CONTEXT)
    for key in sorted(left, key=_number):  # the oldest first
        parcel, contexts = Parcel.behind(left[key].fd), contexts_of(key.rpartition("/")[0])
        kept = Kept.unpack(parcel, _number(key)) if contexts is not None else None
        if contexts is not None and kept is not None:
            contexts.adopt(kept)
        else:
            parcel.empty()
            keeper.drop(CONTEXT, key)
            parcel.close()


def _number(key: str) -> int:
    return int(key.rpartition("/")[2])


def _outlived(kept: Kept, now: float) -> bool:
    return now - kept.since > LINGER_S and native.ended(kept.asked.fileno())


def _attached(kept: Kept) -> bool:
    """Whether who opened it sees the mount."""
    try:
        mounts = native.read(kept.asked.fileno(), "mountinfo")
    except (InterceptorError, NotificationGone, OSError):  # it has ended
        return False
    return kept.mount_id > 0 and any(line.startswith(b"%d " % kept.mount_id) for line in mounts.splitlines())


class Subject(Protocol):
    """The tracee, as far as it is needed here."""

    def take(self, fd: int) -> int:
        """A duplicate of its descriptor, which is not the caller's to close."""


class ContextsOf:
    """ports.Contexts for one call."""

    def __init__(self, contexts: Contexts, tracee: Subject) -> None:
        self._contexts = contexts
        self._tracee = tracee

    def find(self, fd: int) -> Context | None:
        own = self._take(fd)
        return None if own is None else self._contexts.behind(own)

    def find_mount(self, fd: int) -> Context | None:
        own = self._take(fd)
        return None if own is None else self._contexts.with_mount(native.mount_id(own))

    def note(self, context: Context) -> None:
        self._contexts.note(context)

    def _take(self, fd: int) -> int | None:
        """Nothing is looked at while nothing is kept."""
        if not self._contexts or fd < 0:
            return None
        try:
            return self._tracee.take(fd)
        except OSError:  # EBADF: the kernel says so itself
            return None
