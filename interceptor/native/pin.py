"""Pinning a tracee: the Python side of pin.c. The only caller is `interceptor.tracee`."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from interceptor.errors import InterceptorError, NotificationGone
from interceptor.native._native import ffi, lib
from interceptor.native.fd import Fd
from interceptor.native.reserve import Reserved

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from interceptor.args import Want

BUFFER_SIZE = 32768

_GONE = frozenset({errno.ESRCH, errno.ENOENT})


class Buffer:
    """Scratch memory for one receiving thread."""

    __slots__ = ("_reserved", "memory", "pieces", "pin")

    def __init__(self) -> None:
        self._reserved = Reserved("char *", BUFFER_SIZE)
        self.memory = self._reserved.pointer
        self.pieces = ffi.new("struct ic_piece[]", lib.IC_PIECES)
        self.pin = ffi.new("struct ic_pin *")


class Held:
    """What pinning yields: the descriptor of /proc/TID and what was read before the check.

    Read from the thread's buffer when it is asked for: valid until the same buffer is used for the next pinning.
    """

    __slots__ = ("_c", "mount_namespace", "proc", "user_namespace")

    def __init__(self, c: Any) -> None:
        self._c = c
        self.proc: int = c.proc
        self.user_namespace: int = c.user_namespace
        self.mount_namespace: int = c.mount_namespace

    @property
    def owner(self) -> int:
        """uid_t of /proc/TID: the tracee's euid when it is dumpable, host root otherwise."""
        return int(self._c.owner)

    @property
    def cap_effective(self) -> int:
        return int(self._c.cap_effective)

    @property
    def comm(self) -> bytes:
        return bytes(ffi.string(self._c.comm))

    def close(self) -> None:
        fd, self.proc = self.proc, -1
        if fd >= 0:
            os.close(fd)


def pin(
    notifier: int, notification_id: int, tid: int, wants: Sequence[Want], buffer: Buffer
) -> tuple[Held, list[bytes | None]]:
    """See ic_pin(). NotificationGone; InterceptorError for what should not happen (EMFILE)."""
    pieces, memory, c = buffer.pieces, buffer.memory, buffer.pin
    count = 0
    for address, limit, terminated in wants:
        piece = pieces[count]
        piece.address, piece.limit, piece.terminated = address, limit, terminated
        count += 1
    result = lib.ic_pin(notifier, notification_id, tid, c, pieces, count, memory, BUFFER_SIZE)
    if result < 0:
        fail(result, f"pinning thread {tid}")
    copies: list[bytes | None] = []
    for number in range(count):
        piece = pieces[number]
        length = piece.length
        copies.append(ffi.unpack(memory + piece.offset, length) if length >= 0 else None)
    return Held(c), copies


def waits(notifier: int, notification_id: int) -> bool:
    """SECCOMP_IOCTL_NOTIF_ID_VALID."""
    return bool(lib.ic_id_valid(notifier, notification_id) == 0)


def open_below(proc: int, name: str, *, path_only: bool) -> int:
    """A descriptor of NAME below a pinned /proc/TID; the caller's to close."""
    result: int = lib.ic_pin_open(proc, name.encode(), path_only)
    if result < 0:
        fail(result, f"opening {name} of the tracee")
    return result


def inode(proc: int, name: str) -> int:
    """st_ino behind NAME below a pinned /proc/TID; 0 when it is gone."""
    return int(lib.ic_pin_inode(proc, name.encode()))


_INT_MAX = (1 << 31) - 1


def take(proc: int, tid: int, fd: int) -> int:
    """A duplicate of the tracee's descriptor; OSError(EBADF) for a number that it has not open, however large it is."""
    result: int = lib.ic_pin_getfd(proc, tid, fd) if abs(fd) <= _INT_MAX else -errno.EBADF
    if result == -errno.EBADF:
        raise OSError(errno.EBADF, f"the tracee has no descriptor {fd}")
    if result < 0:
        fail(result, f"taking descriptor {fd} of the tracee")
    return result


def same_file(one: int, other: int) -> bool:
    """Whether two descriptors of ours are one open file."""
    return bool(lib.ic_same_file(one, other))


