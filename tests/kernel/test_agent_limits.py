"""What an agent does when things go wrong: a hostile filesystem, a tracee that went away, a request that is none."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pyseccomp
import pytest
from interceptor.native._native import ffi, lib
from support import target as support
from support.waiting import wait_for

from interceptor.agent_pool import AgentPool, PinnedAgent
from interceptor.container import IdRange
from interceptor.errors import AgentError, NotificationGone
from interceptor.limits import Limits
from interceptor.native import agentlink
from interceptor.wire import Anchor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.target import Target

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(support.why_not() is not None, reason=str(support.why_not())),
]


@pytest.fixture
def target() -> Iterator[Target]:
    with support.target() as made:
        yield made


@pytest.fixture
def hostile(target: Target) -> Iterator[bytes]:
    """A path on a FUSE filesystem whose server never answers."""
    if not Path("/dev/fuse").exists():
        pytest.skip("needs /dev/fuse")
    ours, theirs = socket.socketpair()

    def mount() -> None:
        fd = os.open("/fuse", os.O_RDWR)
        Path("/data/fuse").mkdir()
        support.mount("x", "/data/fuse", "fuse", 0, f"fd={fd},rootmode=40000,user_id=0,group_id=0")
        socket.send_fds(theirs, [b"f"], [fd])

    target.inside(mount)
    _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    yield b"/data/fuse/x/y"
    for fd in fds:
        os.close(fd)
    ours.close()
    theirs.close()


def children_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def test_a_hostile_filesystem_costs_one_agent_and_nobody_else(target: Target, hostile: bytes) -> None:
    told = threading.Event()
    pool = AgentPool(IdRange(support.FIRST, support.COUNT), Limits(agent_deadline_ms=1500))
    agent = PinnedAgent(pool, target, on_slow=told.set)
    outcome: list[BaseException] = []

    def hang() -> None:
        try:
            agent.stand_in(Anchor(hostile), name="x", flags=0)
        except AgentError as error:
            outcome.append(error)

    thread = threading.Thread(target=hang)
    thread.start()
    assert told.wait(10)
    stuck = next(iter(pool._busy)).pid
    walker = wait_for(lambda: children_of(stuck), "the child that walks as the tracee", within=10)
    agent.stand_in(Anchor(b"/mnt"), name="x", flags=0)  # meanwhile
    thread.join(20)
    assert "does not answer within 1500 ms" in str(outcome[0])
    wait_for(lambda: not Path(f"/proc/{walker}").exists(), "the end of the walking child", within=10)
    assert not Path(f"/proc/{stuck}").exists()
    assert pool.agents == 1
    agent.set_hostname(b"still-here")
    pool.close()
    assert pool.abandoned == 0


def test_an_agent_without_a_supervisor_ends_itself(target: Target, hostile: bytes) -> None:
    link = agentlink.Link()
    request = agentlink.Request(
        op=agentlink.STAND_IN,
        fds={
            agentlink.MNTNS: target.namespace_fd(support.Namespace.MOUNT),
            agentlink.ROOT: target.root_fd,
            agentlink.USERNS: target.namespace_fd(support.Namespace.USER),
        },
        texts={agentlink.PATH: hostile, agentlink.TYPE: b"x"},
        fsuid=support.FIRST,
        fsgid=support.FIRST,
        root_uid=support.FIRST,
        root_gid=support.FIRST,
        id_count=support.COUNT,
        deadline_ms=300,
    )
    assert link.call(request) is None
    assert link.reap(10_000)


def test_an_idle_agent_ends_with_its_link() -> None:
    link = agentlink.Link()
    link.hang_up()
    assert link.reap(10_000)


class Notified:
    """A child whose getppid(2) waits for us: its notifier, and the id of the notification."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            socket.send_fds(theirs, [b"n"], [_install_filter()])
            os.getppid()
            os._exit(0)
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
        self.fd = fds[0]
        ours.close()
        theirs.close()
        buffer = ctypes.create_string_buffer(80)
        received = ctypes.CDLL(None, use_errno=True).ioctl(self.fd, 0xC0502100, buffer)  # SECCOMP_IOCTL_NOTIF_RECV
        assert received == 0, os.strerror(ctypes.get_errno())
        self.id: int = struct.unpack_from("=Q", buffer)[0]

    def end(self) -> None:
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)


def _install_filter() -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, "getppid")
    instructions = (
        struct.pack("=HBBI", 0x20, 0, 0, 0)  # the system call's number
        + struct.pack("=HBBI", 0x15, 0, 1, number)
        + struct.pack("=HBBI", 0x06, 0, 0, 0x7FC00000)  # SECCOMP_RET_USER_NOTIF
        + struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)  # SECCOMP_RET_ALLOW
    )
    code = ctypes.create_string_buffer(instructions)
    program = ctypes.create_string_buffer(struct.pack("@HP", 4, ctypes.addressof(code)))
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    call = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, "seccomp")
    fd: int = libc.syscall(call, 1, 8, program)  # SET_MODE_FILTER, NEW_LISTENER
    assert fd >= 0, os.strerror(ctypes.get_errno())
    return fd


