"""One seccomp notify fd as an object: receive, answer, decision table. The only caller of notify.c.

Source: seccomp_unotify(2).
"""

from __future__ import annotations

import errno
import os
import struct
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from interceptor.errors import InterceptorError, NotificationGone
from interceptor.native._native import ffi, lib
from interceptor.native.numbers import block
from interceptor.native.reserve import Reserved
from interceptor.notification import Notification
from interceptor.stanza import Action, TableRow
from interceptor.verdict import AddFd, Continue, Fail, Return, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from interceptor.args import Arch
    from interceptor.native.journal import Slot
    from interceptor.native.looks import Looks
    from interceptor.shortcut import Ending

CONTINUE_FLAG = 1
"""SECCOMP_USER_NOTIF_FLAG_CONTINUE."""

_ACTIONS = {Action.CONTINUE: lib.IC_CONTINUE, Action.ERRNO: lib.IC_ERRNO, Action.RETURN: lib.IC_RETURN,
            Action.LOOK: lib.IC_LOOK, Action.ASK: lib.IC_ASK}  # fmt: skip
_TRACEES_TABLE_IS_FULL = frozenset({-errno.EMFILE, -errno.ENFILE, -errno.ENOMEM})
_NOTE: int = lib.IC_NOTE
_LOOKED: int = lib.IC_LOOKED
_NOBODY: int = lib.IC_NOBODY
_HITS: int = lib.IC_HITS
_TEXT: int = lib.IC_TEXT
FULL: int = lib.IC_FULL
"""`Receiver.next` received nothing: `Notifier.collect` first."""
UNTAKEN: int = lib.IC_UNTAKEN
SLOW: int = lib.IC_SLOW
LOST: int = lib.IC_LOST
WANTED: int = lib.IC_WANTED
"""What `Receiver.next` says of the agent that C used (notify.h)."""
UNHEARD: int = lib.IC_UNHEARD
"""It received nothing, because nobody waited for the answer that it was to send first."""
UNREAD = 32
"""How many times a session's hits are collected before somebody has to read them, or loses the oldest: some thirty
thousand calls."""


class Hit(NamedTuple):
    """One call that was answered without ceremony: by the table (`rule` is the row's), by a handler from registers
    (`note`), or after a look at its strings (`looked`).
    """

    time_ns: int
    """When it was answered (CLOCK_MONOTONIC)."""
    tid: int
    arch: int
    nr: int
    args: tuple[int, ...]
    rule: str
    note: int | None
    """What the answering thread gave `Receiver.next`."""
    looked: Ending | None
    """How it ended, of a call that was looked at."""
    verdict: Verdict | None
    """None: the tracee was gone before anything was done."""
    nanoseconds: int
    comm: str
    """Empty where nobody looked."""
    texts: tuple[bytes, ...]
    """Its strings, each with its NUL, in the order in which they were copied."""


class _Collected(NamedTuple):
    """Hits as they lie in C's memory, and the ring that their strings are in."""

    hits: bytes
    text: bytes


class Table:
    """A compiled decision table: immutable, shared by the sessions of one policy."""

    def __init__(self, rows: Mapping[Arch, Sequence[TableRow]]) -> None:
        numbered = [(arch, row) for arch, of_arch in rows.items() for row in of_arch]
        self._rules = tuple(row.rule for _, row in numbered)
        self.numbers = range(first := block(len(numbered)), first + len(numbered))
        """What hits call its rows."""
        self.c = ffi.new("struct ic_table *", {"length": len(numbered), "row": len(numbered)})
        for number, (arch, row) in enumerate(numbered):
            self._fill(number, arch, row)

    def _fill(self, number: int, arch: Arch, row: TableRow) -> None:
        if len(row.tests) > lib.IC_CONDITIONS:
            raise InterceptorError(f"{row.rule}: {len(row.tests)} conditions; a table row holds {lib.IC_CONDITIONS}")
        c = self.c.row[number]
        c.arch, c.nr, c.rule = arch, row.nr, self.numbers[number]
        c.action, c.value = _ACTIONS[row.action], row.number
        c.conditions = len(row.tests)
        for i, test in enumerate(row.tests):
            c.condition[i].index, c.condition[i].mask, c.condition[i].value = test.index, test.mask, test.value
        if row.text:
            c.text.index, c.text.exact = row.text.index, row.text.exact
            c.text.length, c.text.pattern = len(row.text.pattern), row.text.pattern
        self.c.present[row.nr & 511] = 1

    def rule(self, number: int) -> str:
        """``file:line`` of the row with that number."""
        return self._rules[number - self.numbers.start]


