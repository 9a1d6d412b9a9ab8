"""The journal (journal.h) as objects: a record for each receiving thread, and what an earlier supervisor left unanswered."""

from __future__ import annotations

import errno
import itertools
import os
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from interceptor.errors import ConfigError
from interceptor.native._native import ffi, lib
from interceptor.native.agentlink import AGENT, STAYS, dismiss, overtaken
from interceptor.native.fd import Fd
from interceptor.native.notifier import read_wire_form
from interceptor.native.parcel import Parcel
from interceptor.native.pin import mount_id, number_of
from interceptor.notification import Notification
from interceptor.verdict import AddFd, Return

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from interceptor.ports import Keeper, Kept
    from interceptor.verdict import Verdict

JOURNAL = "journal"
"""The kind and key under which the keeper holds it."""
PATIENCE = 1.0
"""Seconds for agents of the earlier supervisor to end; one that is stopped, or waits for a disk, is not waited for longer."""
GIFT = "gift"
"""The kind of the parcels with what is being given to a tracee, by number."""
_gifts = itertools.count(time.monotonic_ns())
"""Those of an earlier supervisor do not come again."""
VERSION: int = lib.IC_JOURNAL_VERSION


def alone() -> None:
    """The calling thread is about to change something without an agent: if it dies in that, nobody knows whether it did."""
    lib.ic_journal_alone()


class Slot:
    """One record; `c` is its pointer. `close` gives it back, struck off."""

    __slots__ = ("_journal", "_number", "c")

    def __init__(self, journal: Journal, number: int) -> None:
        self._journal, self._number = journal, number
        self.c: Any = journal.record(number)

    def enter(self) -> None:
        """The calling thread works on what the record holds."""
        lib.ic_journal_enter(self.c)

    def close(self) -> None:
        lib.ic_journal_enter(ffi.NULL)
        self._journal.release(self._number)


class Reply(NamedTuple):
    """What an agent answered to the one request that may have changed something."""

    error: int
    done: bool
    value: int
    asked: bool = True
    """False: the request was not sent, and nothing was done."""
    given: tuple[Fd, ...] = ()
    """What came with it, of an action in agentlink.STAYS; nothing where the earlier supervisor had settled that."""


class Gift:
    """A descriptor that is being given to a tracee, and outlives us meanwhile."""

    def __init__(self, keeper: Keeper, key: str, parcel: Parcel) -> None:
        self._keeper, self._key, self._parcel = keeper, key, parcel

    @classmethod
    def of(cls, keeper: Keeper, number: int, fd: int) -> Self:
        """`fd` stays the caller's, too."""
        parcel = Parcel.of(b"gift", [fd])
        keeper.keep(GIFT, str(number), parcel.fileno())
        return cls(keeper, str(number), parcel)

    def look(self) -> int | None:
        """A duplicate, the caller's to close; None: it was just given up."""
        fds = self._parcel.look()[1]
        return fds[0] if fds else None

    def close(self) -> None:
        """Of what was kept nothing is open any more when this returns."""
        self._parcel.empty()
        self._keeper.drop(GIFT, self._key)
        self._parcel.close()


class Unfinished:
    """A notification that an earlier supervisor had received and not answered."""

    def __init__(self, slot: Slot, agents: Mapping[str, Kept], gifts: dict[str, Gift]) -> None:
        self.slot = slot
        self.stage: int = slot.c.stage
        out = ffi.new("struct ic_notification *")
        lib.ic_journal_read(slot.c, out)
        self.notification = Notification(out.id, out.tid, out.arch, out.nr, out.ip, tuple(ffi.unpack(out.args, 6)))
        self._agent = agents.get(str(slot.c.agent))
        self._gift = gifts.pop(str(slot.c.cookie), None) if self.stage == lib.IC_GIVING else None

    @property
    def answer(self) -> Verdict | None:
        """What was to be answered; None when that was not known yet."""
        c = self.slot.c
        return read_wire_form(c.value, c.error, c.flags) if self.stage == lib.IC_ACTED else None

    @property
    def acting(self) -> bool:
        """Whether an agent may have done something."""
        return bool(self.stage == lib.IC_ACTING)

    @property
    def unmounting(self) -> int:
        """The mount that an agent was asked to unmount (STATX_MNT_ID_UNIQUE); 0: it was asked for something else."""
        c = self.slot.c
        return int(c.value) if self.acting and c.flags == lib.AGENT_DETACH else 0

    def reply(self, patience: float) -> Reply | None:
        """What that agent answered, or answers within `patience` seconds; None: nobody will ever know."""
        c, stay = self.slot.c, self.slot.c.flags in STAYS
        reply = ffi.addressof(c, "reply")
        given: tuple[Fd, ...] = ()
        if reply.cookie == c.cookie:
            given = self._given() if stay else ()
        elif self._agent is not None:  # straight into the record
            if overtaken(self._agent.fd, c.cookie, reply, patience, stay=stay):
                return Reply(0, done=False, value=0, asked=False)
            given = _given(reply) if stay and reply.cookie == c.cookie else ()
        if reply.cookie != c.cookie:
            return None
        return Reply(reply.error, reply.outcome == lib.AGENT_DONE, reply.value, given=given)

    def _given(self) -> tuple[Fd, ...]:
        """What is in the socket still, if it is this reply's."""
        reply = ffi.new("struct agent_reply *")
        if self._agent is None or lib.ic_agent_wait(self._agent.fd, self.slot.c.cookie, reply, 0, 1) <= 0:
            return ()
        return _given(reply)

    def given(self) -> tuple[AddFd | Return, int] | None:
        """What was being given to the tracee, as the answer that is left: what it has not got yet (then the descriptor is the
        caller's to close), or its number there; and the mount that it lies on. None: nothing was given, nor is. Once.
        """
        fd = self._gift.look() if self._gift is not None else None
        if self._gift is None or fd is None:
            return None
        number, mount = number_of(self.notification.tid, fd), mount_id(fd)
        if number is None:
            answer: AddFd | Return = AddFd(fd, cloexec=bool(self.slot.c.flags))
        else:
            lib.ic_journal_given(number)
            os.close(fd)
            answer = Return(number)
        self._gift.close()
        return answer, mount

    def settle(self) -> None:
        """The agent is needed no more, and what its reply brought is safe. It may have been asked for more after that."""
        if self.acting and self._agent is not None:
            dismiss([self._agent.fd], PATIENCE)


