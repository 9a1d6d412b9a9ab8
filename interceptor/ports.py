"""The world as handlers see it: Protocols only. The real ones live above; unit tests bring fakes.

Nothing here opens, reads or locks anything.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from interceptor.args import Directory
from interceptor.verdict import Fail, Verdict

if TYPE_CHECKING:
    from interceptor.container import Container, DeviceNumber
    from interceptor.limits import LentDevice
    from interceptor.loops import LoopFlag
    from interceptor.netmounts import Option
    from interceptor.policy import Decision, FilesystemDecision, Policy, Told
    from interceptor.wire import Anchor


class Namespace(enum.StrEnum):
    """The names below /proc/PID/ns (namespaces(7))."""

    MOUNT = "mnt"
    UTS = "uts"
    PID = "pid"
    NET = "net"
    USER = "user"


class Cap(enum.IntEnum):
    """capabilities(7), the numbers of linux/capability.h, as far as handlers need them."""

    CHOWN = 0
    DAC_OVERRIDE = 1
    DAC_READ_SEARCH = 2
    SYS_MODULE = 16
    SYS_ADMIN = 21
    MKNOD = 27
    SYS_BOOT = 22
    SYS_NICE = 23
    SYS_RESOURCE = 24
    SYS_TIME = 25
    SYSLOG = 34
    BPF = 39


AT_FDCWD = int(Directory.AT_FDCWD)


class Way(enum.Enum):
    """How a call names a file: what three calls of one family differ in."""

    FOLLOW = enum.auto()
    """By a path whose last component may be a symbolic link."""
    NOFOLLOW = enum.auto()
    """By a path; a symbolic link itself is meant (lsetxattr(2))."""
    DESCRIPTOR = enum.auto()
    """By a descriptor (fsetxattr(2)): one that is only a path is EBADF."""


@dataclass(frozen=True, slots=True)
class CpuMask:
    """What sched_getaffinity(2) answers to a task about itself."""

    cpus: frozenset[int]
    size: int
    """Bytes that the kernel fills in, of a buffer that has as many."""
    least: int
    """Bytes below which it says EINVAL: one bit for each CPU that there could be."""


@dataclass(frozen=True, slots=True)
class Mounted:
    """A mount, as the tracee's mountinfo has it (proc_pid_mountinfo(5))."""

    mount_id: int
    device: DeviceNumber
    point: bytes
    """Seen from the tracee's root directory."""
    fstype: bytes


