"""What is remembered of a container in $run/containers/ID/record.json, so that the next supervisor knows it.

Everything that undoing needs stands here; what the kernel can be asked (init's mounts, whether it lives) does not.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from interceptor.container import Container, IdRange
from interceptor.errors import InterceptorError
from interceptor.native.fd import Fd
from runtime.oomscore import OomScore
from runtime.rootfs import Rootfs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtime.config import Places

RECORD = "record.json"
RUNTIME = "runtime"
CGROUP = "cgroup"
"""A file of one line: the directory of a cgroup of the container's own, for interceptor-runc's `ps`."""


@dataclass(slots=True)
class Record:
    """One container, as JSON holds it."""

    id: str
    ids: IdRange
    policy: str
    runtime: str
    bundle: str
    boot: str
    """/proc/sys/kernel/random/boot_id of the boot that it belongs to."""
    namespace: int
    """Inode of the mount namespace that asked for it: where the mounts are."""
    rootfs: Rootfs
    options: list[str] = field(default_factory=list)
    """Global options for the runtime underneath (--root …)."""
    engine_pid: int | None = None
    """Docker's engine, whose `docker cp` is watched."""
    image: str | None = None
    name: str | None = None
    init_pid: int | None = None
    init_start: int | None = None
    """Start time of init, clock ticks since boot: /proc/PID/stat, field 22."""
    immutable: list[int] = field(default_factory=list)
    """Ids of the mounts that were there when it was created: mounts made later are not ours to protect."""
    creator: int | None = None
    """The process of interceptor-runc that creates it, and its start time as init_start: while that lives and there is no
    init yet, the creation is under way.
    """
    creator_start: int | None = None
    wait_killable: bool = False
    created_ns: int = 0
    annotations: dict[str, str] = field(default_factory=dict)
    devices: list[str] = field(default_factory=list)
    """Container.devices."""
    hidden: list[str] = field(default_factory=list)
    """Policy.hidden, as it was."""
    sysctls: dict[str, int] = field(default_factory=dict)
    """Ceilings.sysctls, as they were."""
    cgroup: int = 0
    """Container.cgroup."""
    cgroups: list[str] = field(default_factory=list)
    """Those that its runtime is to make: what `linux.cgroupsPath` names and was not there before."""
    absent: list[int] = field(default_factory=list)
    """Numbers of system calls that are ENOSYS beneath its profile."""
    oom_score: OomScore | None = None
    """What it was lent."""
    machine: bool = False
    """Its first program expects a machine (ociconfig.is_systemd)."""
    filter: list[dict[str, Any]] | None = None
    """Container.filter; None in a record of an older version."""

    def container(self) -> Container:
        """The core's view; what needs the kernel is filled in by the caller."""
        return Container(
            self.id, self.ids, self.policy, self.image, self.name, self.runtime, self.bundle,
            init_pid=self.init_pid, wait_killable=self.wait_killable, created_ns=self.created_ns,
            annotations=dict(self.annotations), devices=tuple(self.devices), cgroup=self.cgroup,
            filter=None if self.filter is None else tuple(self.filter),
        )  # fmt: skip

    def save(self, directory: str) -> None:
        """Written whole or not at all."""
        write(f"{directory}/{RECORD}", json.dumps(_fields(self), separators=(",", ":"), default=_fields))


def _fields(value: Any) -> dict[str, Any]:
    """A dataclass for JSON, without the copies that dataclasses.asdict makes of every value."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def load(directory: str) -> Record:
    """The record in a container's directory; InterceptorError when there is none, or none that can be read."""
    path = f"{directory}/{RECORD}"
    try:
        with open(path, "rb") as file:
            values = json.loads(file.read())
        values["ids"], values["rootfs"] = IdRange(**values["ids"]), Rootfs(**values["rootfs"])
        values["oom_score"] = OomScore(**score) if (score := values.get("oom_score")) else None
        return Record(**values)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InterceptorError(f"{path} cannot be read ({error})") from error


def directories(places: Places) -> Iterator[tuple[str, str]]:
    """(container id, its directory) of every container that left something."""
    try:
        names = sorted(os.listdir(f"{places.run}/containers"))
    except FileNotFoundError:
        return
    yield from ((name, places.container(name)) for name in names)


def write(path: str, content: str | bytes, *, mode: int = 0o600, owner: tuple[int, int] = (0, 0)) -> None:
    """Replaces a file by rename(2)."""
    draft, left = path + ".new", content.encode() if isinstance(content, str) else content
    with Fd(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)) as file:
        while left:
            left = left[os.write(file.fileno(), left) :]
        os.fchmod(file.fileno(), mode)
        os.fchown(file.fileno(), *owner)
    os.replace(draft, path)