def number_of(tid: int, fd: int) -> int | None:
    """As which descriptor thread `tid` has the open file of `fd`, one of ours; None: as none."""
    try:
        numbers = sorted(int(entry.name) for entry in Path(f"/proc/{tid}/fd").iterdir())
    except OSError:  # it is gone
        return None
    return next((number for number in numbers if lib.ic_is_file_of(tid, number, fd)), None)


def mount_id(fd: int) -> int:
    """The mount that a descriptor of ours lies on, as mountinfo numbers it. Asks no filesystem: it may be a hostile FUSE."""
    with Path(f"/proc/self/fdinfo/{fd}").open("rb") as lines:
        return next((int(line[7:]) for line in lines if line.startswith(b"mnt_id:")), 0)


def levels(pid: int) -> int:
    """How many pid namespaces process `pid` has a number in, from ours inwards; 0 when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return 0
    return next((len(line.split()) - 1 for line in status.splitlines() if line.startswith(b"NStgid:")), 0)


@cache
def cpumask_size() -> int:
    """Bytes that sched_getaffinity(2) fills in."""
    return int(lib.ic_cpumask_size())


def clock() -> tuple[int, bytes]:
    """adjtimex(2) that only reads: the state of CLOCK_REALTIME (TIME_OK …), and its struct timex."""
    timex = ffi.new("struct timex *")
    state = lib.ic_clock(timex)
    if state < 0:
        raise InterceptorError(f"adjtimex: {os.strerror(-state)}")
    return int(state), bytes(ffi.buffer(timex))


def ended(proc: int) -> bool:
    """Whether the task of a /proc/TID has ended."""
    return inode(proc, "ns/user") == 0


def capable(proc: int, namespace: str, cap_effective: int, cap: int, euid: int) -> bool:
    """See ic_pin_capable()."""
    result: int = lib.ic_pin_capable(proc, namespace.encode(), cap_effective, cap, euid)
    if result < 0:
        fail(result, f"asking who owns {namespace} of the tracee")
    return bool(result)


def link(proc: int, name: str) -> bytes:
    """What the magic link NAME below a pinned /proc/TID says (proc_pid_exe(5))."""
    try:
        return os.readlink(name.encode(), dir_fd=proc)
    except OSError as error:
        fail(-(error.errno or errno.EIO), f"reading {name} of the tracee")


def may_write(fd: int) -> bool:
    """Whether an open file was opened for writing (F_GETFL); OSError(EBADF) for one that is only a path."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    if flags & os.O_PATH:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return flags & os.O_ACCMODE != os.O_RDONLY


def kill(proc: int) -> None:
    """SIGKILL for the process of a pinned task; nothing for one that is dead already.

    A descriptor of /proc/TID is a pidfd, unless it is O_PATH (kernel/signal.c pidfd_send_signal(), tgid_pidfd_to_pid()).
    """
    with contextlib.suppress(ProcessLookupError, FileNotFoundError), Fd(_readable(".", proc)) as task:
        signal.pidfd_send_signal(task.fileno(), signal.SIGKILL)


def kill_init(pid: int, user_namespace: int) -> bool:
    """The same for the process numbered `pid`, if it lives in that user namespace (st_ino): a number may be another's."""
    with contextlib.suppress(ProcessLookupError, FileNotFoundError), Fd(_readable(f"/proc/{pid}")) as task:
        if inode(task.fileno(), "ns/user") == user_namespace:
            signal.pidfd_send_signal(task.fileno(), signal.SIGKILL)
            return True
    return False


def _readable(name: str, directory: int | None = None) -> int:
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)