class Tracee(Protocol):
    """The paused thread, pinned: everything was opened first, then checked with ID_VALID once."""

    @property
    def tid(self) -> int: ...

    @property
    def comm(self) -> str: ...

    def capable(self, cap: Cap, owner_of: Namespace) -> bool:
        """What the kernel's ns_capable() would say: `cap` in the user namespace that owns the tracee's `owner_of`."""

    def namespace_id(self, namespace: Namespace) -> int:
        """st_ino of the tracee's namespace."""

    @property
    def number_inside(self) -> int:
        """The tracee's process, as the pid namespace of the container's init numbers it."""

    def owns(self, namespace: Namespace) -> bool:
        """Whether the tracee's `namespace` belongs to its own user namespace or to one below it (never the host's)."""

    def anchor(self, path: bytes, at: int = AT_FDCWD) -> Anchor:
        """Where `path` starts; a relative one at the tracee's descriptor `at`, OSError(EBADF) when that is not open.

        ``/proc/self/fd/N`` and its like become the tracee's own descriptor: for the agent, `self` would mean the agent.
        OSError(ENOENT) for a descriptor that is not open, as procfs says.
        """

    def take(self, fd: int) -> int:
        """A duplicate of its descriptor `fd`, ours until the call is answered; OSError(EBADF) for none."""

    def name_of(self, fd: int) -> bytes:
        """What /proc/TID/fd says of its descriptor: a path as its mount namespace names it. OSError(EBADF) for none."""

    def may_write(self, fd: int) -> bool:
        """Whether its descriptor `fd` is open for writing; OSError(EBADF) for none, or one that is only a path."""

    def read(self, address: int, length: int) -> bytes:
        """Copies memory of the tracee's, after its strings and only once. OSError(EFAULT) unless all of it can be read."""

    def write(self, address: int, data: bytes) -> None:
        """Writes an answer to where the call said. OSError(EFAULT) unless all of it can be written; NotificationGone when
        a signal came before: the memory may have become another's use.
        """

    @property
    def uid_inside(self) -> int:
        """The tracee's effective uid as its container's user namespace numbers it; 65534 for one it does not map."""

    @property
    def in_nested_user_namespace(self) -> bool:
        """Whether the tracee lives in a user namespace below the container's own."""

    @property
    def long_bits(self) -> int:
        """How wide its `long` is: 64, or 32."""

    @property
    def tid_inside(self) -> int:
        """Its own number, as it sees it."""

    @property
    def cpus_allowed(self) -> CpuMask:
        """Where the kernel lets it run."""

    def set_nice(self, number: int, nice: int) -> None:
        """setpriority(2) with CAP_SYS_NICE of the host's, of the task that the tracee's pid namespace numbers so; 0: itself.
        OSError(ESRCH) for none; EPERM for one whose uids are not all the container's.
        """

    def set_scheduler(self, number: int, policy: int, priority: int) -> None:
        """sched_setscheduler(2), likewise."""

    def set_priority(self, number: int, priority: int) -> None:
        """sched_setparam(2), likewise."""

    def set_attributes(self, number: int, attributes: bytes) -> None:
        """sched_setattr(2), likewise; a struct sched_attr whose size is that of `attributes`."""

    def limit(self, number: int, resource: int) -> tuple[int, int]:
        """prlimit(2) that only asks, of a task as for `set_nice`: soft and hard limit (rlim64_t)."""

    def set_limit(self, number: int, resource: int, soft: int, hard: int) -> tuple[int, int]:
        """prlimit(2) with CAP_SYS_RESOURCE of the host's, if the supervisor has it, likewise; what they were before."""

    def set_io_priority(self, number: int, priority: int) -> None:
        """ioprio_set(2), likewise."""

    def clock(self) -> tuple[int, bytes]:
        """What adjtimex(2) answers to whoever only reads: the clock's state (TIME_OK …), and a 64-bit struct timex."""

    @property
    def cgroups(self) -> bytes:
        """/proc/TID/cgroup, as the supervisor sees it."""

    def covered(self, fstype: str) -> Sequence[bytes]:
        """The mount point of a whole, visible `fstype` (proc, sysfs) of the tracee's, then what is mounted below it,
        relative to it, in mount order: what a fresh mount must cover again so that it reveals no more. Empty without one.
        """

    def mounts(self, mount_id: int) -> Sequence[Mounted]:
        """The mount of that id in its mount namespace, then all that is mounted below it, parents first; empty without one."""

    def in_use(self, mount_ids: Collection[int]) -> bool:
        """Whether a process of its mount namespace has a file of these mounts open, or its working or root directory there."""


@dataclass(slots=True, eq=False)
class Context:
    """A filesystem context (fsopen(2)) that was opened for the tracee, and what is known of it."""

    fstype: bytes
    choice: FilesystemDecision
    created: bool = False
    """FSCONFIG_CMD_CREATE was answered with success, and nothing done on the tracee's own context."""
    failed: bool = False
    """Or with an error: nothing can be done with it any more (FS_CONTEXT_FAILED)."""
    native: bool = False
    """Its options ask for what the kernel does for the tracee itself."""
    refusal: int = 0
    """errno of the first option that we could not take over; the kernel may have taken it."""
    mounted: bool = False
    """fsmount(2) was done, and the mount is not attached yet."""
    given: bool = False
    """The tracee has a descriptor of that mount: there is no second one (FS_CONTEXT_AWAITING_RECONF)."""


