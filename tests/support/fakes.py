"""Fakes at the ports: a tracee and an agent that only remember, and one call as a handler gets it."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from interceptor import registry
from interceptor.container import Container, IdRange
from interceptor.policy import BUILT_IN, Decision, Do, FilesystemDecision, Mount, Policy
from interceptor.ports import AT_FDCWD, Call, Cap, Context, CpuMask, Mounted, Namespace, Shown, Way
from interceptor.wire import Anchor

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from interceptor.limits import LentDevice
    from interceptor.loops import LoopFlag
    from interceptor.netmounts import Option
    from interceptor.verdict import Verdict

IDS = IdRange(1 << 20, 1 << 16)
MOUNT_NAMESPACE, USER_NAMESPACE = 4026532001, 4026532000
EIGHT_CPUS = CpuMask(frozenset(range(8)), size=32, least=2)
DEFAULT = FilesystemDecision(Mount.NATIVE, "default.yaml:50")
FILESYSTEMS = {
    "*": DEFAULT,
    "proc": FilesystemDecision(Mount.EMULATE, "default.yaml:51"),
    "sysfs": FilesystemDecision(Mount.EMULATE, "default.yaml:52"),
    "overlay": FilesystemDecision(Mount.EMULATE, "default.yaml:53"),
    "debugfs": FilesystemDecision(Mount.STAND_IN, "default.yaml:54"),
    "nfs": FilesystemDecision(Mount.DENY, "default.yaml:55", 13),
}


def container(**facts: Any) -> Container:
    known = {"mount_namespace": MOUNT_NAMESPACE, "user_namespace": USER_NAMESPACE}
    return Container("c1", IDS, "default", **{**known, **facts})


def policy(**parts: Any) -> Policy:
    return Policy("default", "default.yaml", **{"filesystems": FILESYSTEMS, **parts})


@dataclass
class FakeTracee:
    """ports.Tracee: container root in its own namespaces, unless told otherwise."""

    tid: int = 100
    comm: str = "sh"
    capabilities: dict[Namespace, bool] = field(default_factory=dict)
    """Whether it is capable over the owner of that namespace; True where nothing is said."""
    lacks: frozenset[Cap] = frozenset()
    """Capabilities that it has nowhere."""
    owned: dict[Namespace, bool] = field(default_factory=dict)
    uid_inside: int = 0
    number_inside: int = 12
    in_nested_user_namespace: bool = False
    in_inner_container: bool = False
    executable: bytes = b"/bin/sh"
    covers: dict[str, Sequence[bytes]] = field(default_factory=dict)
    mount_namespace: int = MOUNT_NAMESPACE
    mounted: Sequence[Mounted] = ()
    """The mount that is asked about, then those below it."""
    used: frozenset[int] = frozenset()
    """Mounts on which somebody has something open."""
    there: dict[int, bool] = field(default_factory=dict)
    """Mounts of which it is known whether they are."""
    notification_id: int = 7
    descriptors: dict[bytes, Anchor] = field(default_factory=dict)
    taken: dict[int, int] = field(default_factory=dict)
    names: dict[int, bytes] = field(default_factory=dict)
    """Of its descriptors."""
    writable: frozenset[int] = frozenset()
    cgroups: bytes = b""
    closed: int = 0
    memory: dict[int, bytes] = field(default_factory=dict)
    waiting: bool = True
    container_init: bool = True
    """Whether the container has an init that could be stopped."""
    ended: list[str] = field(default_factory=list)
    """What was killed."""
    long_bits: int = 64
    tid_inside: int = 5
    cpus_allowed: CpuMask = EIGHT_CPUS
    scheduled: list[tuple[Any, ...]] = field(default_factory=list)
    """What was done to tasks by number."""
    limits: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    """(task, resource) → soft and hard limit."""
    timex: tuple[int, bytes] = (0, bytes(208))

    def kill(self) -> None:
        self.ended.append("process")

    def stop_container(self) -> bool:
        if self.container_init:
            self.ended.append("container")
        return self.container_init

    def waits(self) -> bool:
        return self.waiting

    def capable(self, cap: Cap, owner_of: Namespace) -> bool:
        return cap not in self.lacks and self.capabilities.get(owner_of, True)

    def namespace_id(self, namespace: Namespace) -> int:
        return {Namespace.MOUNT: self.mount_namespace, Namespace.USER: USER_NAMESPACE}[namespace]

    def take(self, fd: int) -> int:
        if fd not in self.taken:
            raise OSError(errno.EBADF, "no such descriptor")
        return self.taken[fd]

    def owns(self, namespace: Namespace) -> bool:
        return self.owned.get(namespace, True)

    def anchor(self, path: bytes, at: int = AT_FDCWD) -> Anchor:
        return self.descriptors.get(path, Anchor(path, None if at == AT_FDCWD or path[:1] == b"/" else at))

    def set_nice(self, number: int, nice: int) -> None:
        self.scheduled.append(("nice", number, nice))

    def set_scheduler(self, number: int, policy: int, priority: int) -> None:
        self.scheduled.append(("scheduler", number, policy, priority))

    def set_priority(self, number: int, priority: int) -> None:
        self.scheduled.append(("priority", number, priority))

    def set_attributes(self, number: int, attributes: bytes) -> None:
        self.scheduled.append(("attributes", number, attributes))

    def limit(self, number: int, resource: int) -> tuple[int, int]:
        return self.limits[number, resource]

    def set_limit(self, number: int, resource: int, soft: int, hard: int) -> tuple[int, int]:
        before, self.limits[number, resource] = self.limits[number, resource], (soft, hard)
        self.scheduled.append(("limit", number, resource, soft, hard))
        return before

    def set_io_priority(self, number: int, priority: int) -> None:
        self.scheduled.append(("io", number, priority))

    def clock(self) -> tuple[int, bytes]:
        return self.timex

    def covered(self, fstype: str) -> Sequence[bytes]:
        return self.covers.get(fstype, ())

    def has_mount(self, mount_id: int) -> bool | None:
        return self.there.get(mount_id)

    def mounts(self, mount_id: int) -> Sequence[Mounted]:
        return self.mounted if self.mounted and self.mounted[0].mount_id == mount_id else ()

    def in_use(self, mount_ids: Collection[int]) -> bool:
        return bool(self.used & frozenset(mount_ids))

    def name_of(self, fd: int) -> bytes:
        return self.names[fd]

    def may_write(self, fd: int) -> bool:
        return fd in self.writable

    def read(self, address: int, length: int) -> bytes:
        return self.memory[address][:length]

    def write(self, address: int, data: bytes) -> None:
        if not address:
            raise OSError(errno.EFAULT, "unmapped")
        self.memory[address] = data

    def close(self) -> None:
        self.closed += 1


@dataclass
class FakeAgent:
    """ports.Agent: `done` lists what was asked; `fails` is raised instead."""

    done: list[tuple[Any, ...]] = field(default_factory=list)
    fails: BaseException | None = None
    mount_ids: dict[Anchor, int] = field(default_factory=dict)
    attached: int = 0
    gives: bytes | None = None
    """What is read; None: the kernel is to be asked."""
    loops: dict[int, LoopFlag] = field(default_factory=dict)
    """Attached files, by device."""

    def _do(self, *action: Any) -> None:
        self.done.append(action)
        if self.fails is not None:
            raise self.fails

    def mount(
        self, fstype: str, at: Anchor, *, source: Any, flags: int, options: Any, like: Any = (), leaves: Any = None
    ) -> None:
        self._do("mount", fstype, at, source, flags, options, tuple(like), *([leaves] if leaves else []))

    def stand_in(self, at: Anchor, *, name: str, flags: int) -> None:
        self._do("stand_in", at, name, flags)

    def mount_device(self, device: LentDevice, at: Anchor, *, name: bytes, flags: int) -> None:
        self._do("mount_device", device.host, at, name, flags)

    def mount_network(self, fstype: bytes, at: Anchor, *, source: bytes, flags: int, options: Sequence[Option]) -> None:
        self._do("mount_network", fstype, at, source, flags, list(options))

    def overlay(self, at: Anchor, *, source: Any, flags: int, options: Any) -> None:
        self._do("overlay", at, source, flags, options)

    def mount_id(self, at: Anchor, *, follow: bool) -> int:
        self._do("mount_id", at, follow)
        return self.mount_ids[at]

    def detach(self, at: Anchor, mount_id: int, *, follow: bool) -> None:
        self._do("detach", at, mount_id, follow)

    def make_node(self, at: Anchor, *, mode: int, device: int) -> None:
        self._do("make_node", at, mode, device)

    def open_context(self, context: Context, *, twin: bool) -> int:
        self._do("open_context", context.fstype, twin)
        return 70

    def set_overlay_option(self, context: Context, key: bytes, value: bytes | int | None) -> None:
        self._do("set_overlay_option", context.fstype, key, value)

    def create_overlay(self, context: Context) -> None:
        self._do("create_overlay", context.fstype)

    def mount_context(self, context: Context, attributes: int, *, like: Any = (), leaves: Any = None) -> None:
        self._do("mount_context", context.fstype, attributes, tuple(like), *([leaves] if leaves else []))

    def open_mount(self, context: Context) -> int:
        self._do("open_mount", context.fstype)
        return 71

    def move_mount(self, context: Context, at: Anchor, *, follow: bool) -> None:
        self._do("move_mount", context.fstype, at, follow)

    def set_xattr(self, at: Anchor, name: bytes, value: bytes, *, flags: int, how: Way) -> None:
        self._do("set_xattr", at, name, value, flags, how)

    def get_xattr(self, at: Anchor, name: bytes, *, how: Way) -> bytes:
        self._do("get_xattr", at, name, how)
        return self.gives or b""

    def list_xattr(self, at: Anchor, *, how: Way) -> bytes | None:
        self._do("list_xattr", at, how)
        return self.gives

    def remove_xattr(self, at: Anchor, name: bytes, *, how: Way) -> None:
        self._do("remove_xattr", at, name, how)

    def may_chown(self, at: Anchor, *, how: Way) -> bool:
        self._do("may_chown", at, how)
        return self.gives is not None

    def read_file(self, fd: int, offset: int, size: int) -> bytes:
        self._do("read_file", fd, offset, size)
        return (self.gives or b"")[offset : offset + size]

    def loop_status(self, device: int) -> LoopFlag | None:
        if self.fails is not None:
            raise self.fails
        return self.loops.get(device)

    def attach_loop(self, device: int, file: int, flags: LoopFlag) -> None:
        self._do("attach_loop", device, file, flags)

    def change_loop(self, device: int, flags: LoopFlag) -> None:
        self._do("change_loop", device, flags)

    def detach_loop(self, device: int, *, only: LoopFlag) -> None:
        self._do("detach_loop", device, only)

    def set_hostname(self, name: bytes) -> None:
        self._do("set_hostname", name)

    def set_domainname(self, name: bytes) -> None:
        self._do("set_domainname", name)


@dataclass
class FakeContexts:
    """ports.Contexts."""

    opened: dict[int, Context] = field(default_factory=dict)
    """By the tracee's descriptor."""
    mounts: dict[int, Context] = field(default_factory=dict)

    noted: int = 0

    def note(self, context: Context) -> None:
        assert context in (*self.opened.values(), *self.mounts.values())
        self.noted += 1

    def find(self, fd: int) -> Context | None:
        return self.opened.get(fd)

    def find_mount(self, fd: int) -> Context | None:
        return self.mounts.get(fd)


