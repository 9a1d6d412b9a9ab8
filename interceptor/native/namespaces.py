"""Namespaces of the host's side: user namespaces without inhabitants, and a look into another mount namespace.

Source: user_namespaces(7), setns(2), unshare(2), ioctl_ns(2).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from interceptor.native._native import lib
from interceptor.native.fd import Fd

IdMap = Iterable[tuple[int, int, int]]
"""Rows (id inside, id outside, count) of user_namespaces(7)."""


def user_namespace(uid_map: IdMap, gid_map: IdMap) -> Fd:
    """A new user namespace that nobody lives in: what mount_setattr(MOUNT_ATTR_IDMAP) wants."""
    found = lib.ic_user_namespace(_lines(uid_map), _lines(gid_map))
    if found < 0:
        raise OSError(
            -found, f"user namespace with maps {_lines(uid_map)!r}, {_lines(gid_map)!r}: {os.strerror(-found)}"
        )
    return Fd(found)


def owner(namespace: int) -> Fd:
    """NS_GET_USERNS: the user namespace that owns `namespace`; EPERM when it is outside ours."""
    found = lib.ic_owning_user_namespace(namespace)
    if found < 0:
        raise OSError(-found, f"NS_GET_USERNS: {os.strerror(-found)}")
    return Fd(found)


@contextmanager
def in_mount_namespace(namespace: int) -> Iterator[None]:
    """Inside the block this thread's paths are those of another mount namespace; root and cwd are that namespace's
    root.

    Import nothing inside: modules would be read from there. A thread that is started inside stays there. The first
    use gives the thread its own root and cwd (CLONE_FS), so a thread that others rely on for its cwd must not use it.
    Asked for each time: a thread that this one has started since shares them again, and setns(2) then says EINVAL
    (where nobody shares, ksys_unshare() of kernel/fork.c has nothing to do).
    """
    _enter(lib.ic_unshare(lib.CLONE_FS), "unshare(CLONE_FS)")
    with Fd(os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)) as home:
        _enter(lib.ic_setns(namespace, lib.CLONE_NEWNS), "setns(CLONE_NEWNS)")
        try:
            yield
        finally:
            _enter(lib.ic_unshare(lib.CLONE_FS), "unshare(CLONE_FS)")  # of a thread that was started inside
            _enter(lib.ic_setns(home.fileno(), lib.CLONE_NEWNS), "setns(CLONE_NEWNS) back")


@contextmanager
def in_namespace(namespace: int, kind: str) -> Iterator[None]:
    """Inside the block this thread lives in another network ("network") or IPC ("ipc") namespace."""
    flag, name = {"network": (lib.CLONE_NEWNET, "net"), "ipc": (lib.CLONE_NEWIPC, "ipc")}[kind]
    with Fd(os.open(f"/proc/thread-self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)) as home:
        _enter(lib.ic_setns(namespace, flag), f"setns({kind})")
        try:
            yield
        finally:
            _enter(lib.ic_setns(home.fileno(), flag), f"setns({kind}) back")


def _enter(result: int, call: str) -> None:
    if result < 0:
        raise OSError(-result, f"{call}: {os.strerror(-result)}")


def _lines(rows: IdMap) -> bytes:
    return "".join(f"{inside} {outside} {count}\n" for inside, outside, count in rows).encode()
