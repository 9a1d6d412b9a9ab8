"""What the new mount API keeps for one container between its calls: contexts, and mounts that are attached nowhere yet.

A context is a descriptor of the tracee's. Of what type it is the kernel tells nobody, so those that matter are opened by the
agent and a duplicate is kept, by which a descriptor of a later call is recognised. A detached mount lives as long as the
descriptor that fsmount(2) made, which cannot be injected (seccomp_unotify(2): no O_PATH); so it is kept, and let go when
the mount was attached. It is kept beyond our end, too; a context without a mount is not, and is one of the kernel's then.

A descriptor is closed when its last user is done: never while another thread has its number.

What a program leaves behind is let go when the thread that asked for it has ended, and the oldest when there are too
many. Threads: every method may be called on any.

Source: fsopen(2), fsmount(2); Linux fs/namespace.c dissolve_on_fput().
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from interceptor.errors import InterceptorError, NotificationGone
from interceptor.native import pin as native
from interceptor.native.fd import Fd
from interceptor.native.parcel import Parcel
from interceptor.policy import FilesystemDecision, Mount
from interceptor.ports import Context

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.ports import Keeper

KEPT = 64
"""Contexts and mounts of one container; the oldest beyond are let go."""
MOUNT = "mount"
"""The kind under which the keeper holds parcels with detached mounts, by container and STATX_MNT_ID."""
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
    """The same for the next supervisor."""
    since: float = 0.0


class Contexts:
    """All of one container."""

    def __init__(self, container_id: str = "", keeper: Keeper | None = None) -> None:
        """Mounts outlive us with `keeper`."""
        self._container_id, self._keeper = container_id, keeper
        self._lock = threading.Lock()
        self._kept: list[Kept] = []

    def add(self, kept: Kept) -> None:
        kept.since = time.monotonic()
        with self._lock:
            stay = [other for other in self._kept if not _outlived(other, kept.since)]
            self._stay([*stay, kept][-KEPT:])

    def hold(self, kept: Kept, mount: Fd, mount_id: int) -> None:
        """The mount that was made of it, which is detached."""
        kept.mount, kept.mount_id = mount, mount_id
        if self._keeper is None:
            return
        message = json.dumps([kept.context.fstype.decode(), kept.context.choice.rule, mount_id]).encode()
        kept.parcel = Parcel.of(message, [kept.own.fileno(), kept.asked.fileno(), mount.fileno()])
        self._keeper.keep(MOUNT, self._key(kept), kept.parcel.fileno())

    def adopt(self, parcel: Parcel) -> bool:
        """One that an earlier supervisor held. False: it had just let go of it."""
        message, fds = parcel.look()
        if not fds:
            return False
        fstype, rule, mount_id = json.loads(message)
        own, asked, mount = map(Fd, fds)
        context = Context(fstype.encode(), FilesystemDecision(Mount.EMULATE, rule), created=True, mounted=True, given=True)
        self.add(Kept(context, own, None, asked, mount, mount_id, parcel))
        return True

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

    def _stay(self, stay: list[Kept]) -> None:
        """The others are let go."""
        gone, self._kept = [kept for kept in self._kept if kept not in stay], stay
        for kept in gone:
            if kept.parcel is not None:
                kept.parcel.close()  # the keeper's duplicate is empty now, and may go when it likes
                if self._keeper is not None:
                    self._keeper.drop(MOUNT, self._key(kept))

    def _key(self, kept: Kept) -> str:
        return f"{self._container_id}/{kept.mount_id}"

    def __len__(self) -> int:
        return len(self._kept)


def inherit(keeper: Keeper, contexts_of: Callable[[str], Contexts | None]) -> None:
    """What an earlier supervisor left, for the containers that are known again."""
    for key, kept in keeper.inherited(MOUNT).items():
        parcel, contexts = Parcel.behind(kept.fd), contexts_of(key.rpartition("/")[0])
        if contexts is None or not contexts.adopt(parcel):
            keeper.drop(MOUNT, key)
            parcel.close()


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

    def _take(self, fd: int) -> int | None:
        """Nothing is looked at while nothing is kept."""
        if not self._contexts or fd < 0:
            return None
        try:
            return self._tracee.take(fd)
        except OSError:  # EBADF: the kernel says so itself
            return None
