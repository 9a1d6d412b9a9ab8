"""Device programs that a container loaded, and the cgroups below its own to which it may attach them. ports.DevicePrograms.

The program itself never becomes the tracee's. Whoever has a descriptor of one may attach it to every cgroup whose directory
he can open for reading, with no capability at all (cgroup_bpf_prog_attach()): passed on to some user of the host's, it
would turn off every device of the machine. So the tracee gets a pipe's end that means the program to us, and nothing to the
kernel; that also makes each bpf(2) harmless that the kernel is left to do. When its last copy is closed, the program is let go.

Programs of a cgroup and of those above it are asked in turn and all must agree, unless one was attached so that those below
it replace it. Where such a one stands at or above the container's own cgroup, nothing is attached for it: the container only
ever narrows what it may open.

Threads: every method may be called on any.

Source: bpf(2); Linux kernel/bpf/cgroup.c compute_effective_progs(), hierarchy_allows_attach().
"""

from __future__ import annotations

import errno
import os
import re
import select
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from interceptor.native import devicebpf as native
from interceptor.native.fd import Fd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from interceptor.container import Container
    from interceptor.ports import DeviceProgram, Keeper
    from interceptor.ports import Kept as KeptByKeeper

BPF_F_ALLOW_MULTI = 2
OPEN_MAX = 256
"""Programs of one container that are open at once."""
PROGRAMS_MAX, INSTRUCTIONS_MAX = 4096, 1 << 17
"""Programs of one container that live, open or attached, and instructions of all of them."""
DEPTH_MAX = 64
"""Cgroups between the container's own and one that a program is attached to."""
_PIPE = re.compile(r"pipe:\[([0-9]+)\]")


PROGRAM, PIPE = "device program", "device program's pipe"
"""Kinds of what the keeper holds, by the container's id and the pipe's inode number."""


@dataclass(slots=True, eq=False)
class Kept:
    """One open program; satisfies ports.DeviceProgram."""

    program: Fd
    ours: Fd
    """The reading end of the pipe whose writing end the tracee has."""

    @property
    def number(self) -> int:
        return os.fstat(self.ours.fileno()).st_ino


