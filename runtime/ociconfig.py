"""From the engine's config.json to ours: a pure function of the configuration and of facts found on the host.

What a system container gets is said here and nowhere else. Source: OCI runtime-spec, config.md and config-linux.md.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runtime.binds import is_bind
from runtime.capabilities import grant
from runtime.devices import lend

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from interceptor.container import IdRange
    from interceptor.limits import Device
    from runtime.oomscore import OomScore

Config = dict[str, Any]

_ENGINE_APPARMOR = re.compile(
    r"docker-default|cri-containerd\.apparmor\.d|crio-default.*|containers-default-.*|nerdctl-default|buildkit-default"
)
"""AppArmor profiles that engines load for everybody: they deny mount(2), which a system container is made for.
Others are kept.
"""

_SYSTEMD_MOUNTS = (
    ("/run", ["nosuid", "nodev", "mode=755"]),
    ("/run/lock", ["nosuid", "nodev", "mode=1777"]),
    ("/tmp", ["nosuid", "nodev", "mode=1777"]),  # noqa: S108 - as systemd's own tmp.mount would
)
SYSTEMD_DIRECTORIES = tuple(destination for destination, _ in _SYSTEMD_MOUNTS)
_PING_GROUPS = "net.ipv4.ping_group_range"


@dataclass(frozen=True, slots=True)
class Facts:
    """What the rewriting needs to know besides the configuration."""

    ids: IdRange
    rootfs: str = ""
    """Where the id-mapped root filesystem is attached."""
    capabilities: str = "all"
    """Policy.capabilities: "all" or "engine"."""
    capability_names: Sequence[str] = ()
    """Every capability of this kernel."""
    sources: Mapping[int, str] = field(default_factory=dict)
    """Index in `mounts` → the id-mapped clone that replaces its source."""
    inside: frozenset[int] = frozenset()
    """Indices in `mounts` of what is attached in the root filesystem already."""
    devices: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    """Index in `linux.devices` → the bind mount that takes its place."""
    lent: Sequence[Device] = ()
    """What policy lets the container make device nodes of."""
    mounts: Sequence[Mapping[str, Any]] = ()
    """Further bind mounts: the data directories."""
    sysctls: frozenset[str] = frozenset()
    """Keys of linux.sysctl that are set already."""
    seccomp: Mapping[str, Any] | None = None
    systemd: bool = False
    hard_limits: Mapping[str, int] | None = None
    """RLIMIT_* → hard limit that cannot be exceeded; None when we may raise limits (CAP_SYS_RESOURCE)."""
    oom_score_floor: int | None = None
    """oom_score_adj below which we cannot go; None when we may lower it."""
    oom_score: OomScore | None = None
    """What is lent instead of the oom_score_adj that a configuration gives."""
    user_namespace: str | None = None
    """Path of the user namespace to join, for a container that shares other namespaces with one of ours."""


def rewrite(config: Config, facts: Facts) -> Config:
    """A new configuration; `config` is left alone."""
    process, linux = dict(config.get("process") or {}), dict(config.get("linux") or {})
    _process(process, facts)
    _linux(linux, facts)
    return {
        **config,
        "root": {**(config.get("root") or {}), "path": facts.rootfs},
        "process": process,
        "linux": linux,
        "mounts": _mounts(config.get("mounts") or [], facts),
    }


def rewrite_process(process: Config, facts: Facts) -> Config:
    """The same for the file that `exec --process` names."""
    process = dict(process)
    _process(process, facts)
    return process


def is_systemd(arguments: Sequence[str], resolved: str | None) -> bool:
    """Whether a container's first program is an init that expects a machine.

    `resolved` is what `arguments[0]` is a symbolic link to in the image. A bare ``/init`` is other people's
    (s6-overlay).
    """
    if not arguments:
        return False
    return arguments[0].endswith(("/sbin/init", "/systemd")) or (resolved or "").endswith("/systemd")


def _process(process: Config, facts: Facts) -> None:
    if facts.capabilities == "all":
        user = process.get("user") or {}
        process["capabilities"] = grant(
            process.get("capabilities") or {}, facts.capability_names, uid=user.get("uid", 0)
        )
        process.pop("noNewPrivileges", None)
    if _ENGINE_APPARMOR.fullmatch(process.get("apparmorProfile") or ""):
        del process["apparmorProfile"]
    if facts.hard_limits is not None and process.get("rlimits"):
        process["rlimits"] = [_clamp(limit, facts.hard_limits) for limit in process["rlimits"]]
    score = process.get("oomScoreAdj")
    if facts.oom_score is not None:
        process.pop("oomScoreAdj", None)
    elif score is not None and facts.oom_score_floor is not None:
        process["oomScoreAdj"] = max(score, facts.oom_score_floor)
    if facts.systemd:
        environment = list(process.get("env") or [])
        if not any(entry.startswith("container=") for entry in environment):
            process["env"] = [*environment, "container=docker"]


def _clamp(limit: Mapping[str, Any], hard: Mapping[str, int]) -> Config:
    most = hard.get(limit["type"])
    if most is None:
        return dict(limit)
    return {**limit, "hard": min(limit["hard"], most), "soft": min(limit["soft"], most)}


def _linux(linux: Config, facts: Facts) -> None:
    linux["namespaces"] = _namespaces(linux.get("namespaces") or [], facts)
    row = {"containerID": 0, "hostID": facts.ids.first, "size": facts.ids.size}
    linux["uidMappings"], linux["gidMappings"] = [row], [dict(row)]
    linux.pop("maskedPaths", None)
    linux.pop("readonlyPaths", None)
    if facts.seccomp is None:
        linux.pop("seccomp", None)
    else:
        linux["seccomp"] = facts.seccomp
    if facts.devices:
        linux["devices"] = [entry for number, entry in enumerate(linux["devices"]) if number not in facts.devices]
    if linux.get("sysctl"):
        linux["sysctl"] = _sysctls(linux["sysctl"], facts)
    linux["resources"] = _resources(linux.get("resources") or {}, facts)


def _namespaces(entries: Iterable[Mapping[str, Any]], facts: Facts) -> list[Config]:
    """User and cgroup namespaces of its own. The time namespace is made before the runtime starts, which may not
    know one.
    """
    kept = [dict(entry) for entry in entries if entry.get("type") not in ("user", "cgroup")]
    user = {"type": "user", "path": facts.user_namespace} if facts.user_namespace else {"type": "user"}
    return [*kept, user, {"type": "cgroup"}]


def _sysctls(values: Mapping[str, str], facts: Facts) -> dict[str, str]:
    """`net.ipv4.ping_group_range` may name only groups that are mapped: Linux net/ipv4/sysctl_net_ipv4.c, EINVAL
    else.
    """
    corrected = {key: value for key, value in values.items() if key not in facts.sysctls}
    size = facts.ids.size
    if _PING_GROUPS in corrected:
        low, high = ([*corrected[_PING_GROUPS].split(), "0", "0"])[:2]
        corrected[_PING_GROUPS] = f"{min(int(low), size - 1)} {min(int(high), size - 1)}"
    return corrected


_NO_DEVICE = {"allow": False, "access": "rwm"}


def _resources(resources: Mapping[str, Any], facts: Facts) -> Config:
    """Without a blockIO that says nothing: engines always write one, and runtimes fail where the controller is
    missing. With every device forbidden before the engine's rules: who writes none would otherwise leave the container
    with all (runtime-spec, config-linux.md, "Allowed Device list"), and an image may bring nodes of disks along.
    """
    rules = resources.get("devices") or []
    found = {**resources, "devices": rules if rules[:1] == [_NO_DEVICE] else [_NO_DEVICE, *rules]}
    if "blockIO" in found and not any((found["blockIO"] or {}).values()):
        del found["blockIO"]
    found["devices"] = lend(found["devices"], facts.lent)
    return found


def _mounts(entries: Sequence[Mapping[str, Any]], facts: Facts) -> list[Config]:
    kept = ((number, entry) for number, entry in enumerate(entries) if number not in facts.inside)
    found = [_mount(entry, facts.sources.get(number)) for number, entry in kept]
    if facts.systemd:
        taken = {os.path.normpath(entry["destination"]) for entry in entries}
        for destination, options in _SYSTEMD_MOUNTS:
            if destination not in taken:
                mount = {"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": list(options)}
                found.insert(_before_what_lies_below(found, destination), mount)
    return found + [dict(entry) for entry in (*facts.devices.values(), *facts.mounts)]


def _before_what_lies_below(mounts: Sequence[Mapping[str, Any]], destination: str) -> int:
    """Where a mount must stand so that it hides none of the others."""
    for number, mount in enumerate(mounts):
        if os.path.normpath(mount["destination"]).startswith(destination + "/"):
            return number
    return len(mounts)


def _mount(entry: Mapping[str, Any], source: str | None) -> Config:
    mount = dict(entry)
    if source is not None and is_bind(mount):
        mount["source"] = source
    elif source is not None:  # a filesystem that only the owner of a joined namespace may mount
        return {"destination": mount["destination"], "type": "bind", "source": source, "options": ["bind", "rw"]}
    elif not is_bind(mount) and mount.get("type") in ("sysfs", "cgroup", "cgroup2"):
        mount["options"] = [option for option in mount.get("options") or [] if option != "ro"] + ["rw"]
    return mount
