"""The tracee, pinned: opened first, checked with ID_VALID once, trusted afterwards. The only constructor is `pin`.

What is held is one descriptor of /proc/TID, which belongs to that task for ever; root, cwd and namespaces are opened
below it when somebody needs them, never through a number again. See native/pin.h.

Source: seccomp_unotify(2); user_namespaces(7) for who is capable of what.
"""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING, TypeVar

from interceptor.args import Arch
from interceptor.container import DeviceNumber
from interceptor.errors import InterceptorError, NotificationGone
from interceptor.native import mountusers
from interceptor.native import pin as native
from interceptor.native import task as native_task
from interceptor.native.fd import Fd
from interceptor.ports import AT_FDCWD, Cap, CpuMask, Mounted, Namespace
from interceptor.wire import Anchor

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from interceptor.args import Want
    from interceptor.container import Container
    from interceptor.notification import Notification

OVERFLOW_ID = 65534
"""/proc/sys/kernel/overflowuid: what an unmapped id looks like."""


ALL_CAPABILITIES = (1 << 64) - 1
T = TypeVar("T")

_OWN_DESCRIPTOR = re.compile(
    rb"/+(?:proc/+(?:self|thread-self|(?P<pid>[1-9][0-9]*))/+fd|dev/+fd)/+(?P<fd>[0-9]{1,9})(?P<rest>/.*)?\Z", re.DOTALL
)
"""What runc and systemd give as source and target of mounts: a descriptor by its name in procfs (proc_pid_fd(5))."""


Home = dict[Namespace, Fd]
"""The namespaces of a container's init, held while the container is registered. An Fd closes when its last user is done."""