class Contexts(Protocol):
    """What the new mount API keeps for the container between its calls."""

    def find(self, fd: int) -> Context | None:
        """The context that is the tracee's descriptor `fd`; None for one of the kernel's own, or none at all."""

    def find_mount(self, fd: int) -> Context | None:
        """The context of the detached mount on which the tracee's descriptor `fd` lies."""

    def note(self, context: Context) -> None:
        """What is known of it has changed: the next supervisor is to know that, too."""


class Shown(Protocol):
    """What a container is shown of the machine by calls, as its /proc and /sys show it by files. Any thread."""

    def sysinfo(self, container: Container, tracee: Tracee) -> bytes | None:
        """A struct sysinfo as the tracee's architecture lays it out; None: nothing else than the kernel's own."""

    def cpus(self, container: Container, tracee: Tracee, allowed: frozenset[int]) -> Sequence[int] | None:
        """Those of the CPUs where the tracee is allowed that it is shown, at least one; None: all."""


@dataclass(frozen=True, slots=True)
class Leaves:
    """Files that are mounted over those of a fresh proc or sysfs, one by one."""

    directory: int
    """Descriptor (O_PATH) of where they are."""
    namespace: int
    """Descriptor of the mount namespace in which that is mounted."""
    files: Sequence[tuple[bytes, bytes]]
    """(path in the fresh filesystem, name below `directory`)."""


class Fresh(Protocol):
    """What is mounted over fresh filesystems of containers. Any thread; blocks on nothing of the container's."""

    def leaves(self, container: Container, fstype: str, tracee: Tracee) -> Leaves | None:
        """For the proc or sysfs that `tracee` asks for; None: it stays bare. The descriptors are good as long as the
        container is registered.
        """


