"""Namespaces that a container joins by path: whose they are decides what it may do in them.

A namespace belongs to the user namespace that made it. Where it belongs to another container of ours, both share
that container's user namespace and ids (a pod). Where it belongs to the host (CNI), what the container's root could
not mount is mounted for it.
Source: user_namespaces(7), "Interaction of user namespaces and other types of namespaces"; ioctl_ns(2).
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interceptor.errors import ConfigError
from interceptor.native import mounts, namespaces
from interceptor.native.fd import Fd
from runtime.refusals import HOST_NETWORK

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from interceptor.container import Container

_JOINED = ("network", "ipc", "uts", "pid")
_NATIVE_FILESYSTEM = {"sysfs": "network", "mqueue": "ipc"}
"""Filesystem → the namespace whose owner may mount it."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What the joined namespaces mean."""

    container: Container | None = None
    """The container of ours that owns them."""
    host_owned: Mapping[str, str] = field(default_factory=dict)
    """Kind → path of joined namespaces that belong to the host."""

    @property
    def user_namespace(self) -> str | None:
        """Path of the user namespace to join."""
        return f"/proc/{self.container.init_pid}/ns/user" if self.container else None


def look(entries: Iterable[Mapping[str, Any]], containers: Iterable[Container]) -> Shared:
    """Who owns the namespaces that config.json joins; opens their paths, so it runs in the caller's mount namespace."""
    entries = list(entries)
    host_ipc = {} if any(entry.get("type") == "ipc" for entry in entries) else {"ipc": "/proc/self/ns/ipc"}
    joined = {entry["type"]: entry["path"] for entry in entries if entry.get("path") and entry.get("type") in _JOINED}
    if not joined:
        return Shared(None, host_ipc)
    own = os.stat("/proc/self/ns/user").st_ino
    owners = {kind: _owner(kind, path) for kind, path in joined.items()}
    host = {kind: joined[kind] for kind, owner in owners.items() if owner in (own, None)}
    _refuse_host_network(host.get("network"))
    if "pid" in host:
        raise ConfigError(
            f"refused: --pid=host (config.json joins {joined['pid']}, a pid namespace of the host's): the "
            f"container's root could not mount proc in it; leave it out, or share the pid namespace of another "
            "container of this runtime"
        )
    others = {owner for owner in owners.values() if owner not in (own, None)}
    if not others:
        return Shared(None, host | host_ipc)
    if len(others) > 1 or host:
        raise ConfigError(
            f"config.json joins namespaces of different owners ({', '.join(sorted(joined))}): they must be of "
            "one container"
        )
    for container in containers:
        if container.init_pid and _inode(f"/proc/{container.init_pid}/ns/user") in others:
            return Shared(container)
    raise ConfigError(
        f"config.json joins {next(iter(joined.values()))}, which belongs to a user namespace of nobody that "
        f"this runtime knows; share namespaces with containers of this runtime only"
    )


def _refuse_host_network(path: str | None) -> None:
    """Docker joins a namespace file called `default` for --net=host, in whichever network namespace the engine is."""
    if path is None:
        return
    inode = os.stat(path).st_ino
    if path.endswith("/netns/default") or inode in {_inode("/proc/self/ns/net"), _inode("/proc/1/ns/net")}:
        raise ConfigError(f"refused: {HOST_NETWORK.format(how=f'config.json joins {path}')}")


def attach(entries: Iterable[Mapping[str, Any]], shared: Shared, directory: str) -> dict[int, str]:
    """Mounts what needs a host-owned namespace below `directory`; answers index in `entries` → new source."""
    found = {}
    for number, entry in enumerate(entries):
        kind = _NATIVE_FILESYSTEM.get(entry.get("type") or "")
        if kind is None or kind not in shared.host_owned:
            continue
        at = f"{directory}/{number}"
        os.mkdir(at, 0o755)
        with (
            Fd(os.open(shared.host_owned[kind], os.O_RDONLY | os.O_CLOEXEC)) as namespace,
            namespaces.in_namespace(namespace.fileno(), kind),
        ):
            attributes = mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV | mounts.MOUNT_ATTR_NOEXEC
            tree = mounts.fresh(entry["type"], attributes=attributes)
        with tree:
            mounts.move_mount(tree.fileno(), at)
        found[number] = at
    return found


def set_sysctls(values: Mapping[str, str], shared: Shared) -> frozenset[str]:
    """Sets net.* in a joined network namespace of the host's, where only the host may; answers which were set."""
    path = shared.host_owned.get("network")
    wanted = {key: value for key, value in values.items() if key.startswith("net.")}
    if path is None or not wanted:
        return frozenset()
    with Fd(os.open(path, os.O_RDONLY | os.O_CLOEXEC)) as fd, namespaces.in_namespace(fd.fileno(), "network"):
        for key, value in wanted.items():
            try:
                # sysctl(8): "/" stands for "." where a name has dots of its own, as eth0.7 has
                name = key if "/" in key else key.replace(".", "/")
                Path("/proc/sys", name).write_text(value)
            except OSError as error:
                raise ConfigError(f"config.json: linux.sysctl: {key} = {value!r}: {error.strerror}") from error
    return frozenset(wanted)


def _owner(kind: str, path: str) -> int | None:
    """Inode of the owning user namespace; None for one above ours."""
    try:
        namespace = Fd(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        raise ConfigError(f"config.json: linux.namespaces: {kind} namespace {path}: {error.strerror}") from error
    with namespace, suppress(PermissionError), namespaces.owner(namespace.fileno()) as owner:
        return os.fstat(owner.fileno()).st_ino
    return None


def _inode(path: str) -> int | None:
    try:
        return os.stat(path).st_ino
    except OSError:
        return None
