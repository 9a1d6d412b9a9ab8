"""A tracee that makes the system calls that a test tells it to, with its notifier on our side."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from support.probes import probe

from interceptor.args import Arch
from interceptor.native.notifier import Notifier, Receiver, Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from interceptor.stanza import TableRow

GETPPID, GETPPID_32 = 110, 64
"""Watched in every tracee; the other architecture's call of either number is one that nothing else makes."""
X32 = 0x4000_0000
PAGE = 4096


class Watched:
    """tests/support/watched.c, paused between calls."""

    def __init__(self, steps: str = "u", *numbers: int) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        watch = [str(number) for number in (GETPPID, GETPPID_32, GETPPID | X32, *numbers)]
        with ours, theirs:
            self.process = subprocess.Popen(
                [str(probe("watched")), steps, str(theirs.fileno()), *watch],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=[theirs.fileno()],
            )  # fmt: skip
            theirs.close()  # so that we hear when the program ends before it sends
            _, fds, _, _ = socket.recv_fds(ours, 1, 1)
        self.fd = fds[0]
        self.memory = int(self._read(), 16)
        """The address of two pages of its; behind them nothing is mapped."""

    @property
    def pid(self) -> int:
        return self.process.pid

    def call(self, number: int, *args: int, abi: int = 64) -> None:
        """Makes it begin a system call; `result` waits for the end."""
        self._write(" ".join([str(abi), str(number), *map(hex, args)]))

    def result(self) -> int:
        """Negative: -errno."""
        return int(self._read())

    def set_name(self) -> int:
        """What the kernel says to sethostname(2) with the name that is set: 0 or -errno."""
        self._write("name")
        return self.result()

    def poke(self, offset: int, data: bytes) -> int:
        """Writes into its memory; the address."""
        fd = os.open(f"/proc/{self.pid}/mem", os.O_WRONLY)
        try:
            assert os.pwrite(fd, data, self.memory + offset) == len(data)
        finally:
            os.close(fd)
        return self.memory + offset

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Lets it exit by itself. Idempotent."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def close(self) -> None:
        self.end()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)  # so that it can reap its own children
        self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _write(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def _read(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the tracee has ended"
        return line

    def link(self, name: str) -> int:
        """The inode that a name below its /proc/PID leads to."""
        return Path(f"/proc/{self.pid}/{name}").stat().st_ino


@contextlib.contextmanager
def watched(steps: str = "u", *numbers: int) -> Iterator[Watched]:
    tracee = Watched(steps, *numbers)
    try:
        yield tracee
    finally:
        tracee.close()


class Session:
    """A notifier and its receiver."""

    def __init__(self, tracee: Watched, rows: Sequence[TableRow] = (), *, poll_first: bool = False) -> None:
        self.table = Table({Arch.X86_64: [row for row in rows if row.nr != GETPPID_32],
                            Arch.I386: [row for row in rows if row.nr == GETPPID_32]})  # fmt: skip
        self.notifier = Notifier(tracee.fd, self.table, poll_first=poll_first)
        self.receiver: Receiver = self.notifier.receiver()

    def next(self, answered: int = 0, value: int = 0, error: int = 0, flags: int = 0, note: int = -1) -> int:
        """Answers, and waits for the next notification that the table does not answer."""
        receiver = self.receiver
        return receiver.next(receiver.c, answered, value, error, flags, note, receiver.out)


@contextlib.contextmanager
def session(tracee: Watched, rows: Sequence[TableRow] = (), *, poll_first: bool = False) -> Iterator[Session]:
    made = Session(tracee, rows, poll_first=poll_first)
    try:
        yield made
    finally:
        made.notifier.close()
