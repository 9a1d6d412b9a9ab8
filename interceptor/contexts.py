"""What the new mount API keeps for one container between its calls: contexts, and mounts that are attached nowhere yet.

A context is a descriptor of the tracee's. Of what type it is the kernel tells nobody, so those that matter are opened by the
agent and a duplicate is kept, by which a descriptor of a later call is recognised. A detached mount lives as long as the
descriptor that fsmount(2) made, which cannot be injected (seccomp_unotify(2): no O_PATH); so it is kept, and let go when
the mount was attached.

A descriptor is closed when its last user is done: never while another thread has its number.

What a program leaves behind is let go when the thread that asked for it has ended, and the oldest when there are too
many. Threads: every method may be called on any.

Source: fsopen(2), fsmount(2); Linux fs/namespace.c dissolve_on_fput().
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from interceptor.native import pin as native

if TYPE_CHECKING:
    from interceptor.native.fd import Fd
    from interceptor.ports import Context

KEPT = 64
"""Contexts and mounts of one container; the oldest beyond are let go."""
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
    since: float = 0.0


class Contexts:
    """All of one container."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: list[Kept] = []

    def add(self, kept: Kept) -> None:
        kept.since = time.monotonic()
        with self._lock:
            stay = [other for other in self._kept if not _outlived(other, kept.since)]
            self._kept = [*stay, kept][-KEPT:]

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
            self._kept = [kept for kept in self._kept if kept.context is not context]

    def close(self) -> None:
        with self._lock:
            self._kept = []

    def __len__(self) -> int:
        return len(self._kept)


def _outlived(kept: Kept, now: float) -> bool:
    return now - kept.since > LINGER_S and native.ended(kept.asked.fileno())


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
