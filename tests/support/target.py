"""Something like a container, without a runtime: an init in namespaces of its own, with its own ids and a small tree.

What the project does on its behalf is compared with what it may do itself: `Target.inside` runs a function there.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import pickle
import shutil
import signal
import stat
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyseccomp

from interceptor.agent_pool import AgentPool, PinnedAgent
from interceptor.container import IdRange
from interceptor.limits import Limits
from interceptor.ports import Namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

FIRST, COUNT = 1_610_612_736, 65_536
"""The target's ids on the host: far above what anything else uses."""
ALL_CAPABILITIES = (1 << 41) - 1

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 0x1000, 0x4000, 0x40000
MNT_DETACH = 2
CLONE = {
    Namespace.MOUNT: 0x20000,
    Namespace.UTS: 0x4000000,
    Namespace.USER: 0x10000000,
    Namespace.PID: 0x20000000,
    Namespace.NET: 0x40000000,
}

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *args: Any) -> int:
    result: int = getattr(_libc, name)(*args)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def mount(source: str | None, at: str, fstype: str | None, flags: int = 0, data: str | None = None) -> None:
    text = [None if value is None else os.fsencode(value) for value in (source, at, fstype, data)]
    _call("mount", text[0], text[1], text[2], ctypes.c_ulong(flags), text[3])


def umount(at: str, flags: int = 0) -> None:
    _call("umount2", os.fsencode(at), flags)


def mounts_have_unique_ids() -> bool:
    """They came with statmount(2)."""
    try:
        _call("syscall", 457, None, None, 0, 0)
    except OSError as error:
        return error.errno != errno.ENOSYS
    return True


def create_superblock(context: int) -> None:
    """fsconfig(FSCONFIG_CMD_CREATE)."""
    _call("syscall", 431, context, 6, None, None, 0)


def unshare(*namespaces: Namespace) -> None:
    _call("unshare", sum(CLONE[namespace] for namespace in namespaces))


def setns(fd: int, namespace: Namespace) -> None:
    _call("setns", fd, CLONE[namespace])


def set_capabilities(effective: int) -> None:
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    low, high = effective & 0xFFFFFFFF, effective >> 32
    _call("capset", header, (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0))


def in_child(function: Callable[[], T]) -> T:
    """What `function` returns or raises in a forked child."""
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(readable)
        try:
            try:
                outcome: tuple[bool, Any] = (True, function())
            except OSError as error:
                outcome = (False, OSError(error.errno, error.strerror))
            except BaseException:  # noqa: BLE001 - reported by the parent
                outcome = (False, AssertionError(traceback.format_exc()))
            with os.fdopen(writable, "wb") as out:
                pickle.dump(outcome, out)
        finally:
            os._exit(0)
    os.close(writable)
    with os.fdopen(readable, "rb") as result:
        data = result.read()
    os.waitpid(pid, 0)
    if not data:
        raise AssertionError("the child ended without a result")
    fine, value = pickle.loads(data)  # noqa: S301 - written by our own child
    if not fine:
        raise value
    return value


