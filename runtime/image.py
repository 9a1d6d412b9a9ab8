"""What a container is called and made from: image, name and labels, as far as its engine tells a runtime.

Docker tells nothing; it keeps config.v2.json beside the files that it binds to /etc/hosts, hostname and resolv.conf.
CRI engines and nerdctl write annotations, Podman too, and `interceptor run` (interceptor/run/bundle.py). The last count
only where no engine has said anything: who may annotate a container may not thereby choose another image's policy.
Source: moby container/container.go, ConfigPath(); containerd pkg/cri/annotations; nerdctl pkg/labels; podman
pkg/annotations.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_DOCKER_FILES = ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf")
_IMAGE = (
    "io.kubernetes.cri.image-name",
    "io.kubernetes.cri-o.ImageName",
    "io.podman.annotations.image-name",
    "nerdctl/image",
)
_NAME = (
    "io.kubernetes.cri.container-name",
    "io.kubernetes.container.name",
    "io.podman.annotations.name",
    "nerdctl/name",
)
_OUR_IMAGE, _OUR_NAME = "interceptor.image", "interceptor.name"


@dataclass(frozen=True, slots=True)
class Identity:
    """What the engine said."""

    image: str | None = None
    name: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


def identify(
    container_id: str, config: Mapping[str, Any], read: Callable[[str], str] = lambda path: Path(path).read_text()
) -> Identity:
    """The container's identity; empty where no engine says one. `read` answers a file's text or raises OSError."""
    annotations = config.get("annotations") or {}
    image, name = _first(annotations, _IMAGE), _first(annotations, _NAME)
    if image or name:
        return Identity(image, name, {})
    told = _docker(container_id, config.get("mounts") or [], read)
    return told or Identity(annotations.get(_OUR_IMAGE) or None, annotations.get(_OUR_NAME) or None)


def _first(annotations: Mapping[str, str], keys: Iterable[str]) -> str | None:
    return next((annotations[key] for key in keys if annotations.get(key)), None)


def _docker(container_id: str, mounts: Iterable[Mapping[str, Any]], read: Callable[[str], str]) -> Identity | None:
    directory = docker_directory(container_id, mounts)
    if directory is None:
        return None
    try:
        found = json.loads(read(f"{directory}/config.v2.json"))
    except (OSError, ValueError):
        return None
    told = found.get("Config") or {}
    return Identity(told.get("Image"), (found.get("Name") or "").lstrip("/") or None, told.get("Labels") or {})


def docker_directory(container_id: str, mounts: Iterable[Mapping[str, Any]]) -> str | None:
    """Docker's directory of the container, from what it binds to /etc/hostname and the like; None for other engines."""
    for mount in mounts:
        if mount.get("destination") in _DOCKER_FILES:
            directory = os.path.dirname(mount.get("source") or "")
            if os.path.basename(directory) == container_id:
                return directory
    return None