class Pace:
    """How many calls a second may come, of all sessions of a container together (native/pace.h)."""

    def __init__(self, rate: int) -> None:
        self.c = ffi.new("struct ic_pace *")
        self.allow(rate)

    def allow(self, rate: int) -> None:
        """Calls a second, from now on; 0: as many as come."""
        lib.ic_pace_set(self.c, rate)


class Notifier:
    """Owns a notify fd. One thread at a time may be in `Receiver.next`; answers may be sent from any."""

    def __init__(
        self, fd: int, table: Table, *, poll_first: bool, slot: Callable[[], Slot | None] = lambda: None,
        pace: Pace | None = None, giver: Callable[[AddFd, Callable[[], int]], int] | None = None,
    ) -> None:  # fmt: skip
        """Takes ownership of `fd`. `poll_first`: this kernel's RECV does not return when all tracees are gone. `slot`:
        where in the journal a thread receives to. `giver`: where what a tracee is given outlives us, for one that no signal
        interrupts; without it descriptor and answer are one step.
        """
        self._slot = slot
        self._giver = giver
        self._reserved = Reserved("struct ic_session *", ffi.sizeof("struct ic_session"))
        self._session = self._reserved.pointer
        self._session.notifier, self._session.poll_first = fd, poll_first
        lib.ic_session_table(self._session, table.c)
        self._tables = [table]
        self._pace = pace
        if pace is not None:
            lib.ic_session_pace(self._session, pace.c)
        self._looks: list[Looks] = []
        self._lock = Lock()
        self._taken = 0
        self._collected: list[_Collected] = []
        self._lost = 0
        self.fd = fd
        self.sync_wake_up = lib.ic_set_sync_wake_up(fd) == 0

    def use(self, table: Table) -> None:
        """From the next notification on `table` answers what it can. Old tables live as long as the notifier."""
        if self._tables[-1] is not table:
            self._tables.append(table)
            lib.ic_session_table(self._session, table.c)

    def look(self, looks: Looks) -> None:
        """From the next notification on C looks at what the table says is to be looked at. Costs nothing when it did."""
        if not self._looks or self._looks[-1] is not looks:
            self._looks.append(looks)
            lib.ic_session_shortcut(self._session, looks.c)

    def receiver(self, slot: Slot | None = None) -> Receiver:
        """For one thread; `slot` holds what it is to finish."""
        return Receiver(self._session, self._reserved, slot or self._slot())

    def parked(self, more: int) -> None:
        """So many more calls of this session are carried out elsewhere. Under a lock of the caller's."""
        self._session.parked += more

    def made(self, call: Sequence[int], text: bytes) -> int:
        """Number of the mount that an earlier self of a call made; 0: none.

        `call` is thread, architecture, number, instruction pointer and registers; `text` its strings, each with its NUL,
        in the order in which they are copied.
        """
        return int(lib.ic_made_find(self._session, _made_key(call, text)))

    def remember(self, call: Sequence[int], text: bytes, mount_id: int, seconds: float) -> None:
        """A mount was made for a call, whose answer may not have been heard."""
        lib.ic_made_put(self._session, _made_key(call, text), mount_id, int(seconds * 1e9))

    def answer(self, notification_id: int, verdict: Verdict) -> Verdict:
        """Sends one answer, and returns it as the tracee has it: an injected descriptor as its number there, or as its errno.

        NotificationGone when the tracee no longer waits.
        """
        if isinstance(verdict, AddFd):
            number = self._give(notification_id, verdict)
            if number < 0 and number not in _TRACEES_TABLE_IS_FULL:
                raise_for(number, "answer")
            if number >= 0 and self._giver is None:
                return Return(number)
            verdict = Return(number) if number >= 0 else Fail(-number)  # it still waits
        result = lib.ic_answer(self.fd, notification_id, *wire_form(verdict))
        if result < 0:
            raise_for(result, "answer")
        return verdict

    def _give(self, notification_id: int, verdict: AddFd) -> int:
        """Number of the descriptor or negative errno. Without a giver that is the answer, too: a signal between the two would
        leave the tracee a descriptor of which it knows nothing.
        """
        answer = self._giver is None

        def give() -> int:
            return int(lib.ic_give_fd(self.fd, notification_id, verdict.fd, verdict.cloexec, answer))

        return give() if self._giver is None else self._giver(verdict, give)

    def collect(self) -> None:
        """Makes room for more hits; `hits` reads what was collected. On any thread."""
        c, size = self._session, ffi.sizeof("struct ic_hit")
        with self._lock:
            count, text_count = c.hit_count, c.text_count
            if count == self._taken:
                return
            first, last = self._taken % _HITS, (count - 1) % _HITS + 1
            parts = [(first, last)] if first < last else [(first, _HITS), (0, last)]
            raw = b"".join(bytes(ffi.buffer(c.hit + a, (b - a) * size)) for a, b in parts)
            self._collected.append(_Collected(raw, bytes(ffi.buffer(c.text, _TEXT))))
            self._taken = count
            lib.ic_session_taken(c, count, text_count)
            while len(self._collected) > UNREAD:
                self._lost += len(self._collected.pop(0).hits) // size

    def hits(self) -> tuple[list[Hit], int]:
        """What was answered without ceremony since the last call, oldest first, and how many were lost before them."""
        self.collect()
        with self._lock:
            collected, self._collected = self._collected, []
            lost, self._lost = self._lost, 0
        return [self._hit(c, part.text) for part in collected for c in _each(part.hits)], lost

    def _hit(self, c: Any, text: bytes) -> Hit:
        noted = c.rule & ~_NOTE if c.rule & _NOTE else None
        looked = c.rule & ~_LOOKED if c.rule & _LOOKED and noted is None else None
        rule = self._rule(c.rule) if noted is None and looked is None else ""
        ending = next((i.ending(looked) for i in self._looks if looked in i.numbers), None) if looked is not None else None
        verdict = None if c.flags & _NOBODY else read_wire_form(c.value, c.error, c.flags)
        comm, texts = read_texts(text[c.text : c.text + c.text_length])
        return Hit(
            c.time, c.tid, c.arch, c.nr, tuple(ffi.unpack(c.args, 6)), rule, noted, ending, verdict,
            c.nanoseconds, comm, texts,
        )  # fmt: skip

    def _rule(self, number: int) -> str:
        """A hit may be older than the table that is used now."""
        return next((table.rule(number) for table in reversed(self._tables) if number in table.numbers), "?")

    def close(self) -> None:
        """Closes the fd, once. Calls still waiting fail with ENOSYS (seccomp_unotify(2)): only when the session ended."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            lib.ic_session_end(self._session)
            os.close(fd)


_AGAIN = struct.Struct("=9Q")
"""struct ic_again (shortcut.h)."""


def _made_key(call: Sequence[int], text: bytes) -> int:
    tid, arch, number, *rest = call
    again = _AGAIN.pack(tid, arch << 32 | number, *rest) + text
    return lib.ic_made_key(again, len(again))  # type: ignore[no-any-return]


def _each(hits: bytes) -> Iterator[Any]:
    """The `struct ic_hit` of which `hits` is made."""
    return iter(ffi.from_buffer("struct ic_hit[]", hits))


class Receiver:
    """The receiving side for one thread: its own buffer, so that a parked thread and its successor never share one.

    `next` is the C function itself and `c` and `out` its arguments: a Python method between would cost a tenth of the
    whole round trip (bench/roundtrip.py).
    """

    __slots__ = ("_memory", "c", "next", "out", "slot")

    def __init__(self, session: Any, memory: Reserved, slot: Slot | None = None) -> None:
        self.c = session
        self._memory = memory
        self.slot = slot
        self.out = ffi.new("struct ic_notification *")
        if slot is not None:
            self.out.record = slot.c
        self.next: Callable[..., int] = lib.ic_next
        """(c, answered id or 0, value, errno, flags, note or -1, out) → 0, FULL, or -ENODEV when all tracees are gone."""

    def close(self) -> None:
        """By its thread, which receives no more."""
        if self.slot is not None:
            self.slot.close()
            self.out.record = ffi.NULL

    def notification(self) -> Notification:
        """The last one received."""
        out = self.out
        return Notification(out.id, out.tid, out.arch, out.nr, out.ip, tuple(ffi.unpack(out.args, 6)))

    def handed(self) -> tuple[str, tuple[bytes, ...]]:
        """The tracee's name and the strings of the last one received, when it came with SLOW or LOST."""
        return read_texts(bytes(ffi.buffer(self.c.handed, self.c.handed_length)))


def read_texts(text: bytes) -> tuple[str, tuple[bytes, ...]]:
    """The thread's name, and the strings of the call, each with its NUL (ic_hit.text)."""
    comm, *texts = text.split(b"\0")
    return comm.decode("utf-8", "replace"), tuple(piece + b"\0" for piece in texts[:-1])


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


def raise_for(result: int, what: str) -> NoReturn:
    """Raises for a negative errno of a seccomp ioctl: NotificationGone for ENOENT, InterceptorError otherwise."""
    if result == -errno.ENOENT:
        raise NotificationGone(f"{what}: the tracee no longer waits")
    raise InterceptorError(f"{what}: {os.strerror(-result)}")
