"""One seccomp notify fd as an object: receive, answer, decision table. The only caller of notify.c.

Source: seccomp_unotify(2).
"""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING, NamedTuple

from interceptor.errors import InterceptorError, NotificationGone
from interceptor.native._native import ffi, lib
from interceptor.native.reserve import Reserved
from interceptor.notification import Notification
from interceptor.stanza import Action, TableRow
from interceptor.verdict import AddFd, Continue, Fail, Return, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from interceptor.args import Arch

CONTINUE_FLAG = 1
"""SECCOMP_USER_NOTIF_FLAG_CONTINUE."""

_ACTIONS = {Action.CONTINUE: lib.IC_CONTINUE, Action.ERRNO: lib.IC_ERRNO, Action.RETURN: lib.IC_RETURN}
_TRACEES_TABLE_IS_FULL = frozenset({-errno.EMFILE, -errno.ENFILE, -errno.ENOMEM})
_NOTE: int = lib.IC_NOTE
_REMEMBERED: int = lib.IC_HITS


class Hit(NamedTuple):
    """One call that was answered without ceremony: by the table (`rule` is the row's) or by a handler from registers."""

    time_ns: int
    tid: int
    arch: int
    nr: int
    args: tuple[int, ...]
    rule: str
    note: int | None
    """What the answering thread gave `Receiver.next`; None for a table hit."""
    verdict: Verdict
    nanoseconds: int


class Table:
    """A compiled decision table: immutable, shared by the sessions of one policy."""

    def __init__(self, rows: Mapping[Arch, Sequence[TableRow]]) -> None:
        self.rows = tuple((arch, row) for arch, of_arch in rows.items() for row in of_arch)
        self.c = ffi.new("struct ic_table *", {"length": len(self.rows), "row": len(self.rows)})
        for number, (arch, row) in enumerate(self.rows):
            self._fill(number, arch, row)

    def _fill(self, number: int, arch: Arch, row: TableRow) -> None:
        if len(row.tests) > lib.IC_CONDITIONS:
            raise InterceptorError(f"{row.rule}: {len(row.tests)} conditions; a table row holds {lib.IC_CONDITIONS}")
        c = self.c.row[number]
        c.arch, c.nr, c.rule = arch, row.nr, number
        c.action, c.value = _ACTIONS[row.action], row.number
        c.conditions = len(row.tests)
        for i, test in enumerate(row.tests):
            c.condition[i].index, c.condition[i].mask, c.condition[i].value = test.index, test.mask, test.value
        self.c.present[row.nr & 511] = 1

    def rule(self, number: int) -> str:
        """``file:line`` of a row; a hit may be older than the table."""
        return self.rows[number][1].rule if number < len(self.rows) else "?"


