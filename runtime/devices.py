"""Devices: nodes whose name inside is another than on the host, and what the device cgroup lets a container open.

In a user namespace nobody makes device nodes, so runtimes bind the host's node of the *inner* name (`--device
/dev/sda:/dev/disk`). Where that is another device, or none, the bind mount is written out with the host's own name, which
the kernel tells.

Source: OCI runtime-spec config-linux.md, "Allowed Device list"; runc libcontainer/rootfs_linux.go,
bindMountDeviceNode(); Linux Documentation/ABI, /sys/dev/char/MAJOR:MINOR.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interceptor.errors import ConfigError
from runtime import nodes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from interceptor.limits import Device

_KINDS = {"c": ("char", stat.S_ISCHR), "u": ("char", stat.S_ISCHR), "b": ("block", stat.S_ISBLK)}


def renamed(entries: Sequence[Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    """Index in linux.devices → the bind mount that takes its place. ConfigError for a device that has no node in
    /dev.
    """
    return {
        number: {
            "destination": entry["path"],
            "type": "bind",
            "source": _node(entry),
            "options": ["bind", "rw", "nosuid"],
        }
        for number, entry in enumerate(entries)
        if entry.get("type") in _KINDS and not _is(entry, entry["path"])
    }


def binds(lent: Mapping[str, int], config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Bind mounts for `nodes.lent`; what the engine has there stays."""
    taken = {entry.get("destination") for entry in config.get("mounts") or []}
    taken |= {entry.get("path") for entry in config["linux"].get("devices") or []}
    sources = {name: "/dev/fuse" if device == nodes.FUSE else "/dev/null" for name, device in lent.items()}
    return [
        {"destination": f"/dev/{name}", "type": "bind", "source": source, "options": ["bind", "rw", "nosuid", "noexec"]}
        for name, source in sources.items()
        if f"/dev/{name}" not in taken and os.path.exists(source)
    ]


def openable(rules: Iterable[Mapping[str, Any]]) -> list[str]:
    """Container.devices: which devices linux.resources.devices lets be read or written, of those that it names by their
    major number at least. Rules are applied in order, as the kernel's device cgroup does.
    """
    found: dict[str, bool] = {}
    for rule in rules:
        kind, major, minor = rule.get("type") or "a", rule.get("major"), rule.get("minor")
        if not set(rule.get("access") or "rwm") & set("rw"):
            continue
        allow = bool(rule.get("allow"))
        if kind == "a" or major in (None, -1):
            if not allow:
                found = {name: allowed for name, allowed in found.items() if kind not in ("a", name[0])}
            continue
        if minor in (None, -1):
            found = {name: allowed for name, allowed in found.items() if not name.startswith(f"{kind} {major}:")}
        found[f"{kind} {major}:{'*' if minor in (None, -1) else minor}"] = allow
    # One minor number that is denied after all of its major were allowed: what is left is not worth telling.
    denied = {name.partition(":")[0] for name, allowed in found.items() if not allowed}
    return sorted(n for n, allowed in found.items() if allowed and not (n.endswith(":*") and n[:-2] in denied))


def lend(rules: Sequence[Mapping[str, Any]], lent: Iterable[Device]) -> list[Mapping[str, Any]]:
    """linux.resources.devices with what policy lets the container make nodes of, so that they can be opened."""
    further = (
        {"allow": True, "type": device.kind, "major": device.major, "access": "rwm"}
        | ({} if device.minor is None else {"minor": device.minor})
        for device in lent
        if device.major is not None
    )
    return [*rules, *further]


def _node(entry: Mapping[str, Any]) -> str:
    kind, _ = _KINDS[entry["type"]]
    number = f"{entry.get('major')}:{entry.get('minor')}"
    try:
        text = Path(f"/sys/dev/{kind}/{number}/uevent").read_text()
    except OSError:
        text = ""
    for line in text.splitlines():
        key, _, name = line.partition("=")
        if key == "DEVNAME" and _is(entry, f"/dev/{name}"):
            return f"/dev/{name}"
    raise ConfigError(
        f"config.json: linux.devices: {entry['path']} is {kind} device {number}, which has no node in the host's /dev; "
        "in a user namespace a device can only be bound from there"
    )


def _is(entry: Mapping[str, Any], path: str) -> bool:
    try:
        status = os.stat(path)
    except OSError:
        return False
    _, is_kind = _KINDS[entry["type"]]
    device = (os.major(status.st_rdev), os.minor(status.st_rdev))
    return is_kind(status.st_mode) and device == (entry.get("major"), entry.get("minor"))
