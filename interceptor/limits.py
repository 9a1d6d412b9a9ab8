"""What a policy bounds by number, and what it lends by name: rates, ceilings, devices, servers. Values only.

Source: setrlimit(2), sched(7), ioprio_set(2), mknod(2); Linux Documentation/admin-guide/devices.txt; nfs(5), mount.cifs(8).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from interceptor.patterns import glob_test

if TYPE_CHECKING:
    from collections.abc import Mapping

RLIM_INFINITY = (1 << 64) - 1
"""RLIM64_INFINITY (linux/resource.h)."""


HOST_CEILINGS: Mapping[str, str] = {
    "fs.file-max": "/proc/sys/fs/file-max",
    "fs.nr_open": "/proc/sys/fs/nr_open",
    "net.core.rmem_max": "/proc/sys/net/core/rmem_max",
    "net.core.wmem_max": "/proc/sys/net/core/wmem_max",
    "net.netfilter.nf_conntrack_max": "/proc/sys/net/netfilter/nf_conntrack_max",
    "nf_conntrack.hashsize": "/sys/module/nf_conntrack/parameters/hashsize",
}
"""Ceilings of the whole machine that a policy may let containers raise: what policies call them → the host's file."""


@dataclass(frozen=True, slots=True)
class Ceilings:
    """How far a container's root may go in what the kernel reserves to the host's. What is not given here is the kernel's
    own answer; nothing is lent.
    """

    rlimits: Mapping[int, int] = field(default_factory=dict)
    """RLIMIT_* → rlim_t: what hard and soft limit may be raised to; RLIM_INFINITY is no bound."""
    nice: int | None = None
    """The lowest nice value (-20 … 19) that may be set."""
    realtime_priority: int = 0
    """The highest sched_priority (1 … 99) of SCHED_FIFO and SCHED_RR; 0: neither."""
    io_realtime: int | None = None
    """The strongest (lowest) level, 0 … 7, of IOPRIO_CLASS_RT."""
    sysctls: Mapping[str, int] = field(default_factory=dict)
    """A name of HOST_CEILINGS → how far the host's own value may be raised."""
    oom_score_adj: int | None = None
    """The lowest oom_score_adj (-999 … 1000) of a container whose memory is limited."""


@dataclass(frozen=True, slots=True)
class Device:
    """One device, or all of a major number."""

    kind: str
    """``c`` or ``b``."""
    major: int | None
    """None: any."""
    minor: int | None
    """None: any."""
    rule: str
    """``file:line`` that lists it."""

    def holds(self, kind: str, major: int, minor: int) -> bool:
        return self.kind == kind and self.major in (None, major) and self.minor in (None, minor)


@dataclass(frozen=True, slots=True)
class Devices:
    """Which device nodes a container may make, and have work."""

    listed: tuple[Device, ...] = ()
    cgroup: str = ""
    """``file:line`` that says: also those that the container's own device cgroup lets it make; empty: not those."""

    def rule(self, kind: str, major: int, minor: int) -> str:
        """``file:line`` that lists the device (`kind` is c or b); empty when none does. Of `cgroup` it knows nothing."""
        return next((device.rule for device in self.listed if device.holds(kind, major, minor)), "")

    def entry_with(self, kind: str, major: int, minor: int) -> str:
        """The entry of a policy that lists one more: a list takes the place of the one that it extends."""
        numbers = [(device.kind, device.major, device.minor) for device in self.listed] + [(kind, major, minor)]
        listed = [f'"{k} {"*" if a is None else a}:{"*" if i is None else i}"' for k, a, i in numbers]
        return f"limits: {{devices: [{', '.join(listed + ['cgroup'] * bool(self.cgroup))}]}}"


@dataclass(frozen=True, slots=True)
class Module:
    """Kernel modules of the host's."""

    names: str
    """A glob over the name, with underscores."""
    rule: str
    """``file:line`` that lists it."""

    def holds(self, name: str) -> bool:
        return glob_test(self.names)(name)


@dataclass(frozen=True, slots=True)
class Server:
    """Where a network filesystem may come from."""

    host: str
    """An address or network (``10.0.0.0/8``), or a glob over the name."""
    export: str
    """A glob over the exported path or the share."""
    rule: str
    """``file:line`` that lists it."""

    def holds(self, host: str, export: str) -> bool:
        """`host` as the mount names it (no brackets around IPv6). A path that climbs (``..``) matches nothing."""
        if ".." in export.replace("\\", "/").split("/") or not glob_test(self.export)(export):
            return False
        network, address = _network(self.host), _address(host)
        if network is not None:
            return address is not None and address in network
        return address is None and glob_test(self.host.lower())(host.lower().rstrip("."))


NETWORK_FILESYSTEMS: Mapping[str, str] = {"nfs": "nfs", "nfs4": "nfs", "cifs": "cifs", "smb3": "cifs"}
"""Filesystem type → the name under which a policy lists its servers."""


BLOCK_FILESYSTEMS = frozenset(
    {"btrfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs", "iso9660", "ntfs3", "squashfs", "udf", "vfat", "xfs"}
)
"""What a device can be lent as: types whose source is one block device."""


@dataclass(frozen=True, slots=True)
class LentDevice:
    """A block device of the host's, or an image, that a container may mount."""

    host: str
    """Its path outside."""
    fstype: str
    """One of BLOCK_FILESYSTEMS."""
    rule: str
    """``file:line`` that lends it."""
    read_only: bool = False
    options: tuple[str, ...] = ()
    """Of the filesystem, as mount(2) takes them; the container chooses none itself."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Per-container bounds."""

    parked: int = 64
    """Calls that may wait for slow actions at once."""
    agents: int = 4
    agent_deadline_ms: int = 5000
    notifications: int = 0
    """Intercepted calls a second, on average over a second; what comes faster waits. 0: as many as come."""
    ceilings: Ceilings = field(default_factory=Ceilings)
    loop_devices: int = 0
    """How many loop devices a container has that are files mounted over /dev/loopN."""
    devices: Devices = field(default_factory=Devices)
    modules: tuple[Module, ...] = ()
    """What the container may have the host load."""
    servers: Mapping[str, tuple[Server, ...]] = field(default_factory=dict)
    """By a name of NETWORK_FILESYSTEMS."""

    def module(self, name: str) -> Module | None:
        """The entry that allows loading the host's module `name`."""
        return next((module for module in self.modules if module.holds(name)), None)

    def server(self, fstype: str, host: str, export: str) -> Server | None:
        """The entry that allows mounting `export` of `host` as `fstype`."""
        listed = self.servers.get(NETWORK_FILESYSTEMS.get(fstype, ""), ())
        return next((server for server in listed if server.holds(host, export)), None)


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """None for what is no address and no network."""
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
