"""The bind mounts of config.json, each as an id-mapped clone that the host attached: volumes have right owners inside.

Read-only, nosuid, nodev and noexec are set on the clone before any container sees it. The kernel locks them when the
mount namespace is copied for the less privileged user namespace, so the container's root cannot take them off again.
Source: OCI runtime-spec, config.md, "Mounts"; mount_namespaces(7), "Restrictions on mount namespaces".
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from interceptor.errors import ConfigError
from interceptor.native import mounts
from runtime import mountpoints
from runtime.idmapped import Clones, mount_point

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from interceptor.container import IdRange

_ATTRIBUTES = {
    "ro": mounts.MOUNT_ATTR_RDONLY,
    "nosuid": mounts.MOUNT_ATTR_NOSUID,
    "nodev": mounts.MOUNT_ATTR_NODEV,
    "noexec": mounts.MOUNT_ATTR_NOEXEC,
    "nosymfollow": mounts.MOUNT_ATTR_NOSYMFOLLOW,
}
_OPPOSITES = {"rw": "ro", "suid": "nosuid", "dev": "nodev", "exec": "noexec", "symfollow": "nosymfollow"}
_KEEP_PEERS = {"shared", "rshared", "slave", "rslave"}


def is_bind(mount: Mapping[str, Any]) -> bool:
    """Whether an entry of config.json's `mounts` is a bind mount: by its options, as runc and crun see it."""
    return mount.get("type") == "bind" or bool({"bind", "rbind"} & set(mount.get("options") or ()))


def attributes(options: Iterable[str]) -> int:
    """MOUNT_ATTR_* of mount options; a later option wins, as with mount(8)."""
    found = set[str]()
    for option in options:
        if option in _ATTRIBUTES:
            found.add(option)
        else:
            found.discard(_OPPOSITES.get(option, ""))
    return sum(_ATTRIBUTES[name] for name in found)


@dataclass(frozen=True, slots=True)
class Attached:
    """What became of config.json's bind mounts."""

    sources: Mapping[int, str]
    """Index in `mounts` → the new source."""
    inside: frozenset[int]
    """Indices of those that are attached in the root filesystem already: config.json needs them no more."""


@dataclass(frozen=True, slots=True)
class RootFilesystem:
    """The container's, and whose it is."""

    path: str
    ids: IdRange
    hidden: tuple[str, ...] = ()
    """Directories that the runtime will mount something over."""


def attach(
    entries: Sequence[Mapping[str, Any]],
    directory: str,
    clones: Clones,
    bundle: str,
    lock_in: RootFilesystem,
) -> Attached:
    """Attaches a clone of every bind source, in the root filesystem itself where nothing will cover it.

    There it is copied with the tree for the container's less privileged user namespace, and so locked: neither its
    attributes nor the mount itself can be taken away inside. What a runtime binds inside may be unmounted by who wins a
    race against our look at umount2(2)'s string; and crun opens sources before it makes the container's mount namespace,
    so that not even attributes are locked, and leaves submounts out. What lies below another mount is attached at
    `directory`/N, for the runtime to bind. A mount that asks for an id map of its own is left to the runtime altogether.
    """
    sources: dict[int, str] = {}
    inside = locked_in(entries, lock_in.hidden)
    for number, entry in enumerate(entries):
        if not _is_cloned(entry):
            continue
        what = f"config.json: mounts[{number}], the source of {entry.get('destination')}"
        source = os.path.join(bundle, entry.get("source") or "")
        if not os.path.exists(source):
            raise ConfigError(f"{what}: {source} does not exist; create it, or correct the mount")
        options = entry.get("options") or []
        keep_peers, wanted = bool(_KEEP_PEERS & set(options)), attributes(options)
        if number in inside:
            point = mountpoints.make(lock_in.path, entry["destination"], source, lock_in.ids)
        else:
            sources[number] = f"{directory}/{number}"
            point = mount_point(source, sources[number])
        with point:
            clones.bind(source, point, what, recursive="rbind" in options, attributes=wanted, keep_peers=keep_peers)
    return Attached(sources, inside)


def _is_dev(entry: Mapping[str, Any]) -> bool:
    """By a bind mount there a runtime knows that it is to make nothing in it: neither nodes nor links (runc
    libcontainer/rootfs_linux.go, needsSetupDev(); crun libcrun/linux.c, do_mounts()).
    """
    destination: str = entry["destination"]
    return os.path.normpath(destination) == "/dev"


def _is_cloned(entry: Mapping[str, Any]) -> bool:
    return is_bind(entry) and not entry.get("uidMappings") and "idmap" not in (entry.get("options") or ())


def locked_in(entries: Sequence[Mapping[str, Any]], hidden: Iterable[str]) -> frozenset[int]:
    """Indices of those that are attached in the root filesystem. What lies over, above or below something that the runtime
    mounts is the runtime's as well: mounts are made in their order. A mount point in another volume is better made by us:
    runc before 1.1.14 makes it by a path that it looked at before, and that who has the volume too leads elsewhere meanwhile
    (CVE-2024-45310).
    """
    paths = [os.path.normpath(entry["destination"]) for entry in entries]
    found = {
        number
        for number, entry in enumerate(entries)
        if _is_cloned(entry) and not _is_dev(entry) and not _KEEP_PEERS & set(entry.get("options") or ())
    }
    theirs = [*hidden, *(path for number, path in enumerate(paths) if number not in found)]
    while touched := {number for number in found if any(_overlap(paths[number], path) for path in theirs)}:
        found -= touched
        theirs = [paths[number] for number in touched]
    return frozenset(found)


def _overlap(one: str, other: str) -> bool:
    return _within(one, other) or _within(other, one)


def _within(inner: str, outer: str) -> bool:
    return inner == outer or inner.startswith(outer.rstrip("/") + "/")