@dataclass
class FakePrograms:
    """ports.Programs."""

    answer: tuple[int, str] = (0, "")
    ran: list[list[bytes]] = field(default_factory=list)

    def run(self, argv: Sequence[bytes]) -> tuple[int, str]:
        self.ran.append(list(argv))
        return self.answer


@dataclass
class FakeModules:
    """ports.Modules."""

    there: set[str] = field(default_factory=set)
    known: set[str] = field(default_factory=set)
    """What modprobe finds."""
    loaded: list[str] = field(default_factory=list)

    def present(self, name: str) -> bool:
        return name in self.there

    def load(self, name: str) -> None:
        if name not in self.known:
            raise OSError(errno.ENOENT, "modprobe: not found")
        self.loaded.append(name)
        self.there.add(name)


@dataclass
class FakeDevicePrograms:
    """ports.DevicePrograms: programs are their descriptors, `cgroups` what may be changed and what is attached there."""

    supported: bool = True
    programs: set[int] = field(default_factory=set)
    cgroups: dict[int, list[int]] = field(default_factory=dict)
    known: set[int] = field(default_factory=set)
    done: list[tuple[Any, ...]] = field(default_factory=list)

    def load(self, instructions: bytes, name: bytes) -> int:
        self.done.append(("load", instructions, name))
        return 80

    def find(self, fd: int) -> int | None:
        return fd if fd in self.programs else None

    def open(self, number: int) -> int | None:
        return 81 if number in self.known else None

    def information(self, program: int, size: int) -> bytes:
        return bytes([program]) * size

    def attach(self, program: int, cgroup: int, flags: int, replace: int | None) -> None:
        self._cgroup(cgroup)
        self.done.append(("attach", program, cgroup, flags, replace))

    def detach(self, program: int, cgroup: int) -> None:
        self._cgroup(cgroup)
        self.done.append(("detach", program, cgroup))

    def query(self, cgroup: int) -> tuple[int, Sequence[int]]:
        return 2, self._cgroup(cgroup)

    def _cgroup(self, fd: int) -> list[int]:
        if fd not in self.cgroups:
            raise OSError(errno.EPERM, "not below the container's own cgroup")
        return self.cgroups[fd]


