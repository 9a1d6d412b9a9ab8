"""What a system container cannot be asked for, recognised in config.json, with what to do instead.

Engines do not write `--privileged` or `--net=host` into the configuration; only their traces are there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from interceptor.errors import ConfigError
from runtime.binds import is_bind

HOST_NETWORK = (
    "--net=host ({how}): a system container owns its network; publish ports with -p, or attach it to a network of its "
    "own (macvlan, bridge)"
)

_NEEDED = {
    "network": HOST_NETWORK.format(how="config.json has no network namespace"),
    "pid": (
        "--pid=host (config.json has no pid namespace): inside its user namespace the container's root could "
        "not touch the host's processes anyway; leave it out, or use runc for this container"
    ),
    "mount": "a container without a mount namespace: add one to linux.namespaces in config.json",
}


def refuse(config: Mapping[str, Any]) -> None:
    """Raises ConfigError for a configuration that asks for what this runtime is there to make unnecessary."""
    linux = config.get("linux")
    if (
        not isinstance(linux, Mapping)
        or not isinstance(config.get("process"), Mapping)
        or not isinstance(config.get("root"), Mapping)
    ):
        raise ConfigError("config.json: `linux`, `process` and `root` must be objects (OCI runtime-spec, config.md)")
    have = {entry.get("type") for entry in linux.get("namespaces") or []}
    for kind, instead in _NEEDED.items():
        if kind not in have:
            raise ConfigError(f"refused: {instead}")
    if is_privileged(linux):
        raise ConfigError(
            "refused: --privileged (config.json allows every device and masks nothing): a system container "
            "runs systemd, Docker and Kubernetes without it; leave it out, and pass single devices with --device"
        )


def refuse_links(config: Mapping[str, Any], image: str, bundle: str) -> None:
    """Raises ConfigError for symbolic links that a runtime follows while the host's directories are still its own: what it
    makes in /dev, and the file over which crun mounts a terminal (CVE-2026-88264), it would make on the host, as
    the container's root, wherever everybody may write. `image` is its root filesystem.
    """
    _refuse_link(f"{image}/dev", "the image's /dev")
    over = [mount for mount in config.get("mounts") or [] if os.path.normpath(mount.get("destination") or "") == "/dev"]
    if not config["process"].get("terminal") or (over and not is_bind(over[-1])):
        return
    directory = os.path.join(bundle, over[-1].get("source") or "") if over else f"{image}/dev"
    _refuse_link(f"{directory}/console", "/dev/console")


def _refuse_link(path: str, what: str) -> None:
    if os.path.islink(path):
        raise ConfigError(
            f"refused: {what} is a symbolic link, to {os.readlink(path)}: runtimes follow it on the host; make it a "
            f"{'directory' if what.endswith('/dev') else 'file, or leave it out'}"
        )


def is_privileged(linux: Mapping[str, Any]) -> bool:
    """Every device allowed, nothing masked, nothing read-only: what Docker, Podman and CRI write for --privileged."""
    if linux.get("maskedPaths") or linux.get("readonlyPaths"):
        return False
    rules = (linux.get("resources") or {}).get("devices") or []
    return any(
        rule.get("allow")
        and rule.get("type", "a") in ("a", "")
        and rule.get("major", -1) in (None, -1)
        and rule.get("minor", -1) in (None, -1)
        and set(rule.get("access") or "rwm") == set("rwm")
        for rule in rules
    )