class Agent(Protocol):
    """The closed list of what is done inside a container's namespaces. Every method is one action of the agent's.

    Failures of the tracee's making raise OSError with the kernel's errno; ours raise AgentError; a tracee that went
    away before the mount was attached raises NotificationGone.
    """

    def mount(
        self,
        fstype: str,
        at: Anchor,
        *,
        source: bytes | None,
        flags: int,
        options: bytes | None,
        like: Sequence[bytes] = (),
        leaves: Leaves | None = None,
    ) -> None:
        """A fresh mount of `fstype`, made in the host's mount namespace with the tracee's pid and net namespaces and
        attached at `at`; `flags` are MS_*; `like` are covers taken over from the tracee's visible mount (Tracee.covered),
        except those in whose place `leaves` come.
        """

    def stand_in(self, at: Anchor, *, name: str, flags: int) -> None:
        """An empty, read-only tmpfs owned by the container's root, in the place of filesystem `name`."""

    def mount_device(self, device: LentDevice, at: Anchor, *, name: bytes, flags: int) -> None:
        """The host's block device or image, id-mapped by the tracee's user namespace; `name` is what it is called inside.
        OSError(EINVAL) where the filesystem cannot be id-mapped.
        """

    def mount_network(self, fstype: bytes, at: Anchor, *, source: bytes, flags: int, options: Sequence[Option]) -> None:
        """A network filesystem through the tracee's network namespace; waits for its server for a minute."""

    def overlay(self, at: Anchor, *, source: bytes | None, flags: int, options: bytes | None) -> None:
        """An overlay mounted by the container's root kuid with host capabilities; layers resolved as the tracee would."""

    def mount_id(self, at: Anchor, *, follow: bool) -> int:
        """STATX_MNT_ID of the mount whose root `at` is; OSError(EINVAL) when it is no mount point."""

    def detach(self, at: Anchor, mount_id: int, *, follow: bool) -> None:
        """umount2(2) with MNT_DETACH of the mount of that id, with all below it; OSError(EINVAL) when it is not at `at`."""

    def make_node(self, at: Anchor, *, mode: int, device: int) -> None:
        """mknod(2) of a device as the tracee, with CAP_MKNOD of the host's; `mode` with its S_IFMT, `device` as mknod(2)
        encodes it. On a tmpfs of a user namespace's the node is mounted from one of ours, so that it can be opened.
        """

    def open_context(self, context: Context, *, twin: bool) -> int:
        """fsopen(2) of `context.fstype` with the tracee's own rights; a descriptor to inject, and `context` is kept.
        With `twin` a second one, of an overlay, with ours. OSError(ENOSYS) where the kernel cannot (Linux 6.5).
        """

    def set_overlay_option(self, context: Context, key: bytes, value: bytes | int | None) -> None:
        """One option of the twin, checked as one of mount(2)'s; `value` is text, a directory's descriptor, or a flag's None."""

    def create_overlay(self, context: Context) -> None:
        """The twin's superblock; its mounter is the container's root kuid."""

    def mount_context(
        self, context: Context, attributes: int, *, like: Sequence[bytes] = (), leaves: Leaves | None = None
    ) -> None:
        """A detached mount with these MOUNT_ATTR_*: of the twin, of the tracee's own context, or a stand-in; `like` as for
        `mount`.
        """

    def open_mount(self, context: Context) -> int:
        """The root directory of that mount, to inject: a descriptor for reading, opened with the tracee's rights."""

    def move_mount(self, context: Context, at: Anchor, *, follow: bool) -> None:
        """Attaches that mount and lets go of the context."""

    def set_xattr(self, at: Anchor, name: bytes, value: bytes, *, flags: int, how: Way) -> None:
        """setxattr(2) with CAP_SYS_ADMIN of the host's; OSError(EPERM) for a file that is of no id of the container's."""

    def get_xattr(self, at: Anchor, name: bytes, *, how: Way) -> bytes:
        """getxattr(2), likewise; OSError(ENODATA) for such a file."""

    def list_xattr(self, at: Anchor, *, how: Way) -> bytes | None:
        """listxattr(2), likewise, with the names of trusted.*; None where the kernel is to be asked."""

    def remove_xattr(self, at: Anchor, name: bytes, *, how: Way) -> None:
        """removexattr(2), as set_xattr."""

    def may_chown(self, at: Anchor, *, how: Way) -> bool:
        """Whether the file's owner and group are ids of the container's: then the kernel decides about a chown(2)."""

    def read_file(self, fd: int, offset: int, size: int) -> bytes:
        """At most `size` bytes of a regular file that the tracee has open, `fd` a duplicate of ours. OSError(EINVAL) for
        another kind of file, EBADF for one that is not open for reading.
        """

    def loop_status(self, device: int) -> LoopFlag | None:
        """Of /dev/loopN (loops.CONTROL: of /dev/loop-control): what is remembered of the attached file; None where there is
        none. OSError(ENOTTY) when it is no device of ours.
        """

    def attach_loop(self, device: int, file: int, flags: LoopFlag) -> None:
        """Mounts the regular file that our descriptor `file` is, of the tracee's mount namespace, over /dev/loopN.
        OSError(EBUSY) where one is attached.
        """

    def change_loop(self, device: int, flags: LoopFlag) -> None:
        """What is remembered of the attached file. OSError(ENXIO) without one."""

    def detach_loop(self, device: int, *, only: LoopFlag) -> None:
        """Unmounts the file, which stays open to those who have it open. OSError(ENXIO) unless there is one with `only`."""

    def set_hostname(self, name: bytes) -> None:
        """sethostname(2) in the tracee's UTS namespace."""

    def set_domainname(self, name: bytes) -> None:
        """setdomainname(2) in the tracee's UTS namespace."""


class Programs(Protocol):
    """Programs of the container's own."""

    def run(self, argv: Sequence[bytes]) -> tuple[int, str]:
        """Runs one in the container as its root, as its runtime's `exec` does: in its namespaces and cgroup, with its seccomp
        filter and capabilities. The exit status, and the end of what it said. Waits at most as long as for an agent;
        InterceptorError when that is not enough, or where no runtime is.
        """