def _given(reply: Any) -> tuple[Fd, ...]:
    return tuple(Fd(fd) for fd in reply.given if fd >= 0)


class Journal:
    """Owns the memfd, or goes on with an earlier supervisor's. Any thread."""

    def __init__(self, keeper: Keeper) -> None:
        """ConfigError when the journal that is there is of another layout: an older or newer supervisor's."""
        inherited = keeper.inherited(JOURNAL).get(JOURNAL)
        fd = inherited.fd if inherited else os.memfd_create(JOURNAL, os.MFD_CLOEXEC)
        if inherited is None:
            os.ftruncate(fd, lib.ic_journal_size())
            keeper.keep(JOURNAL, JOURNAL, fd)
        self._fd = fd
        self._c = lib.ic_journal_map(fd)
        if self._c == ffi.NULL:
            raise ConfigError(f"the journal of the supervisor before this one cannot be read: {os.strerror(ffi.errno)}"
                              + (f"; this one reads version {VERSION}" if ffi.errno == errno.EPROTO else ""))  # fmt: skip
        self._lock = threading.Lock()
        self._agents = dict(keeper.inherited(AGENT))
        self._gifts = {key: Gift(keeper, key, Parcel.behind(kept.fd)) for key, kept in keeper.inherited(GIFT).items()}
        self._keeper = keeper
        self._left = [number for number in range(self._c.top) if self.record(number).notifier]
        self._free = sorted(set(range(self._c.top)) - set(self._left), reverse=True)

    def record(self, number: int) -> Any:
        return self._c.record + number

    def open(self, notifier: int) -> Slot | None:
        """A record for one thread that receives from notifier `notifier`; None when there is none left."""
        with self._lock:
            if self._free:
                number = self._free.pop()
            elif self._c.top < lib.IC_JOURNAL_RECORDS:
                number = self._c.top
                self._c.top = number + 1
            else:
                return None
        slot = Slot(self, number)
        slot.c.notifier = notifier
        return slot

    def give(self, verdict: AddFd, give: Callable[[], int]) -> int:
        """Has `give` give the tracee what the verdict says; returns what `give` does, its number there or negative errno. If we
        are killed in that, the tracee has it or has it not, which who comes after us finds out. (Of one who is killed in
        SECCOMP_IOCTL_NOTIF_ADDFD with its flag SEND the call may be answered without.)
        """
        number = next(_gifts)
        gift = Gift.of(self._keeper, number, verdict.fd)
        try:
            lib.ic_journal_give(number, verdict.cloexec)
            given = give()
            if given >= 0:
                lib.ic_journal_given(given)
        finally:
            gift.close()
        return given

    def release(self, number: int) -> None:
        lib.ic_journal_strike(self.record(number), 1)
        with self._lock:
            self._free.append(number)
            finished = self._left == [number]
            self._left = [left for left in self._left if left != number]
        if finished:
            self._close_agents(self._agents)

    def unfinished(self) -> Mapping[int, list[Unfinished]]:
        """By the notifier's number, once; each is to be closed.

        Before any is answered, the agents of the earlier supervisor have ended that none of them needs, and what was given is
        let go: a mount that is looked at, or on its way to somebody, would be busy.
        """
        found: dict[int, list[Unfinished]] = {}
        calls = [Unfinished(Slot(self, number), self._agents, self._gifts) for number in self._left if self.record(number).id]
        for call in calls:
            found.setdefault(call.slot.c.notifier, []).append(call)
        idle = self._agents.keys() - {str(call.slot.c.agent) for call in calls if call.acting}
        dismiss((self._agents[key].fd for key in idle), PATIENCE)
        self._close_agents(idle)
        while self._gifts:
            self._gifts.popitem()[1].close()
        for number in tuple(self._left):
            if not self.record(number).id:
                self.release(number)
        return found

    def _close_agents(self, keys: Iterable[str]) -> None:
        """Needed no more: they end with their sockets."""
        for key in tuple(keys):
            kept = self._agents.pop(key)
            self._keeper.drop(AGENT, key)
            os.close(kept.fd)

    @property
    def unanswered(self) -> int:
        """Notifications that were received and not answered yet."""
        return sum(bool(self.record(number).id) for number in range(self._c.top))

    @property
    def occupied(self) -> int:
        """Records in use."""
        with self._lock:
            return int(self._c.top) - len(self._free)