def test_nothing_is_mounted_for_a_tracee_that_went_away(target: Target) -> None:
    notified = Notified()
    target.notifier_fd, target.notification_id = notified.fd, notified.id
    with support.agent(target) as agent:
        agent.stand_in(Anchor(b"/mnt"), name="first", flags=0)
        notified.end()
        with pytest.raises(NotificationGone):
            agent.stand_in(Anchor(b"/data"), name="second", flags=0)
    os.close(notified.fd)
    assert target.mount_at("/mnt")
    assert [fields[4] for fields in target.mounts()].count("/data") == 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_agent_that_c_has_when_the_pool_closes_ends_too(when: str) -> None:
    pool = AgentPool(IdRange(support.FIRST, 65536), Limits())
    link = agentlink.Link()
    pool._count = 1
    pool.slot.offer(link)
    c = lib.ic_slot_take(pool.slot.c)
    if when == "before":
        assert not lib.ic_slot_put(pool.slot.c, c)
        pool.close()
    else:
        pool.close()
        assert lib.ic_slot_put(pool.slot.c, c), "somebody waits"
        pool.wanted()
    assert link.reap(0)
    assert pool.agents == 0


def ask(link: agentlink.Link, message: bytes, fds: list[int]) -> tuple[int, int]:
    reply = ffi.new("struct agent_reply *")
    return lib.ic_agent_call(link.c, message, len(message), fds, len(fds), reply), reply.outcome


def test_malformed_requests_are_told_so_and_do_no_harm(target: Target) -> None:
    link = agentlink.Link()
    there = {agentlink.MNTNS: target.namespace_fd(support.Namespace.MOUNT), agentlink.ROOT: target.root_fd}
    ids = {"fsuid": support.FIRST, "fsgid": support.FIRST, "root_uid": support.FIRST, "root_gid": support.FIRST}
    path = {agentlink.PATH: b"/mnt", agentlink.TYPE: b"proc"}
    for request in (
        agentlink.Request(99, {}, {}),
        agentlink.Request(agentlink.MOUNT, {}, path, **ids),
        agentlink.Request(agentlink.MOUNT, there, path, **ids),  # no pid namespace
        agentlink.Request(agentlink.MOUNT, there, path | {agentlink.TYPE: b"ext4"}, **ids),
        agentlink.Request(agentlink.STAND_IN, there, {agentlink.TYPE: b"x"}, **ids),
        agentlink.Request(agentlink.STAND_IN, there, path, **ids | {"fsuid": 0}),
        agentlink.Request(agentlink.STAND_IN, there, path, **ids, notification=7),  # no notifier
    ):
        reply = link.call(request)
        assert reply is not None
        assert (reply.outcome, reply.error) == (agentlink.MALFORMED, 0)
    assert target.mount_at("/mnt") is None
    good, fds = agentlink.pack(agentlink.Request(agentlink.STAND_IN, there, path, **ids), 1)
    for message, sent in ((good[:-1], fds), (good + b"x", fds), (good, fds[:1]), (good, [*fds, fds[0]])):
        assert ask(link, message, sent) == (1, agentlink.MALFORMED)
    wrong_version = (1).to_bytes(4, sys.byteorder) + good[4:]
    assert ask(link, wrong_version, fds) == (1, agentlink.MALFORMED)
    assert target.mount_at("/mnt") is None
    assert ask(link, good, fds) == (1, agentlink.DONE)
    link.hang_up()
    assert link.reap(10_000)


def test_it_is_small_alone_and_not_to_be_inspected() -> None:
    link = agentlink.Link()
    assert link.call(agentlink.Request(agentlink.PING, {}, {})) == (0, agentlink.DONE, 0, ())
    fields = dict(line.split(":\t", 1) for line in Path(f"/proc/{link.pid}/status").read_text().splitlines())
    assert int(fields["VmRSS"].split()[0]) <= 64
    assert (fields["NoNewPrivs"], fields["Seccomp"], fields["Threads"]) == ("1", "2", "1")
    assert int(fields["CapEff"], 16) & 0b11111 == 0, "no CHOWN, DAC_*, FOWNER, FSETID while idle"
    assert Path(f"/proc/{link.pid}/environ").read_bytes() == b""
    link.hang_up()
    assert link.reap(10_000)


def test_its_executable_is_sealed() -> None:
    fd = agentlink.executable()
    with pytest.raises(PermissionError):
        os.write(fd, b"x")
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