class Pinned:
    """A pinned tracee; satisfies ports.Tracee and the agent's subject. Close it after the answer."""

    def __init__(
        self, container: Container, home: Home, notifier: int, notification: Notification, held: native.Held
    ) -> None:
        self.container = container
        self.notifier_fd = notifier
        self.notification_id = notification.id
        self.tid = notification.tid
        self._arch = notification.arch
        self._held = held
        self._fds: dict[str, int] = {}
        self._home = home
        self._borrowed: list[Fd] = []
        self._status: dict[str, list[str]] | None = None

    @property
    def comm(self) -> str:
        """/proc/TID/comm, at most 10 ms old; the tracee chooses it."""
        return self._held.comm.decode("utf-8", "replace")

    def waits(self) -> bool:
        """Whether it still waits for its answer; a signal may change that at any moment."""
        return native.waits(self.notifier_fd, self.notification_id)

    @property
    def capabilities(self) -> int:
        """Effective set, a bit per capability(7) number; it counts in the tracee's own user namespace."""
        return self._held.cap_effective

    def capable(self, cap: Cap, owner_of: Namespace) -> bool:
        """What ns_capable() would say for the user namespace that owns the tracee's `owner_of`."""
        if self._is_ordinary(owner_of):
            return bool(self.capabilities >> cap & 1)
        return native.capable(self._held.proc, f"ns/{owner_of}", self.capabilities, cap, self.euid)

    def _is_ordinary(self, owner_of: Namespace) -> bool:
        """In init's user and mount namespace, of which the one owns the other: no need to ask the kernel."""
        return (
            owner_of is Namespace.MOUNT
            and self.container.user_namespace == self._held.user_namespace
            and self.container.mount_namespace == self._held.mount_namespace
        )

    @property
    def in_nested_user_namespace(self) -> bool:
        """False also while the container's own user namespace is not known yet (before `created`)."""
        own = self.container.user_namespace
        return own is not None and own != self._held.user_namespace

    def kill(self) -> None:
        """SIGKILL for its whole process."""
        native.kill(self._held.proc)

    def stop_container(self) -> bool:
        """SIGKILL for the container's init, which ends its pid namespace. False while there is no init yet."""
        pid, owner = self.container.init_pid, self.container.user_namespace
        return pid is not None and owner is not None and native.kill_init(pid, owner)

    @property
    def in_inner_container(self) -> bool:
        """In another pid namespace than the container's init; False while there is no init yet."""
        own = self.container.pid_namespace
        return own is not None and own != self.namespace_id(Namespace.PID)

    @property
    def executable(self) -> bytes:
        """The path of its program as its mount namespace names it; the tracee can run any, and change the name."""
        return native.link(self._held.proc, "exe").removesuffix(b" (deleted)")

    def namespace_id(self, namespace: Namespace) -> int:
        if namespace is Namespace.MOUNT:
            return self._held.mount_namespace
        if namespace is Namespace.USER:
            return self._held.user_namespace
        return native.inode(self._held.proc, f"ns/{namespace}")

    @property
    def euid(self) -> int:
        """Effective uid as a host id."""
        if self._held.owner in self.container.ids:
            return self._held.owner
        return int(self._status_field("Uid")[1])

    @property
    def uid_inside(self) -> int:
        return self.euid - self.container.ids.first if self.euid in self.container.ids else OVERFLOW_ID

    @property
    def fsuid(self) -> int:
        """As a host id, like fsgid and groups.

        Container root with CAP_DAC_OVERRIDE needs no look at /proc/TID/status: it may be anybody in its range, so its
        own ids without groups are what it is given, and they are never more than it has.
        """
        return self.container.ids.first if self._is_root else int(self._status_field("Uid")[3])

    @property
    def fsgid(self) -> int:
        return self.container.ids.first if self._is_root else int(self._status_field("Gid")[3])

    @property
    def groups(self) -> tuple[int, ...]:
        return () if self._is_root else tuple(int(group) for group in self._status_field("Groups"))

    @property
    def _is_root(self) -> bool:
        return self._held.owner == self.container.ids.first and bool(self.capabilities >> Cap.DAC_OVERRIDE & 1)

    @property
    def filesystem_ids(self) -> tuple[int, int]:
        """Exactly fsuid and fsgid, as host ids: what new files belong to."""
        return int(self._status_field("Uid")[3]), int(self._status_field("Gid")[3])

    @property
    def umask(self) -> int:
        return int(self._status_field("Umask")[0], 8)

    def namespace_fd(self, namespace: Namespace) -> int:
        """A descriptor of the tracee's namespace, opened once. NotificationGone when the tracee died."""
        if self._is_home(namespace):
            return self._at_home(namespace)
        return self._open(f"ns/{namespace}", path_only=False)

    def _is_home(self, namespace: Namespace) -> bool:
        """Whether it is the one of the container's init: a namespace's inode number is its own as long as it lives."""
        if namespace is Namespace.MOUNT:
            return self._held.mount_namespace == self.container.mount_namespace
        return namespace is Namespace.USER and self._held.user_namespace == self.container.user_namespace

    def _at_home(self, namespace: Namespace) -> int:
        held = self._home.get(namespace)
        if held is None:
            held = self._home.setdefault(
                namespace, Fd(native.open_below(self._held.proc, f"ns/{namespace}", path_only=False))
            )
        self._borrowed.append(held)
        return held.fileno()

    @property
    def proc_fd(self) -> int:
        """/proc/TID, O_PATH."""
        return self._held.proc

    @property
    def root_fd(self) -> int:
        return self._open("root", path_only=True)

    @property
    def cwd_fd(self) -> int:
        return self._open("cwd", path_only=True)

    def take(self, fd: int) -> int:
        """A duplicate of the tracee's descriptor `fd` (pidfd_getfd(2)), kept until close. OSError(EBADF) is the tracee's."""
        key = f"fd/{fd}"
        if key not in self._fds:
            self._fds[key] = native.take(self._held.proc, self.tid, fd)
        return self._fds[key]

    @property
    def long_bits(self) -> int:
        return 32 if self._arch == Arch.I386 else 64

    @property
    def tid_inside(self) -> int:
        return int(self._status_field("NSpid")[-1])

    @property
    def cpus_allowed(self) -> CpuMask:
        digits = "".join(self._status_field("Cpus_allowed")).replace(",", "")
        bits = int(digits, 16)
        cpus = frozenset(cpu for cpu in range(bits.bit_length()) if bits >> cpu & 1)
        return CpuMask(cpus, native.cpumask_size(), least=(len(digits) + 1) // 2)

    def set_nice(self, number: int, nice: int) -> None:
        self._to_task(number, lambda namespace, task: native_task.set_nice(namespace, task, nice))

    def set_scheduler(self, number: int, policy: int, priority: int) -> None:
        self._to_task(number, lambda namespace, task: native_task.set_scheduler(namespace, task, policy, priority))

    def set_priority(self, number: int, priority: int) -> None:
        self._to_task(number, lambda namespace, task: native_task.set_priority(namespace, task, priority))

    def set_attributes(self, number: int, attributes: bytes) -> None:
        self._to_task(number, lambda namespace, task: native_task.set_attributes(namespace, task, attributes))

    def set_io_priority(self, number: int, priority: int) -> None:
        self._to_task(number, lambda namespace, task: native_task.set_io_priority(namespace, task, priority))

    def limit(self, number: int, resource: int) -> tuple[int, int]:
        return self._to_task(number, lambda namespace, task: native_task.limit(namespace, task, resource))

    def set_limit(self, number: int, resource: int, soft: int, hard: int) -> tuple[int, int]:
        return self._to_task(
            number, lambda namespace, task: native_task.set_limit(namespace, task, resource, soft, hard)
        )

    def _to_task(self, number: int, act: Callable[[int, int], T]) -> T:
        """Does something to a task that is the container's by all its uids: ids that no other container has, and no user of
        the host's. The number was that task's all along if it lives when it is done.
        """
        namespace = self.namespace_fd(Namespace.PID)
        if not number:
            self._only_the_containers(int(uid) for uid in self._status_field("Uid"))
            return act(namespace, self.tid_inside)
        with native_task.open_task(namespace, number) as task:
            self._only_the_containers(native_task.uids(task.fileno()))
            result = act(namespace, number)
            if native_task.ended(task.fileno()):
                raise OSError(errno.ESRCH, "it ended meanwhile")
            return result

    def _only_the_containers(self, uids: Iterable[int]) -> None:
        if not all(uid in self.container.ids for uid in uids):
            raise OSError(errno.EPERM, "the task is not the container's")

    def clock(self) -> tuple[int, bytes]:
        return native.clock()

    @property
    def cgroups(self) -> bytes:
        return native.read(self._held.proc, "cgroup")

    def covered(self, fstype: str) -> Sequence[bytes]:
        """Mount points below the tracee's newest visible mount of `fstype` whose root is the filesystem's root.

        The first entry is that mount's own mount point, the rest are relative to it; empty when there is none.
        Source: proc_pid_mountinfo(5); Linux fs/namespace.c mnt_already_visible().
        """
        return covers(native.read(self._held.proc, "mountinfo"), fstype.encode())

    def mounts(self, mount_id: int) -> Sequence[Mounted]:
        return tree(native.read(self._held.proc, "mountinfo"), mount_id)

    def has_mount(self, mount_id: int) -> bool | None:
        """See native.pin.has_mount()."""
        return native.has_mount(self._held.proc, mount_id)

    def in_use(self, mount_ids: Collection[int]) -> bool:
        return mountusers.in_use(self._held.mount_namespace, mount_ids)

    @property
    def number_inside(self) -> int:
        """NStgid lists a process's numbers from the supervisor's pid namespace inwards; init's last one is its namespace's."""
        init = native.levels(self.container.init_pid or 0)
        numbers = self._status_field("NStgid")
        if not 0 < init <= len(numbers):
            raise OSError(errno.ESRCH, "the tracee is outside of the container's pid namespace")
        return int(numbers[init - 1])

    def owns(self, namespace: Namespace) -> bool:
        return native.capable(self._held.proc, f"ns/{namespace}", ALL_CAPABILITIES, Cap.SYS_ADMIN, self.euid)

    def anchor(self, path: bytes, at: int = AT_FDCWD) -> Anchor:
        match = _OWN_DESCRIPTOR.match(path)
        if not match or not self._is_own(match) or not self._has_procfs():
            return Anchor(path) if at == AT_FDCWD or path[:1] == b"/" else Anchor(path, self.take(at))
        try:
            fd = self.take(int(match["fd"]))
        except OSError as error:
            raise OSError(errno.ENOENT, "no such descriptor") from error
        return Anchor((match["rest"] or b"").lstrip(b"/"), fd)

    def _is_own(self, match: re.Match[bytes]) -> bool:
        """Whether the process that the path names by number is the tracee, as its own pid namespace numbers it."""
        return match["pid"] is None or match["pid"].decode() == self._status_field("NStgid")[-1]

    def _has_procfs(self) -> bool:
        """Whether a procfs is mounted where the path says: elsewhere the name means nothing special."""
        return any(
            _type(row) == b"proc" and row[4] == b"/proc" for row in _rows(native.read(self._held.proc, "mountinfo"))
        )

    def name_of(self, fd: int) -> bytes:
        try:
            return native.link(self._held.proc, f"fd/{fd}")
        except NotificationGone:
            self.take(fd)  # EBADF, or it has indeed gone
            raise

    def may_write(self, fd: int) -> bool:
        return native.may_write(self.take(fd))

    def read(self, address: int, length: int) -> bytes:
        return native.copy_from(self._held.proc, address, length)

    def write(self, address: int, data: bytes) -> None:
        native.copy_to(self._held.proc, address, data, self.waits)

    def close(self) -> None:
        for fd in self._fds.values():
            native.close(fd)
        self._fds.clear()
        self._held.close()
        native.settle()  # before the call is answered

    def _open(self, name: str, *, path_only: bool) -> int:
        if name not in self._fds:
            self._fds[name] = native.open_below(self._held.proc, name, path_only=path_only)
        return self._fds[name]

    def _status_field(self, name: str) -> list[str]:
        if self._status is None:
            lines = native.read(self._held.proc, "status").decode("ascii", "replace").splitlines()
            self._status = {key: rest.split() for key, _, rest in (line.partition(":") for line in lines)}
        try:
            return self._status[name]
        except KeyError:
            raise InterceptorError(f"/proc/{self.tid}/status has no {name!r}") from None


def pin(
    container: Container,
    home: Home,
    notifier: int,
    notification: Notification,
    wants: Sequence[Want],
    buffer: native.Buffer,
) -> tuple[Pinned, Sequence[bytes | None]]:
    """Pins the tracee of `notification` and copies `wants` from its memory.

    NotificationGone when it no longer waits. `home` keeps descriptors of the container's own namespaces from one call to
    the next; `buffer` is the calling thread's scratch memory, and is the tracee's until it is closed.
    """
    if not notification.tid:
        raise InterceptorError(
            "the tracee is not visible in the supervisor's pid namespace: run the supervisor in the host's"
        )
    held, pieces = native.pin(notifier, notification.id, notification.tid, wants, buffer)
    return Pinned(container, home, notifier, notification, held), pieces


def covers(mountinfo: bytes, fstype: bytes) -> list[bytes]:
    """See Pinned.covered; `mountinfo` is the text of /proc/TID/mountinfo."""
    rows = _rows(mountinfo)
    whole = [row for row in rows if _type(row) == fstype and row[3] == b"/"]
    if not whole:
        return []
    point = unescape(whole[0][4])
    start = len(point.rstrip(b"/")) + 1
    return [point, *(unescape(row[4])[start:] for row in _mounted_on(rows, whole[0]) if len(unescape(row[4])) > start)]


def tree(mountinfo: bytes, mount_id: int) -> list[Mounted]:
    """See Pinned.mounts; `mountinfo` is the text of /proc/TID/mountinfo."""
    rows = _rows(mountinfo)
    top = next((row for row in rows if row[0] == b"%d" % mount_id), None)
    return [] if top is None else [_mounted(row) for row in (top, *_mounted_on(rows, top))]


def _mounted(row: Sequence[bytes]) -> Mounted:
    major, minor = row[2].split(b":")
    return Mounted(int(row[0]), DeviceNumber(int(major), int(minor)), unescape(row[4]), _type(row))


def _mounted_on(rows: Sequence[Sequence[bytes]], top: Sequence[bytes]) -> Sequence[Sequence[bytes]]:
    """All mounts below `top`, parents before what is mounted on them: mountinfo is in the order of their making."""
    children: dict[bytes, list[Sequence[bytes]]] = {}
    for row in rows:
        children.setdefault(row[1], []).append(row)
    found = list(children.get(top[0], ()))
    for row in found:
        found += children.get(row[0], ())
    return found


def _rows(mountinfo: bytes) -> list[list[bytes]]:
    return [line.split(b" ") for line in mountinfo.split(b"\n") if line]


def _type(row: Sequence[bytes]) -> bytes:
    return row[row.index(b"-") + 1]


def unescape(path: bytes) -> bytes:
    """Undoes mountinfo's octal escapes of space, tab, newline and backslash."""
    out, rest = b"", path
    while b"\\" in rest:
        before, _, rest = rest.partition(b"\\")
        out += before + bytes([int(rest[:3], 8)])
        rest = rest[3:]
    return out + rest
