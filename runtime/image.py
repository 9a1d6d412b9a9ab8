"""What a container is called and made from: image, digests, name, labels and pod, as far as its engine tells a runtime.

| engine | where it says so |
|---|---|
| Docker | in config.v2.json, beside the files that it binds to /etc/hosts, /etc/hostname and /etc/resolv.conf |
| containerd (CRI), nerdctl | in annotations |
| CRI-O | in annotations; labels as JSON in one of them |
| Podman | in no annotation, but for the name: in its storage's containers.json, two directories above the bundle |
| `interceptor run` | in annotations of its own (interceptor/run/bundle.py) |

Asked in this order, and only the first that answers counts: who may annotate a container of Docker's or Podman's may not
thereby choose another image's policy.

Source: moby container/container.go, ConfigPath(); containerd pkg/cri/annotations; cri-o internal/annotations and
pkg/annotations; nerdctl pkg/labels; podman pkg/annotations and libpod/storage.go, RuntimeContainerMetadata.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Read = Callable[[str], str]

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
_NAMESPACE = ("io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace", "io.kubernetes.cri-o.Namespace")
_DIGESTS = ("io.kubernetes.cri-o.ImageRef", "io.kubernetes.cri-o.Image")
_CRIO_LABELS, _CRIO_TYPE = "io.kubernetes.cri-o.Labels", "io.kubernetes.cri-o.ContainerType"
_OUR_IMAGE, _OUR_NAME = "interceptor.image", "interceptor.name"
_STORAGE = ("containers.json", "volatile-containers.json")
"""Of containers/storage: those that last, and those that end with the host's uptime."""
_DIGEST_LENGTH = 64


@dataclass(frozen=True, slots=True)
class Identity:
    """What the engine said."""

    image: str | None = None
    name: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    digests: frozenset[str] = frozenset()
    """``sha256:…`` of the image's configuration or its manifest, whichever the engine tells."""
    namespace: str | None = None
    """Kubernetes'."""
    pod_labels: Mapping[str, str] = field(default_factory=dict)


def identify(
    container_id: str, config: Mapping[str, Any], bundle: str = "", read: Read = lambda path: Path(path).read_text()
) -> Identity:
    """The container's identity; empty where no engine says one. `read` answers a file's text or raises OSError."""
    annotations = config.get("annotations") or {}
    told = _docker(container_id, config.get("mounts") or [], read) or _podman(container_id, bundle, read)
    if told is not None:
        return told
    image, name = _first(annotations, _IMAGE), _first(annotations, _NAME)
    if image or name:
        return _annotated(image, name, annotations)
    return Identity(annotations.get(_OUR_IMAGE) or None, annotations.get(_OUR_NAME) or None)


def _first(annotations: Mapping[str, str], keys: Iterable[str]) -> str | None:
    return next((annotations[key] for key in keys if annotations.get(key)), None)


def _annotated(image: str | None, name: str | None, annotations: Mapping[str, str]) -> Identity:
    """By annotations. CRI-O writes a pod's labels at its sandbox, a container's own at the container."""
    labels = _labels(_parsed(annotations.get(_CRIO_LABELS, "")))
    sandbox = annotations.get(_CRIO_TYPE) == "sandbox"
    return Identity(
        image, name, {} if sandbox else labels, _digests(image, *(annotations.get(key) for key in _DIGESTS)),
        _first(annotations, _NAMESPACE), labels if sandbox else {},
    )  # fmt: skip


def _digests(*values: object) -> frozenset[str]:
    """Of names with ``@sha256:…``, of digests, and of bare hexadecimal ones as containers/storage has them."""
    found = set()
    for value in values:
        digits = str(value or "").rpartition("@")[2].removeprefix("sha256:")
        if len(digits) == _DIGEST_LENGTH and not digits.strip("0123456789abcdef"):
            found.add(f"sha256:{digits}")
    return frozenset(found)


def _labels(found: object) -> dict[str, str]:
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _read_json(path: str, read: Read) -> Any:
    try:
        return json.loads(read(path))
    except (OSError, ValueError):
        return None


def _docker(container_id: str, mounts: Iterable[Mapping[str, Any]], read: Read) -> Identity | None:
    directory = docker_directory(container_id, mounts)
    found = _read_json(f"{directory}/config.v2.json", read) if directory else None
    if not isinstance(found, dict):
        return None
    told, manifest = found.get("Config") or {}, found.get("ImageManifest") or {}
    image = told.get("Image")
    digests = _digests(image, found.get("Image"), manifest.get("digest"))
    return Identity(image, (found.get("Name") or "").lstrip("/") or None, _labels(told.get("Labels")), digests)


def docker_directory(container_id: str, mounts: Iterable[Mapping[str, Any]]) -> str | None:
    """Docker's directory of the container, from what it binds to /etc/hostname and the like; None for other engines."""
    for mount in mounts:
        if mount.get("destination") in _DOCKER_FILES:
            directory = os.path.dirname(mount.get("source") or "")
            if os.path.basename(directory) == container_id:
                return directory
    return None


def _podman(container_id: str, bundle: str, read: Read) -> Identity | None:
    """By the storage that the bundle lies in: STORAGE/overlay-containers/ID/userdata. CRI-O has such bundles elsewhere."""
    directory, last = os.path.split(bundle.rstrip("/"))
    if last != "userdata" or os.path.basename(directory) != container_id:
        return None
    for name in _STORAGE:
        for found in _read_json(f"{os.path.dirname(directory)}/{name}", read) or ():
            if isinstance(found, dict) and found.get("id") == container_id:
                return _stored(found)
    return None


def _stored(found: Mapping[str, Any]) -> Identity:
    told = _parsed(str(found.get("metadata") or "")) or {}
    image = told.get("image-name")
    name = told.get("name") or next(iter(found.get("names") or ()), None)
    return Identity(image, name, {}, _digests(image, told.get("image-id"), found.get("image")))