class Target:
    """The init of a made-up container, paused; also an agent's subject (agent_pool.AgentSubject)."""

    notifier_fd = -1
    notification_id = 0
    fsuid = fsgid = FIRST
    groups: tuple[int, ...] = ()
    capabilities = ALL_CAPABILITIES
    in_nested_user_namespace = False

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fds = {ns: os.open(f"/proc/{pid}/ns/{ns}", os.O_RDONLY | os.O_CLOEXEC) for ns in CLONE}
        self._proc_fd = os.open(f"/proc/{pid}", os.O_PATH | os.O_CLOEXEC)
        self.root_fd = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_CLOEXEC)
        self.cwd_fd = os.open(f"/proc/{pid}/cwd", os.O_PATH | os.O_CLOEXEC)

    def namespace_fd(self, namespace: Namespace) -> int:
        return self._fds[namespace]

    def take(self, fd: int) -> int:
        raise OSError(errno.EBADF, f"the target has no descriptor {fd}")

    @property
    def proc_fd(self) -> int:
        return self._proc_fd

    def close(self) -> None:
        for fd in (self._proc_fd, *self._fds.values(), self.root_fd, self.cwd_fd):
            os.close(fd)

    def path(self, inside: str) -> Path:
        """The host's way to what the target calls `inside`."""
        return Path(f"/proc/{self.pid}/root") / inside.lstrip("/")

    def mounts(self) -> list[list[str]]:
        """The fields of mountinfo, as the target sees it."""
        return [line.split() for line in Path(f"/proc/{self.pid}/mountinfo").read_text(encoding="utf-8").splitlines()]

    def mount_at(self, point: str) -> list[str] | None:
        """The topmost mount at `point`."""
        found = [fields for fields in self.mounts() if fields[4] == point]
        return found[-1] if found else None

    def inside(self, function: Callable[[], T]) -> T:
        """What `function` returns or raises in a process of the target's, with the ids and capabilities of `self`."""

        def enter() -> T:
            os.setgroups([])
            for namespace in (Namespace.USER, Namespace.PID, Namespace.UTS, Namespace.NET, Namespace.MOUNT):
                setns(self._fds[namespace], namespace)
            os.fchdir(self.root_fd)
            os.chroot(".")
            os.fchdir(self.cwd_fd)
            return in_child(self._as_subject(function))

        return in_child(enter)

    def _as_subject(self, function: Callable[[], T]) -> Callable[[], T]:
        def run() -> T:
            _call("prctl", 8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
            gid, uid = self.fsgid - FIRST, self.fsuid - FIRST
            os.setgroups([group - FIRST for group in self.groups])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            set_capabilities(self.capabilities)
            return function()

        return run


def _write_maps(pid: int) -> None:
    for kind in ("uid_map", "gid_map"):
        Path(f"/proc/{pid}/{kind}").write_text(f"0 {FIRST} {COUNT}\n", encoding="ascii")


def _init(rootfs: str, ready: int, wait: int) -> None:
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    mount(rootfs, rootfs, None, MS_BIND | MS_REC)
    os.chdir(rootfs)
    mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("sysfs", "sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("tmpfs", "data", "tmpfs", 0, "mode=755")
    _call("pivot_root", b".", b".")
    umount(".", MNT_DETACH)
    os.chdir("/")
    os.write(ready, b"r")
    os.read(wait, 1)


@contextlib.contextmanager
def _paused(set_up: Callable[[int, int], None]) -> Iterator[int]:
    """The pid of a process that unshared everything, ran `set_up` as pid 1 there and waits."""
    unshared, unshared_w = os.pipe()
    mapped_r, mapped = os.pipe()
    ready, ready_w = os.pipe()
    wait_r, wait = os.pipe()
    outer = os.fork()
    if outer == 0:
        try:
            os.close(wait)
            os.close(ready)
            unshare(*CLONE)
            os.write(unshared_w, b"u")
            os.read(mapped_r, 1)
            os.setgroups([])
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            inner = os.fork()
            if inner == 0:
                os.close(unshared_w)
                set_up(ready_w, wait_r)
                os._exit(0)
            os.close(ready_w)
            os.waitpid(inner, 0)
        except BaseException:  # noqa: BLE001 - the parent sees that nothing came
            traceback.print_exc()
        finally:
            os._exit(0)
    for fd in (unshared_w, mapped_r, ready_w, wait_r):
        os.close(fd)
    try:
        if os.read(unshared, 1) != b"u":
            raise AssertionError("the target could not unshare its namespaces")
        _write_maps(outer)
        os.write(mapped, b"m")
        if os.read(ready, 1) != b"r":
            raise AssertionError("the target could not set itself up")
        yield int(Path(f"/proc/{outer}/task/{outer}/children").read_text(encoding="ascii"))
    finally:
        for fd in (unshared, mapped, ready, wait):
            os.close(fd)
        os.waitpid(outer, 0)


def _own(path: Path, uid: int, mode: int) -> None:
    os.chown(path, uid, uid)
    path.chmod(mode)


@contextlib.contextmanager
def target() -> Iterator[Target]:
    """A target whose tree lies on the filesystem of temporary files; gone without a trace afterwards."""
    top = Path(tempfile.mkdtemp(prefix="interceptor-test-"))
    top.chmod(0o711)
    rootfs = top / "rootfs"
    try:
        for name in (".", "proc", "sys", "data", "mnt", "etc"):
            (rootfs / name).mkdir(exist_ok=True)
            _own(rootfs / name, FIRST, 0o755)
        os.mknod(rootfs / "fuse", stat.S_IFCHR | 0o666, os.makedev(10, 229))
        (rootfs / "fuse").chmod(0o666)
        with _paused(lambda ready, wait: _init(str(rootfs), ready, wait)) as pid:
            subject = Target(pid)
            try:
                yield subject
            finally:
                subject.close()
                os.kill(pid, signal.SIGKILL)
    finally:
        shutil.rmtree(top)


def _unshare_below(outer: Target, ready: int, wait: int) -> None:
    """The nested process is our child: only a process of the parent user namespace may write its maps."""
    for namespace in (Namespace.USER, Namespace.MOUNT):
        setns(outer.namespace_fd(namespace), namespace)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    unshared, unshared_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(unshared)
        unshare(Namespace.USER, Namespace.MOUNT)
        _call("prctl", 4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: else its maps belong to the host's root
        os.chdir("/")
        os.write(unshared_w, b"u")
        os.read(wait, 1)
        os._exit(0)
    os.close(unshared_w)
    os.read(unshared, 1)
    os.write(ready, b"r")
    os.waitpid(pid, 0)


@contextlib.contextmanager
def nested(outer: Target) -> Iterator[Target]:
    """A process in a user and a mount namespace below those of `outer`, with all capabilities there."""
    ready, ready_w = os.pipe()
    wait_r, wait = os.pipe()
    parent = os.fork()
    if parent == 0:
        try:
            os.close(wait)
            _unshare_below(outer, ready_w, wait_r)
        except BaseException:  # noqa: BLE001 - the parent sees that nothing came
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(ready_w)
    os.close(wait_r)
    try:
        if os.read(ready, 1) != b"r":
            raise AssertionError("no nested user namespace")
        pid = int(Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii"))
        in_child(lambda: _map_below(outer, pid))
        subject = Target(pid)
        subject.in_nested_user_namespace = True
        yield subject
        subject.close()
    finally:
        os.close(ready)
        os.close(wait)
        os.waitpid(parent, 0)


def _map_below(outer: Target, pid: int) -> None:
    proc = os.open(f"/proc/{pid}", os.O_PATH)
    setns(outer.namespace_fd(Namespace.USER), Namespace.USER)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    for kind in ("uid_map", "gid_map"):
        fd = os.open(kind, os.O_WRONLY, dir_fd=proc)
        os.write(fd, f"0 0 {COUNT}\n".encode())
        os.close(fd)


@contextlib.contextmanager
def idmapped(outer: Target, point: str) -> Iterator[None]:
    """Mounts the directory `point` of the target's over itself with its ids: what is 0 on disk is its root inside."""

    def attach() -> None:
        users = outer.namespace_fd(Namespace.USER)
        setns(outer.namespace_fd(Namespace.MOUNT), Namespace.MOUNT)
        tree = _syscall("open_tree", -100, os.fsencode(point), 0x80001)  # OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC
        attributes = (ctypes.c_uint64 * 4)(0x100000, 0, 0, users)  # MOUNT_ATTR_IDMAP
        _syscall("mount_setattr", tree, b"", 0x1000, attributes, 32)
        _syscall("move_mount", tree, b"", -100, os.fsencode(point), 4)

    in_child(attach)
    try:
        yield
    finally:
        outer.inside(lambda: umount(point))


def _syscall(name: str, *args: Any) -> int:
    return _call("syscall", pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name), *args)


def error_of(function: Callable[[], object]) -> str | None:
    """The name of the errno that `function` fails with; None when it does not."""
    try:
        function()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return None


@contextlib.contextmanager
def agent(subject: Target, *, unless: int = 0) -> Iterator[PinnedAgent]:
    """An agent for `subject`."""
    pool = AgentPool(IdRange(FIRST, COUNT), Limits())
    try:
        yield PinnedAgent(pool, subject, unless=unless)
    finally:
        pool.close()
    assert pool.abandoned == 0


def why_not() -> str | None:
    """Why targets cannot be made here; None when they can."""
    if os.geteuid() != 0:
        return "needs root: a target has an id range of its own"
    with contextlib.suppress(OSError):
        if int(Path("/proc/sys/user/max_user_namespaces").read_text(encoding="ascii")) > 0:
            return None
    return "needs user namespaces (user.max_user_namespaces is 0)"