def read(proc: int, name: str) -> bytes:
    """The whole of a file below a pinned /proc/TID."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    except OSError as error:
        fail(-(error.errno or errno.EIO), f"reading {name} of the tracee")
    with os.fdopen(fd, "rb") as file:
        return file.read()


UNIQUE = 1 << 31
"""Where STATX_MNT_ID_UNIQUE begins; STATX_MNT_ID ends before (MNT_UNIQUE_ID_OFFSET in fs/namespace.c)."""


def has_mount(proc: int, mount_id: int) -> bool | None:
    """Whether a mount (STATX_MNT_ID_UNIQUE; before Linux 6.8 STATX_MNT_ID) is in the tracee's mount namespace. None: nobody
    knows (before Linux 6.11, where mountinfo has the other number only).
    """
    if mount_id < UNIQUE:
        return any(line.startswith(b"%d " % mount_id) for line in read(proc, "mountinfo").splitlines())
    try:
        namespace = Fd(os.open("ns/mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc))
    except OSError as error:
        fail(-(error.errno or errno.EIO), "opening the tracee's mount namespace")
    with namespace:
        found = lib.ic_mounts_on(namespace.fileno(), mount_id)
    return None if found < 0 and found != -errno.ENOENT else bool(found >= 0)


def copy_from(proc: int, address: int, length: int) -> bytes:
    """`length` bytes at `address` of the pinned tracee's memory; OSError(EFAULT) unless it can read all of it.

    Nothing is read of nothing, wherever that is said to be (copy_from_user()).
    """
    if not length:
        return b""
    with _memory(proc, os.O_RDONLY) as (memory, maps):
        _must_be_mapped(maps, address, length, write=False)
        data = os.pread(memory, length, address)
    if len(data) < length:
        raise OSError(errno.EFAULT, "unreadable")
    return data


def copy_to(proc: int, address: int, data: bytes, still_waits: Callable[[], bool]) -> None:
    """Writes `data` at `address` of the pinned tracee's memory; OSError(EFAULT) unless it can write to all of it.

    The memory is opened before it is asked whether the tracee still waits: then no other thread has executed a program
    meanwhile, perhaps a privileged one, whose memory this would be (NotificationGone).
    """
    with _memory(proc, os.O_WRONLY) as (memory, maps):
        if not still_waits():
            raise NotificationGone("a signal came before the answer was written")
        if not data:
            return
        _must_be_mapped(maps, address, len(data), write=True)
        written = os.pwrite(memory, data, address)
    if written < len(data):
        raise OSError(errno.EFAULT, "unwritable")


@contextlib.contextmanager
def _memory(proc: int, flags: int) -> Iterator[tuple[int, int]]:
    """/proc/TID/mem and maps of the task that was pinned, whoever has its number now."""
    try:
        with (
            Fd(os.open("mem", flags | os.O_CLOEXEC, dir_fd=proc)) as memory,
            Fd(os.open("maps", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)) as maps,
        ):
            yield memory.fileno(), maps.fileno()
    except OSError as error:
        if error.errno in (errno.EIO, errno.EFAULT):  # EIO: unmapped meanwhile (mem_rw())
            raise OSError(errno.EFAULT, "nothing is mapped there") from error
        fail(-(error.errno or errno.EIO), "its memory")


_TOP = 1 << 63
"""The largest off_t and one."""


def _must_be_mapped(maps: int, address: int, length: int, *, write: bool) -> None:
    """OSError(EFAULT) where the tracee could not do it: through mem whoever may trace it reads and writes everything."""
    if address + length > _TOP:  # a page for vsyscalls may be listed there, which access_ok() does not allow
        raise OSError(errno.EFAULT, "the kernel's half of all addresses")
    result = lib.ic_pin_mapped(maps, address, length, write)
    if result == -errno.ENOTTY:
        with os.fdopen(os.dup(maps), "rb") as lines:
            result = 0 if _is_mapped(lines, address, address + length, b"w" if write else b"r") else -errno.EFAULT
    if result < 0:
        raise OSError(errno.EFAULT, "the tracee has no such memory")


def _is_mapped(lines: Iterable[bytes], address: int, end: int, right: bytes) -> bool:
    """Whether memory up to `end` has that right by /proc/TID/maps, whose lines are in order (proc_pid_maps(5))."""
    for line in lines:
        bounds, rights, _ = line.split(None, 2)
        first, last = (int(bound, 16) for bound in bounds.split(b"-"))
        if address >= last:
            continue
        if first > address or right not in rights:
            return False
        address = last
        if address >= end:
            return True
    return address >= end


def close(fd: int) -> None:
    """Closes a descriptor that one of these functions opened."""
    os.close(fd)


def settle() -> None:
    """Returns when what was closed before is open in no child of ours either (ic_forks_settle())."""
    lib.ic_forks_settle()


def fail(result: int, what: str) -> NoReturn:
    """Raises for -errno: NotificationGone for a task that died, InterceptorError for the rest (ours)."""
    if -result in _GONE:
        raise NotificationGone(f"{what}: it is gone")
    raise InterceptorError(f"{what}: {os.strerror(-result)}")
