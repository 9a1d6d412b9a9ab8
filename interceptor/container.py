"""What we know of one container: facts fixed when it was created.

Source: OCI runtime-spec, "State" and "config.json".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection


@dataclass(frozen=True, slots=True)
class IdRange:
    """The container's exclusive ids: host ids `first` … `first + size - 1`, mapped to 0 … `size - 1` inside."""

    first: int
    size: int

    def __contains__(self, host_id: object) -> bool:
        """Whether a host id (uid_t or gid_t) belongs to the container."""
        return isinstance(host_id, int) and self.first <= host_id < self.first + self.size


class DeviceNumber(NamedTuple):
    """Of a filesystem, as st_dev and mountinfo have it."""

    major: int
    minor: int


@dataclass(slots=True)
class Container:
    """One container known to the supervisor; the key is `id`, the OCI container id."""

    id: str
    ids: IdRange
    policy: str
    """Name of the policy that was chosen for it."""
    image: str | None = None
    name: str | None = None
    runtime: str = ""
    """Absolute path of the OCI runtime underneath (runc, crun)."""
    bundle: str = ""
    init_pid: int | None = None
    """Host pid of the container's init, once it is created."""
    mount_namespace: int | None = None
    """Inode of init's mount namespace (st_ino of /proc/PID/ns/mnt)."""
    user_namespace: int | None = None
    """Inode of init's user namespace, which owns that mount namespace."""
    filter: tuple[dict[str, Any], ...] | None = None
    """What its BPF filter does of ours: `stanza.rules` when it was created. None: not known."""
    pid_namespace: int | None = None
    """Inode of init's pid namespace."""
    immutable: Collection[int] = ()
    """STATX_MNT_ID of the mounts that existed when the container was created."""
    leaves: frozenset[DeviceNumber] = frozenset()
    """Filesystems of which files are mounted over those of its proc and sysfs."""
    wait_killable: bool = False
    """Its filter carries SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV."""
    created_ns: int = 0
    """CLOCK_REALTIME, ns."""
    annotations: dict[str, str] = field(default_factory=dict)
    cgroup: int = 0
    """Inode number of its own cgroup in v2's hierarchy, which nobody else has processes in; 0 where it has none."""
    devices: tuple[str, ...] = ()
    """Devices that its device cgroup lets it open, as ``c 10:229`` or ``b 8:*``; see `may_open`."""

    def may_open(self, kind: str, major: int, minor: int) -> bool:
        """Whether the device cgroup of its configuration allows reading or writing this device, by its major number."""
        return f"{kind} {major}:{minor}" in self.devices or f"{kind} {major}:*" in self.devices