@dataclass
class FakeNames:
    """ports.Names."""

    known: dict[str, Sequence[str]] = field(default_factory=dict)

    def addresses(self, host: str) -> Sequence[str]:
        if host not in self.known:
            raise OSError(errno.EHOSTUNREACH, host)
        return self.known[host]


@dataclass
class FakeReach:
    """ports.Reach."""

    tracee: FakeTracee = field(default_factory=FakeTracee)
    agent: FakeAgent = field(default_factory=FakeAgent)
    contexts: FakeContexts = field(default_factory=FakeContexts)
    programs: FakePrograms = field(default_factory=FakePrograms)
    modules: FakeModules = field(default_factory=FakeModules)
    device_programs: FakeDevicePrograms = field(default_factory=FakeDevicePrograms)
    names: FakeNames = field(default_factory=FakeNames)


@dataclass
class Asked:
    """One call of one handler, and everything that it left behind."""

    call: Call
    reach: FakeReach
    verdict: Verdict | None = None

    @property
    def done(self) -> list[tuple[Any, ...]]:
        return self.reach.agent.done


def ask(
    name: str,
    args: Any,
    *,
    tracee: FakeTracee | None = None,
    agent: FakeAgent | None = None,
    of: Container | None = None,
    by: Policy | None = None,
    contexts: FakeContexts | None = None,
    programs: FakePrograms | None = None,
    modules: FakeModules | None = None,
    device_programs: FakeDevicePrograms | None = None,
    names: FakeNames | None = None,
    shown: Shown | None = None,
) -> Asked:
    """What handler `name` answers; an exception of its goes through."""
    reach = FakeReach(
        tracee or FakeTracee(), agent or FakeAgent(), contexts or FakeContexts(), programs or FakePrograms(),
        modules or FakeModules(), device_programs or FakeDevicePrograms(), names or FakeNames(),
    )  # fmt: skip
    call = Call(of or container(), by or policy(), Decision(Do.EMULATE, BUILT_IN), reach, shown)
    asked = Asked(call, reach)
    asked.verdict = registry.load()[name].handler(call, args)
    return asked


class Kept(NamedTuple):
    key: str
    fd: int
    note: str = ""


class Memory:
    """A keeper that remembers within this process."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, str], int] = {}

    def keep(self, kind: str, key: str, fd: int, _note: str = "") -> None:
        self.held[kind, key] = os.dup(fd)

    def drop(self, kind: str, key: str) -> None:
        fd = self.held.pop((kind, key), None)
        if fd is not None:
            os.close(fd)

    def inherited(self, kind: str) -> dict[str, Kept]:
        return {key: Kept(key, os.dup(fd)) for (of, key), fd in self.held.items() if of == kind}