class Programs:
    """All of one container."""

    def __init__(self, container_id: str = "", keeper: Keeper | None = None) -> None:
        """What is open outlives us with `keeper`."""
        self._container_id, self._keeper = container_id, keeper
        self._kept: dict[int, Kept] = {}
        """By the pipe's inode number."""
        self._known: dict[int, int] = {}
        """Number of a program that is the container's → how many instructions it has."""
        self._lock = threading.Lock()

    def adopt(self, program: Fd, ours: Fd) -> None:
        """One that an earlier supervisor had open, and the keeper holds."""
        with self._lock:
            kept = Kept(program, ours)
            self._kept[kept.number] = kept
            self._known.setdefault(_number(program), 0)

    def load(self, instructions: bytes, name: bytes) -> int:
        """Loads one; the descriptor that stands for it, the caller's to close."""
        count = len(instructions) // 8
        with self._lock:
            self._make_room(count)
            program = native.load(instructions, name)
            self._known[_number(program)] = count
            return self._keep(program)

    def open(self, number: int) -> int | None:
        """Another descriptor for the program with that number; None for one that is not known to be the container's."""
        with self._lock:
            if number not in self._known:
                return None
            self._make_room(0)
            return self._keep(native.by_id(number))

    def know(self, numbers: Sequence[int]) -> None:
        """They are attached where nobody else than the container attaches any."""
        with self._lock:
            for number in numbers:
                self._known.setdefault(number, 0)

    def of(self, descriptor: int) -> Kept | None:
        """The program that a descriptor of the tracee's, ours by now, stands for."""
        # Asks no filesystem: it may be a hostile one's file. A path begins with a slash.
        found = _PIPE.fullmatch(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        with self._lock:
            return self._kept.get(int(found[1])) if found else None

    def close(self) -> None:
        with self._lock:
            self._let_go(list(self._kept))

    def _keep(self, program: Fd) -> int:
        ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        kept = Kept(program, Fd(ours))
        self._kept[kept.number] = kept
        if self._keeper is not None:
            self._keeper.keep(PROGRAM, self._key(kept.number), program.fileno())
            self._keeper.keep(PIPE, self._key(kept.number), ours)
        return theirs

    def _let_go(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            if self._keeper is not None:
                self._keeper.drop(PROGRAM, self._key(number))
                self._keeper.drop(PIPE, self._key(number))
            del self._kept[number]

    def _key(self, number: int) -> str:
        return f"{self._container_id}/{number}"

    def _make_room(self, count: int) -> None:
        """Lets go of what the tracees have closed. OSError(ENOMEM) where that is not enough."""
        self._let_go([number for number, kept in self._kept.items() if _closed(kept.ours)])
        if self._has_room(count):
            return
        self._known = {number: each for number, each in self._known.items() if _lives(number)}
        if not self._has_room(count):
            raise OSError(errno.ENOMEM, "the container has too many device programs")

    def _has_room(self, count: int) -> bool:
        instructions = sum(self._known.values()) + count
        return len(self._kept) < OPEN_MAX and len(self._known) < PROGRAMS_MAX and instructions <= INSTRUCTIONS_MAX


def inherit(keeper: Keeper, programs_of: Callable[[str], Programs | None]) -> None:
    """What an earlier supervisor left, for the containers that are known again."""
    programs, pipes = (_taken(keeper.inherited(kind)) for kind in (PROGRAM, PIPE))
    for key in programs.keys() | pipes.keys():
        programs_here = programs_of(key.rpartition("/")[0])
        if programs_here is not None and key in programs and key in pipes:
            programs_here.adopt(programs.pop(key), pipes.pop(key))
        else:
            keeper.drop(PROGRAM, key)
            keeper.drop(PIPE, key)


def _taken(kept: Mapping[str, KeptByKeeper]) -> dict[str, Fd]:
    return {key: Fd(one.fd) for key, one in kept.items()}


def _closed(ours: Fd) -> bool:
    poll = select.poll()
    poll.register(ours.fileno(), 0)
    return bool(poll.poll(0))


def _number(program: Fd) -> int:
    return int.from_bytes(native.information(program.fileno(), 8)[4:8], "little")


def _lives(number: int) -> bool:
    with suppress(FileNotFoundError):
        native.by_id(number).close()
        return True
    return False


class Subject(Protocol):
    """The tracee, as far as it is needed here."""

    def take(self, fd: int) -> int:
        """A duplicate of its descriptor, which is not the caller's to close; OSError(EBADF)."""


class ProgramsOf:
    """ports.DevicePrograms for one call."""

    def __init__(self, programs: Programs, container: Container, tracee: Subject, acting: Callable[[], object]) -> None:
        """`acting` is called before the world is changed."""
        self._programs, self._container, self._tracee, self._acting = programs, container, tracee, acting

    @property
    def supported(self) -> bool:
        return self._container.cgroup != 0

    def load(self, instructions: bytes, name: bytes) -> int:
        return self._programs.load(instructions, name)

    def find(self, fd: int) -> DeviceProgram | None:
        try:
            return self._programs.of(self._tracee.take(fd))
        except OSError:  # the kernel says so itself
            return None

    def open(self, number: int) -> int | None:
        return self._programs.open(number)

    def information(self, program: DeviceProgram, size: int) -> bytes:
        return native.information(_fd(program), size)

    def attach(self, program: DeviceProgram, cgroup: int, flags: int, replace: DeviceProgram | None) -> None:
        with self._below(cgroup) as target:
            self._acting()
            native.attach(target.fileno(), _fd(program), flags, _fd(replace) if replace else -1)

    def detach(self, program: DeviceProgram, cgroup: int) -> None:
        with self._below(cgroup) as target:
            self._acting()
            native.detach(target.fileno(), _fd(program))

    def query(self, cgroup: int) -> tuple[int, Sequence[int]]:
        with self._below(cgroup) as target:
            flags, numbers = native.query(target.fileno())
            self._programs.know(numbers)
            return flags, numbers

    def _below(self, fd: int) -> Fd:
        """The cgroup of the tracee's descriptor, in our own mount. OSError(EBADF) for none, EPERM for one that is not below
        the container's own, or not so that the container can only narrow.
        """
        taken = self._tracee.take(fd)
        native.query(taken)  # EBADF, without asking the file's own filesystem
        target = native.open_cgroup(os.fstat(taken).st_ino)
        own = _above(target, self._container.cgroup)
        if own is None:
            target.close()
            raise OSError(errno.EPERM, "not below the container's own cgroup")
        with own:
            _check_narrowing(own)
        return target


def _fd(program: DeviceProgram) -> int:
    assert isinstance(program, Kept)  # noqa: S101 - there are no others
    return program.program.fileno()


def _parent(cgroup: Fd) -> Fd:
    return Fd(os.open("..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=cgroup.fileno()))


def _inode(cgroup: Fd) -> int:
    return os.fstat(cgroup.fileno()).st_ino


def _above(cgroup: Fd, wanted: int) -> Fd | None:
    """The cgroup above `cgroup` with that inode number; None where it is none, or too far up."""
    here = cgroup
    for _ in range(DEPTH_MAX):
        parent = _parent(here)
        if _inode(parent) == wanted:
            return parent
        if _inode(parent) == _inode(here):  # the root
            return None
        here = parent
    return None


def _check_narrowing(own: Fd) -> None:
    """Whether all programs from the container's own cgroup upwards are asked, whatever is attached below."""
    here = own
    while True:
        flags, numbers = native.query(here.fileno())
        if numbers and not flags & BPF_F_ALLOW_MULTI:
            raise OSError(errno.EPERM, "a program that the host attached would give way to one of the container's")
        parent = _parent(here)
        if _inode(parent) == _inode(here):
            return
        here = parent