class Modules(Protocol):
    """The host's kernel modules. Names are as /sys/module has them, with underscores."""

    def present(self, name: str) -> bool:
        """Whether the module works: it is loaded, or built into the kernel."""

    def load(self, name: str) -> None:
        """Loads the host's own module of that name with the host's own modprobe, settings and blacklists included. Waits at
        most as long as for an agent; OSError(ENOENT) where it is not there afterwards, and the reason.
        """


class DeviceProgram(Protocol):
    """A program of type BPF_PROG_TYPE_CGROUP_DEVICE that the container has loaded, and has a descriptor for."""


class DevicePrograms(Protocol):
    """Those of one container, and cgroups below its own: `cgroup` and `fd` are descriptors of the tracee's. OSError with the
    kernel's errno, EPERM for a cgroup that is not the container's.
    """

    @property
    def supported(self) -> bool:
        """Whether the container has a cgroup of its own in v2's hierarchy."""

    def load(self, instructions: bytes, name: bytes) -> int:
        """Has the kernel verify and load struct bpf_insn; a descriptor to inject, by which `find` knows the program again."""

    def find(self, fd: int) -> DeviceProgram | None:
        """The program of such a descriptor; None for any other."""

    def open(self, number: int) -> int | None:
        """Such a descriptor for the program with that number; None for one of which the container has not been told."""

    def information(self, program: DeviceProgram, size: int) -> bytes:
        """The beginning of its struct bpf_prog_info, without what that points to."""

    def attach(self, program: DeviceProgram, cgroup: int, flags: int, replace: DeviceProgram | None) -> None:
        """BPF_PROG_ATTACH; `flags` are BPF_F_*."""

    def detach(self, program: DeviceProgram, cgroup: int) -> None:
        """BPF_PROG_DETACH."""

    def query(self, cgroup: int) -> tuple[int, Sequence[int]]:
        """How programs are attached to that one cgroup, and their numbers."""


class Names(Protocol):
    """The host's resolver."""

    def addresses(self, host: str) -> Sequence[str]:
        """Of a name, in their shortest form; OSError(EHOSTUNREACH) where there are none. Slow."""


Launcher = Callable[[str, "Sequence[bytes]", float], tuple[int, str]]
"""(container's id, argv, seconds) → what Programs.run answers."""


class Reach(Protocol):
    """The two ports of one call, made when a handler first asks for them."""

    @property
    def tracee(self) -> Tracee: ...

    @property
    def agent(self) -> Agent: ...

    @property
    def contexts(self) -> Contexts: ...

    @property
    def programs(self) -> Programs: ...

    @property
    def names(self) -> Names: ...

    @property
    def modules(self) -> Modules: ...

    @property
    def device_programs(self) -> DevicePrograms: ...


@dataclass(slots=True)
class Call:
    """One intercepted call on its way through a handler: who, where, what policy said, and the two ports."""

    container: Container
    policy: Policy
    decision: Decision
    reach: Reach
    shown: Shown | None = None
    fresh: Fresh | None = None
    rule: str = ""
    """``file:line`` that decided, when it is another than the decision's (a filesystem's entry)."""
    why: str = ""
    """For the person who reads the trace."""
    denied: bool = False
    allow: str = ""
    """With `denied`: the entry of a policy file that would have allowed it (``immutable-mounts: false``)."""
    resumed: bool = False
    """An earlier supervisor died in it: what the handler finds done may be its own work."""

    @property
    def tracee(self) -> Tracee:
        return self.reach.tracee

    @property
    def agent(self) -> Agent:
        return self.reach.agent

    @property
    def contexts(self) -> Contexts:
        return self.reach.contexts

    @property
    def programs(self) -> Programs:
        return self.reach.programs

    @property
    def names(self) -> Names:
        return self.reach.names

    @property
    def modules(self) -> Modules:
        return self.reach.modules

    @property
    def device_programs(self) -> DevicePrograms:
        return self.reach.device_programs

    def leaves(self, fstype: str) -> Leaves | None:
        """What comes over a fresh proc or sysfs that the tracee mounts."""
        if self.fresh is None or not self.policy.leaves_everywhere:
            return None
        return self.fresh.leaves(self.container, fstype, self.tracee)

    def deny(self, number: int, why: str, *, allow: str = "") -> Verdict:
        """The verdict of a rule's refusal: `number` is an errno, `why` names the argument that was refused, `allow` is the
        entry of a policy file that would allow it.
        """
        self.denied, self.why, self.allow = True, why, allow
        return Fail(number)


