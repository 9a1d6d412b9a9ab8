"""The grammar of a policy's `limits` and `mount`: rates, ceilings, devices, servers, FUSE programs.

A key that is given in a file replaces what that file extends, except in `rlimits` and `servers`, where each entry does.
"""

from __future__ import annotations

import ipaddress
import re
import resource
from typing import TYPE_CHECKING, Any

from interceptor.errors import PolicyError
from interceptor.limits import (
    BLOCK_FILESYSTEMS,
    HOST_CEILINGS,
    NETWORK_FILESYSTEMS,
    RLIM_INFINITY,
    Ceilings,
    Device,
    Devices,
    LentDevice,
    Limits,
    Module,
    Server,
)
from interceptor.strict_yaml import (
    Node,
    Problems,
    Scalar,
    choice,
    entries,
    integer,
    items,
    mapping,
    text,
    truth,
    unknown,
    wrong,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

PARKED_MAX = 65536
AGENTS_MAX = 256
NOTIFICATIONS_MAX = 1_000_000
REALTIME_MAX = 99
"""MAX_RT_PRIO - 1 (linux/sched/prio.h)."""
NICE = (-20, 19)
LOOP_DEVICES_MAX = 256
IO_LEVEL_MAX = 7
"""IOPRIO_NR_LEVELS - 1 (linux/ioprio.h)."""
SYSCTL_MAX = (1 << 31) - 1
OOM_SCORES = (-999, 1000)
"""OOM_SCORE_ADJ_MIN and _MAX (linux/oom.h), without the one that is never killed."""

RLIMITS: Mapping[str, int] = {
    name.removeprefix("RLIMIT_").lower(): getattr(resource, name)
    for name in dir(resource)
    if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"
} | {"locks": 10}
"""By name as policies write them; Python has no RLIMIT_LOCKS (asm-generic/resource.h)."""

KNOWN_DEVICES: Mapping[str, tuple[str, int, int]] = {
    "null": ("c", 1, 3),
    "zero": ("c", 1, 5),
    "full": ("c", 1, 7),
    "random": ("c", 1, 8),
    "urandom": ("c", 1, 9),
    "tty": ("c", 5, 0),
    "console": ("c", 5, 1),
    "ptmx": ("c", 5, 2),
    "net/tun": ("c", 10, 200),
    "fuse": ("c", 10, 229),
}
"""Documentation/admin-guide/devices.txt."""
CGROUP = "cgroup"

Given = dict[str, Any]
"""What one file gives: field of Limits or Ceilings → value; mappings are merged."""


_MERGED = ("rlimits", "servers", "sysctls")


def limits_of(files: Iterable[Given]) -> Limits:
    """Of files in order, the weakest first."""
    found: Given = {}
    for given in files:
        merged = {key: {**found.get(key, {}), **given.get(key, {})} for key in _MERGED}
        found = {**found, **given, **merged}
    ceilings = {name: found.pop(name) for name in Ceilings.__slots__ if name in found}
    return Limits(ceilings=Ceilings(**ceilings), **found)


def limit_readers(given: Given, problems: Problems) -> dict[str, Callable[[Node], None]]:
    """What may stand below `limits`."""

    def number(name: str, what: str, first: int, last: int) -> Callable[[Node], None]:
        return lambda node: given.update({name: integer(node, what, first, last)})

    return {
        "parked": number("parked", "a number of calls", 1, PARKED_MAX),
        "agents": number("agents", "a number of agents", 1, AGENTS_MAX),
        "agent-deadline": lambda node: given.update(agent_deadline_ms=duration_ms(node)),
        "notifications": number("notifications", "calls a second", 1, NOTIFICATIONS_MAX),
        "rlimits": lambda node: given.update(rlimits=_rlimits(node, problems)),
        "nice": number("nice", "a nice value", *NICE),
        "realtime-priority": number("realtime_priority", "a priority, or 0 for none,", 0, REALTIME_MAX),
        "io-realtime": number("io_realtime", "a level of the real-time class", 0, IO_LEVEL_MAX),
        "sysctls": lambda node: given.update(sysctls=_sysctls(node, problems)),
        "oom-score-adj": number("oom_score_adj", "an oom_score_adj", *OOM_SCORES),
        "loop-devices": number("loop_devices", "a number of loop devices", 0, LOOP_DEVICES_MAX),
        "devices": lambda node: given.update(devices=_devices(node, problems)),
        "modules": lambda node: given.update(modules=tuple(items(node, _module, problems, "modules"))),
        "servers": lambda node: given.update(servers=_servers(node, problems)),
    }


_DURATION = re.compile(r"([0-9]{1,9})(ms|s|min)")
_UNITS_MS = {"ms": 1, "s": 1000, "min": 60_000}


def duration_ms(node: Node) -> int:
    """A time with its unit (500ms, 5s, 2min), in milliseconds; at most a day."""
    found = _DURATION.fullmatch(node.text) if isinstance(node, Scalar) else None
    value = int(found[1]) * _UNITS_MS[found[2]] if found else 0
    if not 0 < value <= 24 * 60 * _UNITS_MS["min"]:
        raise wrong(node, "a time with its unit, such as 500ms, 5s or 2min")
    return value


def _rlimits(node: Node, problems: Problems) -> dict[int, int]:
    found = {}
    for name, (place, value) in mapping(node, "resource: ceiling").entries.items():
        with problems:
            if name not in RLIMITS:
                raise unknown(place, "resource limit", name, RLIMITS)
            found[RLIMITS[name]] = _rlimit(value)
    return found


def _sysctls(node: Node, problems: Problems) -> dict[str, int]:
    found = {}
    for name, (place, value) in mapping(node, "sysctl: ceiling").entries.items():
        with problems:
            if name not in HOST_CEILINGS:
                raise unknown(place, "ceiling of the host's", name, HOST_CEILINGS)
            found[name] = integer(value, "a number", 1, SYSCTL_MAX)
    return found


def _rlimit(node: Node) -> int:
    if isinstance(node, Scalar) and node.text == UNLIMITED:
        return RLIM_INFINITY
    return integer(node, f"{UNLIMITED} or a number", 0, RLIM_INFINITY - 1)


UNLIMITED = "unlimited"


# Devices

DEVICE = re.compile(r"(?P<kind>[bc]) (?P<major>\*|[0-9]{1,4}):(?P<minor>\*|[0-9]{1,7})")
"""As the device cgroup of cgroup v1 writes them: ``c 10:200``, ``b 7:*``."""
MAJOR_MAX, MINOR_MAX = (1 << 12) - 1, (1 << 20) - 1
"""Of a dev_t (linux/kdev_t.h)."""


def _devices(node: Node, problems: Problems) -> Devices:
    cgroup = ""

    def read(item: Node) -> Device | None:
        nonlocal cgroup
        # Elsewhere a plain null is no value; in a list of devices it can only be the one of that name.
        name = item.text if isinstance(item, Scalar) and item.text == "null" else text(item, "a device")
        if name == CGROUP:
            cgroup = item.place.rule
            return None
        return _device(item, name)

    return Devices(tuple(d for d in items(node, read, problems, "devices") if d is not None), cgroup)


def _device(node: Node, name: str) -> Device:
    if name in KNOWN_DEVICES:
        return Device(*KNOWN_DEVICES[name], node.place.rule)
    found = DEVICE.fullmatch(name)
    if found is None:
        listed = ", ".join(KNOWN_DEVICES)
        raise wrong(node, f"a device (c MAJOR:MINOR, b MAJOR:*, {listed}, or {CGROUP})")
    major, minor = (None if n == "*" else int(n) for n in found.group("major", "minor"))
    if (major or 0) > MAJOR_MAX or (minor or 0) > MINOR_MAX:
        raise wrong(node, f"a device with numbers up to {MAJOR_MAX}:{MINOR_MAX}")
    return Device(found["kind"], major, minor, node.place.rule)


# Modules

MODULES = re.compile(r"[A-Za-z0-9_*?-]{1,64}")
"""Names of kernel modules, or globs over them."""


def _module(node: Node) -> Module:
    names = text(node, "a kernel module")
    if not MODULES.fullmatch(names):
        raise wrong(node, "the name of a kernel module, or a pattern of names")
    return Module(names.replace("-", "_"), node.place.rule)


# Servers

_NFS = re.compile(r"(?P<host>\[[0-9A-Fa-f:./]+\]|[^:\[\]]+):(?P<export>/.*)")
_CIFS = re.compile(r"//(?P<host>\[[0-9A-Fa-f:./]+\]|[^/\[\]]+(?:/[0-9]{1,3}(?=/))?)/(?P<export>.+)")
_FORMS = {"nfs": (_NFS, "HOST:/EXPORT"), "cifs": (_CIFS, "//HOST/SHARE")}


def _servers(node: Node, problems: Problems) -> dict[str, tuple[Server, ...]]:
    found = {}
    for name, (place, value) in mapping(node, "filesystem type: servers").entries.items():
        with problems:
            if name not in _FORMS:
                raise unknown(place, "network filesystem", name, set(NETWORK_FILESYSTEMS.values()))
            found[name] = tuple(items(value, lambda n, of=name: _server(n, of), problems, "servers"))  # type: ignore[misc]
    return found


def _server(node: Node, fstype: str) -> Server:
    form, shown = _FORMS[fstype]
    found = form.fullmatch(text(node, "a server"))
    if found is None:
        raise wrong(node, f"{shown} (HOST a name, a pattern, an address or a network such as 10.0.0.0/8)")
    host = found["host"].strip("[]")
    if "/" in host or ":" in host:
        try:
            ipaddress.ip_network(host)
        except ValueError as error:
            raise PolicyError(str(node.place), f"{host!r}: {error}") from None
    return Server(host, found["export"], node.place.rule)


# FUSE

_PROGRAM = re.compile(r"/?[A-Za-z0-9_.+-]+(/[A-Za-z0-9_.+-]+)*")


def program(node: Node) -> str:
    """The name of a program, looked up in the container's own PATH, or its absolute path there."""
    name = text(node, "the name of a program")
    if not _PROGRAM.fullmatch(name) or ("/" in name and not name.startswith("/")):
        raise wrong(node, "the name of a program, such as squashfuse, or an absolute path")
    return name


def fuse_programs(node: Node, problems: Problems, add: Callable[[str, str, str], None]) -> None:
    """``{TYPE: PROGRAM}``: calls `add` with type, program and ``file:line``."""
    for fstype, (place, name) in mapping(node, "filesystem type: program").entries.items():
        with problems:
            add(fstype, program(name), place.rule)


# Block devices

_LENT_NAME = re.compile(r"/dev/[A-Za-z0-9_][A-Za-z0-9_.+-]{0,62}")
_OPTION = re.compile(r"[A-Za-z0-9_]+(=[^,\n\0]{1,200})?")


def lent_devices(node: Node, problems: Problems, found: dict[str, LentDevice]) -> None:
    """``{/dev/NAME: {from: PATH, type: TYPE, read-only: true, options: […]}}``."""
    for name, (place, value) in mapping(node, "/dev/NAME: device").entries.items():
        with problems:
            if not _LENT_NAME.fullmatch(name):
                raise PolicyError(str(place), f"{name!r}: a device is called /dev/NAME inside")
            found[name] = _lent_device(value, place.rule, problems)


def _lent_device(node: Node, rule: str, problems: Problems) -> LentDevice:
    given: Given = {"rule": rule}
    readers: dict[str, Callable[[Node], None]] = {
        "from": lambda n: given.update(host=_absolute(n)),
        "type": lambda n: given.update(fstype=choice(n, "filesystem type with a device", BLOCK_FILESYSTEMS)),
        "read-only": lambda n: given.update(read_only=truth(n)),
        "options": lambda n: given.update(options=tuple(items(n, _option, problems, "options"))),
    }
    entries(node, "a device", readers, problems)
    for key, name in (("host", "from"), ("fstype", "type")):
        if key not in given:
            raise PolicyError(str(node.place), f"a device without `{name}:`; it says what of the host's is mounted as what")
    return LentDevice(**given)


def _absolute(node: Node) -> str:
    path = text(node, "the path of a block device or an image")
    if not path.startswith("/") or "\0" in path or ".." in path.split("/"):
        raise wrong(node, "an absolute path of the host's, without ..")
    return path


def _option(node: Node) -> str:
    option = text(node, "an option of the filesystem")
    if not _OPTION.fullmatch(option):
        raise wrong(node, "an option, NAME or NAME=VALUE, without a comma")
    return option