class Notifier:
    """Owns a notify fd. One thread at a time may be in `Receiver.next`; answers may be sent from any."""

    def __init__(self, fd: int, table: Table, *, poll_first: bool) -> None:
        """Takes ownership of `fd`. `poll_first`: this kernel's RECV does not return when all tracees are gone."""
        self._reserved = Reserved("struct ic_session *", ffi.sizeof("struct ic_session"))
        self._session = self._reserved.pointer
        self._session.notifier, self._session.poll_first = fd, poll_first
        lib.ic_session_table(self._session, table.c)
        self._tables = [table]
        self._drained = 0
        self.fd = fd
        self.sync_wake_up = lib.ic_set_sync_wake_up(fd) == 0

    def use(self, table: Table) -> None:
        """From the next notification on `table` answers what it can. Old tables live as long as the notifier."""
        self._tables.append(table)
        lib.ic_session_table(self._session, table.c)

    def receiver(self) -> Receiver:
        return Receiver(self._session, self._reserved)

    def answer(self, notification_id: int, verdict: Verdict) -> None:
        """Sends one answer. NotificationGone when the tracee no longer waits."""
        if isinstance(verdict, AddFd):
            result = lib.ic_answer_fd(self.fd, notification_id, verdict.fd, verdict.cloexec)
            if result in _TRACEES_TABLE_IS_FULL:  # it still waits
                result = lib.ic_answer(self.fd, notification_id, *wire_form(Fail(-result)))
        else:
            result = lib.ic_answer(self.fd, notification_id, *wire_form(verdict))
        if result < 0:
            raise_for(result, "answer")

    def hits(self) -> tuple[list[Hit], int]:
        """What was answered without ceremony since the last call, oldest first, and how many were overwritten meanwhile."""
        count = self._session.hit_count
        first = max(self._drained, count - _REMEMBERED)
        lost = first - self._drained
        self._drained = count
        since_epoch = time.time_ns() - time.monotonic_ns()
        return [self._hit(since_epoch, number % _REMEMBERED) for number in range(first, count)], lost

    def _hit(self, since_epoch: int, slot: int) -> Hit:
        c = self._session.hit[slot]
        noted = c.rule & _NOTE
        rule = "" if noted else self._tables[-1].rule(c.rule)
        note = c.rule & ~_NOTE if noted else None
        verdict = read_wire_form(c.value, c.error, c.flags)
        return Hit(c.time + since_epoch, c.tid, c.arch, c.nr, tuple(ffi.unpack(c.args, 6)), rule, note, verdict, c.nanoseconds)

    def close(self) -> None:
        """Closes the fd, once. Calls still waiting fail with ENOSYS (seccomp_unotify(2)): only when the session ended."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class Receiver:
    """The receiving side for one thread: its own buffer, so that a parked thread and its successor never share one.

    `next` is the C function itself and `c` and `out` its arguments: a Python method between would cost a tenth of the
    whole round trip (bench/roundtrip.py).
    """

    __slots__ = ("_memory", "c", "next", "out")

    def __init__(self, session: object, memory: Reserved) -> None:
        self.c = session
        self._memory = memory
        self.out = ffi.new("struct ic_notification *")
        self.next: Callable[..., int] = lib.ic_next
        """(c, answered id or 0, value, errno, flags, note or -1, out) → 0, or -ENODEV when all tracees are gone."""

    def notification(self) -> Notification:
        """The last one received."""
        out = self.out
        return Notification(out.id, out.tid, out.arch, out.nr, out.ip, tuple(ffi.unpack(out.args, 6)))


def ended(result: int) -> bool:
    """Whether the result of `Receiver.next` says that all tracees are gone. InterceptorError for any other failure."""
    if result == -errno.ENODEV:
        return True
    raise InterceptorError(f"receiving a notification failed: {os.strerror(-result)}")


def receive_returns() -> bool:
    """Whether this kernel's RECV returns once all tracees are gone; otherwise poll(2) has to be asked each time.

    InterceptorError when the kernel has no seccomp user notification. Forks: before any thread is started.
    """
    result: int = lib.ic_probe_receive_returns()
    if result < 0:
        raise InterceptorError(f"no seccomp user notification here: {os.strerror(-result)}; Linux 5.5 or newer has it")
    return bool(result)


def wire_form(verdict: Verdict) -> tuple[int, int, int]:
    """(value, positive errno, flags) of a verdict, as ic_answer() and ic_next() take them; AddFd has a call of its own."""
    if isinstance(verdict, Return):
        return verdict.value, 0, 0
    if isinstance(verdict, Fail):
        return 0, verdict.errno, 0
    return 0, 0, CONTINUE_FLAG


def read_wire_form(value: int, error: int, flags: int) -> Verdict:
    """The verdict that `wire_form` wrote."""
    if flags & CONTINUE_FLAG:
        return Continue(because="")
    return Fail(error) if error else Return(value)


def raise_for(result: int, what: str) -> None:
    """Raises for a negative errno of a seccomp ioctl: NotificationGone for ENOENT, InterceptorError otherwise."""
    if result == -errno.ENOENT:
        raise NotificationGone(f"{what}: the tracee no longer waits")
    raise InterceptorError(f"{what}: {os.strerror(-result)}")