class Operation(Protocol):
    """One operation of the control socket. Runs on a worker thread; raises InterceptorError for what the peer must hear."""

    def __call__(self, request: Request, /) -> Mapping[str, Any]: ...


@dataclass(slots=True)
class Request:
    """One message on the control socket.

    `fds` came with it by SCM_RIGHTS and are closed after the operation. `on_disconnect` holds what is undone when the
    peer's connection ends before the peer said that it succeeded; an operation may push to it or `pop_all()` it.
    """

    body: Mapping[str, Any]
    fds: list[int]
    on_disconnect: ExitStack = field(default_factory=ExitStack)
    afterwards: list[Callable[[], None]] = field(default_factory=list)
    """What is done on the operation's thread once the peer has its answer, or has gone."""


class Kept(Protocol):
    """A descriptor that an earlier supervisor left; the receiver's to close."""

    @property
    def key(self) -> str: ...

    @property
    def fd(self) -> int: ...

    @property
    def note(self) -> str: ...


class Keeper(Protocol):
    """Holds descriptors that must outlive this process, and gives them to the next supervisor (docs/design.md, 6).

    Any thread. Where there is no keeper, keeping does nothing and nothing is inherited.
    """

    def keep(self, kind: str, key: str, fd: int, note: str = "") -> None:
        """Holds a duplicate of `fd`, in the place of an earlier one of that kind and key; `fd` stays the caller's, who
        drops it before closing it.
        """

    def drop(self, kind: str, key: str) -> None:
        """Closes that duplicate; idempotent."""

    def inherited(self, kind: str) -> Mapping[str, Kept]:
        """What an earlier supervisor kept of a kind, by key, once: for Plugin.start. What nobody inherits is closed. It
        stays kept until it is dropped.
        """


class Core(Protocol):
    """What the supervisor offers to plugins."""

    @property
    def keeper(self) -> Keeper: ...

    @property
    def listener_path(self) -> str:
        """Where an OCI runtime sends its notify fds (linux.seccomp.listenerPath)."""

    @property
    def containers(self) -> Mapping[str, Container]: ...

    def policy(self, name: str) -> Policy:
        """A policy by name; ConfigError with the names there are."""

    def choose_policy(self, told: Told) -> Policy:
        """The policy of a new container; ConfigError where it asks for one that it may not have."""

    def register(self, container: Container) -> None:
        """From now on sessions of `container.id` are accepted. InterceptorError for an id that exists."""

    def launch_with(self, launcher: Launcher) -> None:
        """How programs are run in containers (ports.Programs)."""

    def tell_of_notifiers(self, told: Callable[[str, int], None]) -> None:
        """`told(container, pid)` is called when a runtime has sent the notifier of a process; in the control plane's thread."""

    def show(self, shown: Shown) -> None:
        """Containers that are registered from now on are shown what `shown` says."""

    def unregister(self, container_id: str) -> Container | None:
        """Ends sessions and agents of the container; idempotent."""

    def cover_fresh(self, fresh: Fresh) -> None:
        """Containers that are registered from now on get `fresh` over each proc and sysfs that they mount."""


class Plugin(Protocol):
    """What the entry-point group `interceptor.plugins` yields."""

    name: str

    def start(self, core: Core) -> Mapping[str, Operation]:
        """Takes over what an earlier supervisor left, then names the control operations that it serves."""


PluginFactory = Callable[[], Plugin]
