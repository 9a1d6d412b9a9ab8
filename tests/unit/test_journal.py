"""The journal: what a supervisor leaves in it, and what the next one makes of that."""

from __future__ import annotations

import contextlib
import os
import socket
import threading

import pytest
from interceptor.native._native import ffi, lib
from support.fakes import Memory

from interceptor.errors import ConfigError
from interceptor.native.journal import Journal, alone
from interceptor.verdict import Fail


@pytest.fixture
def keeper() -> Memory:
    return Memory()


def received(journal: Journal, notifier: int, number: int) -> object:
    slot = journal.open(notifier)
    assert slot is not None
    slot.c.id = number
    return slot


def test_a_journal_that_nobody_left_is_empty(keeper: Memory) -> None:
    assert Journal(keeper).unfinished() == {}
    assert Journal(keeper).occupied == 0


def test_what_was_received_is_unfinished_for_the_next(keeper: Memory) -> None:
    received(Journal(keeper), 7, 1001)
    (call,) = Journal(keeper).unfinished()[7]
    assert (call.notification.id, call.answer, call.acting) == (1001, None, False)


def test_a_thread_that_had_received_nothing_leaves_nothing(keeper: Memory) -> None:
    Journal(keeper).open(7)
    following = Journal(keeper)
    assert following.unfinished() == {}
    assert following.occupied == 0


def test_a_closed_record_is_used_again(keeper: Memory) -> None:
    journal = Journal(keeper)
    first = journal.open(7)
    assert first is not None
    first.close()
    second = journal.open(8)
    assert second is not None
    assert second.c == first.c
    assert (second.c.notifier, second.c.id) == (8, 0)
    assert journal.occupied == 1


def test_it_stays_unfinished_until_it_is_closed(keeper: Memory) -> None:
    received(Journal(keeper), 7, 1001)
    Journal(keeper).unfinished()
    following = Journal(keeper)
    (call,) = following.unfinished()[7]
    call.slot.close()
    assert Journal(keeper).unfinished() == {}


def test_an_answer_that_was_known_is_given(keeper: Memory) -> None:
    slot = received(Journal(keeper), 7, 1001)
    slot.c.stage, slot.c.error = lib.IC_ACTED, 16  # type: ignore[attr-defined]
    (call,) = Journal(keeper).unfinished()[7]
    assert call.answer == Fail(16)


def test_a_reply_that_still_comes_is_read(keeper: Memory) -> None:
    slot = received(Journal(keeper), 7, 1001)
    c = slot.c  # type: ignore[attr-defined]
    c.stage, c.agent, c.cookie = lib.IC_ACTING, 555, 99
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, its:
        keeper.keep("agent", "555", ours.fileno())
        its.send(bytes(ffi.buffer(ffi.new("struct agent_reply *", {"cookie": 99, "value": 42}))))
        (call,) = Journal(keeper).unfinished()[7]
        reply = call.reply(1.0)
    assert reply is not None
    assert (reply.error, reply.done, reply.value) == (0, True, 42)


def test_a_request_that_was_not_sent_has_done_nothing(keeper: Memory) -> None:
    """The agent answers what it is asked now, and had not been asked anything before; or somebody who died in this had."""
    slot = received(Journal(keeper), 7, 1001)
    c = slot.c  # type: ignore[attr-defined]
    c.stage, c.agent, c.cookie = lib.IC_ACTING, 555, 99
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def agent() -> None:
        its.send(bytes(ffi.buffer(ffi.new("struct agent_reply *", {"cookie": 98}))))
        request = ffi.from_buffer("struct agent_request *", its.recv(4096), require_writable=False)
        its.send(bytes(ffi.buffer(ffi.new("struct agent_reply *", {"cookie": request.cookie}))))

    with ours, its:
        keeper.keep("agent", "555", ours.fileno())
        (call,) = Journal(keeper).unfinished()[7]
        thread = threading.Thread(target=agent)
        thread.start()
        reply = call.reply(60.0)
        thread.join()
    assert reply is not None
    assert not reply.asked


class Agent:
    """Of an earlier supervisor; in its socket there is a reply with the end of a pipe."""

    def __init__(self, keeper: Memory, pid: int) -> None:
        ours, self._its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pipe, given = os.pipe()
        socket.send_fds(self._its, [b"a reply"], [given])
        os.close(given)
        with ours:
            keeper.keep("agent", str(pid), ours.fileno())
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with self._its:
            while self._its.recv(1):
                pass

    def has_ended(self) -> bool:
        """And what it gave is nowhere open."""
        os.set_blocking(self._pipe, False)
        with contextlib.suppress(BlockingIOError):
            return os.read(self._pipe, 1) == b""
        return False

    def close(self) -> None:
        self._thread.join(10)
        os.close(self._pipe)


def test_agents_end_before_anything_is_answered(keeper: Memory) -> None:
    """Mounts are in what they hold, and in replies that nobody takes any more."""
    slot = received(Journal(keeper), 7, 1001)
    c = slot.c  # type: ignore[attr-defined]
    c.stage, c.agent, c.cookie = lib.IC_ACTING, 555, 99
    acting, idle = Agent(keeper, 555), Agent(keeper, 556)
    (call,) = Journal(keeper).unfinished()[7]
    assert (acting.has_ended(), idle.has_ended()) == (False, True)
    assert [key for kind, key in keeper.held if kind == "agent"] == ["555"]
    call.settle()
    assert acting.has_ended()
    call.slot.close()
    assert [key for kind, key in keeper.held if kind == "agent"] == []
    acting.close()
    idle.close()


def test_what_an_agent_was_to_unmount_is_known_when_it_is_gone(keeper: Memory) -> None:
    slot = received(Journal(keeper), 7, 1001)
    c = slot.c  # type: ignore[attr-defined]
    c.stage, c.agent, c.cookie, c.flags, c.value = lib.IC_ACTING, 555, 99, lib.AGENT_DETACH, 1 << 32
    (call,) = Journal(keeper).unfinished()[7]
    assert (call.reply(1.0), call.unmounting) == (None, 1 << 32)
    c.flags = lib.AGENT_MOUNT
    assert call.unmounting == 0


def test_nobody_knows_what_was_done_without_an_agent(keeper: Memory) -> None:
    slot = received(Journal(keeper), 7, 1001)
    slot.enter()  # type: ignore[attr-defined]
    try:
        alone()
    finally:
        lib.ic_journal_enter(ffi.NULL)
    alone()
    (call,) = Journal(keeper).unfinished()[7]
    assert (call.acting, call.reply(1.0), call.unmounting) == (True, None, 0)


def test_nobody_knows_what_an_agent_did_that_is_gone(keeper: Memory) -> None:
    slot = received(Journal(keeper), 7, 1001)
    slot.c.stage, slot.c.agent, slot.c.cookie = lib.IC_ACTING, 555, 99  # type: ignore[attr-defined]
    (call,) = Journal(keeper).unfinished()[7]
    assert call.acting
    assert call.reply(0.01) is None


def test_a_journal_of_another_layout_is_refused(keeper: Memory) -> None:
    Journal(keeper)
    os.pwrite(keeper.held["journal", "journal"], (99).to_bytes(4, "little"), 0)
    with pytest.raises(ConfigError, match="version"):
        Journal(keeper)
