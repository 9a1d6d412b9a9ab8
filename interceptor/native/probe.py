"""The experiments of probe.c, for `interceptor doctor`. They fork: call them from a single-threaded process only."""

from __future__ import annotations

import enum
import os
from typing import Any, NamedTuple

from interceptor.native import _native

FIRST_ID = 2_000_000_000
"""Host ids used by experiments: far from what systems give out; nothing keeps them when an experiment has ended."""
IDS = 65536

_ffi: Any = _native.ffi
_lib: Any = _native.lib


class Outcome(NamedTuple):
    """How one experiment ended."""

    error: int
    """0, or a positive errno; EPROTO where the kernel did something else than asked, ETIMEDOUT where nothing."""
    stage: str
    """What was being done when it failed."""

    @property
    def worked(self) -> bool:
        return self.error == 0

    def __str__(self) -> str:
        return "worked" if self.worked else f"{self.stage}: {os.strerror(self.error)}"


class Notify(enum.IntEnum):
    """Which part of seccomp user notification is tried (enum ic_notify_probe)."""

    ANSWER = _lib.IC_NOTIFY_ANSWER
    CONTINUE = _lib.IC_NOTIFY_CONTINUE
    ADDFD_SEND = _lib.IC_NOTIFY_ADDFD_SEND
    SYNC_WAKE_UP = _lib.IC_NOTIFY_SYNC_WAKE_UP
    WAIT_KILLABLE = _lib.IC_NOTIFY_WAIT_KILLABLE


def notify(what: Notify) -> Outcome:
    """A filter in a child, its notification received and answered."""
    return _run(_lib.ic_probe_notify, int(what))


def user_namespace() -> Outcome:
    """A user namespace with 65,536 ids, and a tmpfs mounted by its root."""
    return _run(_lib.ic_probe_user_namespace, FIRST_ID, IDS)


def time_namespace() -> Outcome:
    """A time namespace whose boot time starts now."""
    return _run(_lib.ic_probe_time_namespace)


def raise_limit() -> Outcome:
    """A hard limit, lowered and raised again (CAP_SYS_RESOURCE)."""
    return _run(_lib.ic_probe_raise_limit)


def idmapped_mount(directory: str) -> Outcome:
    """An id-mapped clone of `directory`: empty, owned by root, to be removed with its contents by the caller."""
    return _run(_lib.ic_probe_idmapped_mount, os.fsencode(directory), FIRST_ID, IDS)


def idmapped_overlay(directory: str) -> Outcome:
    """An overlay whose layers, the upper included, are id-mapped; `directory` as in `idmapped_mount`."""
    return _run(_lib.ic_probe_idmapped_overlay, os.fsencode(directory), FIRST_ID, IDS)


def unprivileged_overlay(directory: str) -> Outcome:
    """An overlay (userxattr) mounted inside a user namespace; `directory` as in `idmapped_mount`."""
    return _run(_lib.ic_probe_unprivileged_overlay, os.fsencode(directory), FIRST_ID, IDS)


def _run(experiment: Any, *arguments: Any) -> Outcome:
    result = _ffi.new("struct ic_probe *")
    experiment(result, *arguments)
    return Outcome(result.error, _ffi.string(result.stage).decode())
