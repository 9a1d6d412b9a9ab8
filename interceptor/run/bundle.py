"""config.json of a system container, before the runtime makes it one: what `runc spec` gives, for what was asked.

User namespace, capabilities, seccomp and the rest are the supervisor's business (runtime/ociconfig.py).
Source: OCI runtime-spec, config.md and config-linux.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CPU_PERIOD = 100_000
"""µs; the kernel's own default (Documentation/scheduler/sched-bwc.rst)."""

MASKED = ("/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/sched_debug",
          "/proc/scsi", "/sys/firmware")  # fmt: skip
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@dataclass(frozen=True, slots=True)
class Volume:
    """-v SRC:DST[:ro]"""

    source: str
    destination: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class User:
    """Ids as the container numbers them."""

    uid: int = 0
    gid: int = 0
    additional: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line and the image ask for, resolved."""

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    cwd: str = "/"
    hostname: str = ""
    terminal: bool = False
    memory: int | None = None
    """Bytes."""
    cpus: float | None = None
    volumes: Sequence[Volume] = ()
    policy: str | None = None
    image: str | None = None


def is_systemd(arguments: Sequence[str]) -> bool:
    """Whether the container's init is systemd by name: it ends by SIGRTMIN+3 (systemd(1), "Signals")."""
    return bool(arguments) and PurePosixPath(arguments[0]).name in ("init", "systemd")


def config(wanted: Wanted, rootfs: Path, etc: Path) -> dict[str, Any]:
    """The configuration; `etc` has the files to be bound into /etc."""
    return {
        "ociVersion": "1.0.2",
        "hostname": wanted.hostname or wanted.name,
        "process": _process(wanted),
        "root": {"path": str(rootfs), "readonly": False},
        "mounts": [*_filesystems(), *_etc(etc), *map(_volume, wanted.volumes)],
        "annotations": _annotations(wanted),
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
            "resources": _resources(wanted),
            "maskedPaths": [*MASKED],
            "readonlyPaths": [*READ_ONLY],
        },
    }


def _process(wanted: Wanted) -> dict[str, Any]:
    environment = {"PATH": PATH, "HOSTNAME": wanted.hostname or wanted.name, **wanted.environment}
    if wanted.terminal:
        environment.setdefault("TERM", "xterm")
    return {
        "terminal": wanted.terminal,
        "user": {"uid": 0, "gid": 0},
        "args": [*wanted.arguments],
        "env": [f"{key}={value}" for key, value in environment.items()],
        "cwd": wanted.cwd,
    }


def _filesystems() -> list[dict[str, Any]]:
    rows = {
        "/proc": ("proc", "proc", []),
        "/dev": ("tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        "/dev/pts": ("devpts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        "/dev/shm": ("tmpfs", "shm", ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),  # noqa: S108
        "/dev/mqueue": ("mqueue", "mqueue", ["nosuid", "noexec", "nodev"]),
        "/sys": ("sysfs", "sysfs", ["nosuid", "noexec", "nodev"]),
        "/sys/fs/cgroup": ("cgroup", "cgroup", ["nosuid", "noexec", "nodev", "relatime"]),
    }
    return [
        {"destination": at, "type": kind, "source": source, "options": options}
        for at, (kind, source, options) in rows.items()
    ]


def _etc(etc: Path) -> list[dict[str, Any]]:
    return [_volume(Volume(str(etc / name), f"/etc/{name}")) for name in ("hosts", "hostname", "resolv.conf")]


def _volume(volume: Volume) -> dict[str, Any]:
    options = ["rbind", "rprivate", "ro" if volume.read_only else "rw"]
    return {"destination": volume.destination, "type": "bind", "source": volume.source, "options": options}


def _annotations(wanted: Wanted) -> dict[str, str]:
    """Who the container is: the supervisor shows name and image, and chooses the policy by them."""
    named = {"interceptor.name": wanted.name, "interceptor.image": wanted.image, "interceptor.policy": wanted.policy}
    return {key: value for key, value in named.items() if value}


def _resources(wanted: Wanted) -> dict[str, Any]:
    resources: dict[str, Any] = {"devices": [{"allow": False, "access": "rwm"}]}
    if wanted.memory is not None:
        resources["memory"] = {"limit": wanted.memory}
    if wanted.cpus is not None:
        resources["cpu"] = {"quota": round(wanted.cpus * CPU_PERIOD), "period": CPU_PERIOD}
    return resources
