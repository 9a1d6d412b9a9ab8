"""Devices whose node has another name inside than on the host (`--device /dev/sda:/dev/disk`).

In a user namespace nobody makes device nodes, so runtimes bind the host's node of the *inner* name. Where that is
another device, or none, the bind mount is written out with the host's own name, which the kernel tells.
Source: runc libcontainer/rootfs_linux.go, bindMountDeviceNode(); Linux Documentation/ABI, /sys/dev/char/MAJOR:MINOR.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interceptor.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
