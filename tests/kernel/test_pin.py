"""Pinning real tracees: their memory, names, namespaces, and what they are capable of in the kernel's own opinion."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from support import tracees
from support.fakes import IDS
from support.tracees import GETPPID, PAGE, Session, Watched

from interceptor.container import Container
from interceptor.errors import InterceptorError, NotificationGone
from interceptor.native import pin as native
from interceptor.native.pin import Buffer
from interceptor.ports import Cap, Namespace
from interceptor.tracee import Pinned, pin
from interceptor.wire import Anchor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from interceptor.args import Want

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


class Paused:
    """A tracee that waits in a call, to be pinned."""

    def __init__(self, tracee: Watched, session: Session, **facts: object) -> None:
        self.tracee = tracee
        self.container = Container("c1", IDS, "default", **facts)  # type: ignore[arg-type]
        self._session = session
        self._buffer = Buffer()
        tracee.call(GETPPID)
        assert session.next() == 0

    def pin(self, *wants: Want) -> tuple[Pinned, Sequence[bytes | None]]:
        notification = self._session.receiver.notification()
        return pin(self.container, {}, self._session.notifier.fd, notification, wants, self._buffer)

    def pinned(self) -> Pinned:
        return self.pin()[0]


def paused_at(steps: str = "u") -> Iterator[Paused]:
    with tracees.watched(steps) as tracee, tracees.session(tracee) as session:
        yield Paused(tracee, session)


@pytest.fixture
def paused() -> Iterator[Paused]:
    yield from paused_at()


# Memory: two pages, nothing behind them

END = 2 * PAGE


@pytest.mark.parametrize(
    ("offset", "content", "limit", "expected"),
    [
        (0, b"proc\0rest", 4096, b"proc\0"),
        (0, b"\0", 4096, b"\0"),
        (END - 5, b"proc\0", 4096, b"proc\0"),  # the NUL is the last byte that is mapped
        (END - 4, b"proc", 4096, b"proc"),  # no NUL before the end: what there is
        (PAGE - 2, b"proc\0", 4096, b"proc\0"),  # across pages
        (PAGE - 300, b"x" * 299 + b"\0", 4096, b"x" * 299 + b"\0"),
        (PAGE - 300, b"x" * 600 + b"\0", 4096, b"x" * 600 + b"\0"),
        (0, b"x" * 256 + b"\0", 4096, b"x" * 256 + b"\0"),
        (0, b"x" * 255 + b"\0", 4096, b"x" * 255 + b"\0"),
        (0, b"x" * 5000, 4096, b"x" * 4096),
        (0, b"x" * 4095 + b"\0", 4096, b"x" * 4095 + b"\0"),
        (0, b"xyz\0", 3, b"xyz"),
        (END - 1, b"x", 1, b"x"),
        (END - 4096, b"x" * 4096, 5000, b"x" * 4096),
    ],
)
def test_a_string_is_copied_as_far_as_it_goes(
    paused: Paused, offset: int, content: bytes, limit: int, expected: bytes
) -> None:
    address = paused.tracee.poke(offset, content)
    pinned, copies = paused.pin((address, limit, True))
    assert list(copies) == [expected]
    pinned.close()


@pytest.mark.parametrize("address", [0, 1, 0x1000, 0x7FFFFFFFF000, 0xFFFFFFFF81000000, (1 << 64) - 1, (1 << 63) + 5])
@pytest.mark.parametrize("terminated", [True, False])
def test_what_is_not_mapped_is_none(paused: Paused, address: int, terminated: bool) -> None:
    pinned, copies = paused.pin((address, 4096, terminated))
    assert list(copies) == [None]
    pinned.close()


@pytest.mark.parametrize("terminated", [True, False])
def test_right_behind_the_last_page_is_none(paused: Paused, terminated: bool) -> None:
    pinned, copies = paused.pin((paused.tracee.memory + END, 10, terminated))
    assert list(copies) == [None]
    pinned.close()


def test_a_buffer_is_copied_with_its_nuls_or_short(paused: Paused) -> None:
    start = paused.tracee.poke(PAGE - 3, b"a\0b\0c\0d")
    end = paused.tracee.poke(END - 4, b"w\0yz")
    pinned, copies = paused.pin((start, 7, False), (end, 10, False), (start, 1, False))
    assert list(copies) == [b"a\0b\0c\0d", b"w\0yz", b"a"]
    pinned.close()


def test_one_that_cannot_be_read_does_not_spoil_the_others(paused: Paused) -> None:
    one = paused.tracee.poke(0, b"one\0")
    two = paused.tracee.poke(PAGE - 2, b"two\0")
    wants = [(one, 4096, True), (1, 4096, True), (two, 4096, True), (0, 10, False), (one, 4096, True)]
    pinned, copies = paused.pin(*wants)
    assert list(copies) == [b"one\0", None, b"two\0", None, b"one\0"]
    pinned.close()


@pytest.mark.parametrize("way", ["asked for an address", "read line by line"])
def test_memory_counts_as_far_as_the_tracee_has_a_right_to_it(
    paused: Paused, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through /proc/TID/mem everything could be read and written. Before Linux 6.11 maps is text only."""
    across, last = paused.tracee.poke(PAGE - 2, b"abcd"), paused.tracee.memory + END - 2
    program = int(Path(f"/proc/{paused.tracee.pid}/maps").read_text().partition("-")[0], 16)
    with contextlib.closing(paused.pinned()) as pinned:
        if way == "read line by line":
            same = {name: getattr(native.lib, name) for name in ("ic_id_valid", "ic_forks_settle")}
            monkeypatch.setattr(native, "lib", SimpleNamespace(ic_pin_mapped=lambda *_: -errno.ENOTTY, **same))
        pinned.write(across, b"efgh")
        assert pinned.read(across, 4) == b"efgh"
        assert pinned.read(program, 4) == b"\x7fELF"
        for address in (program, last, 0, 1 << 63, (1 << 64) - 2):
            with pytest.raises(OSError) as caught:
                pinned.write(address, b"four")
            assert caught.value.errno == errno.EFAULT
        for address in (last, 0, 1 << 63, (1 << 64) - 2):
            with pytest.raises(OSError) as caught:
                pinned.read(address, 4)
            assert caught.value.errno == errno.EFAULT
        for address in (0, last, 1 << 63, (1 << 64) - 1):
            assert pinned.read(address, 0) == b""
            pinned.write(address, b"")


def test_the_longest_that_mount_may_want(paused: Paused) -> None:
    address = paused.tracee.poke(0, b"x" * END)
    pinned, copies = paused.pin(*[(address, 4096, True)] * 3, (address, 4095, True))
    assert [len(copy or b"") for copy in copies] == [4096] * 3 + [4095]
    pinned.close()


# Who it is


def test_comm_ids_and_namespaces(paused: Paused) -> None:
    pinned, pid = paused.pinned(), paused.tracee.pid
    assert pinned.comm == "watched"
    assert (pinned.euid, pinned.fsuid, pinned.fsgid) == (0, 0, 0)
    assert set(pinned.groups) == set(os.getgroups())
    for namespace in Namespace:
        assert pinned.namespace_id(namespace) == paused.tracee.link(f"ns/{namespace}")
        assert os.fstat(pinned.namespace_fd(namespace)).st_ino == paused.tracee.link(f"ns/{namespace}")
    assert os.path.samestat(os.fstat(pinned.root_fd), Path(f"/proc/{pid}/root").stat())
    assert os.path.samestat(os.fstat(pinned.cwd_fd), Path(f"/proc/{pid}/cwd").stat())
    assert pinned.capabilities == int(status(pid, "CapEff"), 16)
    pinned.close()


def status(pid: int, name: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(name))


@pytest.mark.parametrize(("steps", "uid"), [("us", 1000), ("ush", 1000), ("uh", 0)])
def test_the_euid_counts_whether_or_not_it_can_be_dumped(steps: str, uid: int) -> None:
    for paused in paused_at(steps):
        pinned = paused.pinned()
        assert (pinned.euid, pinned.fsuid) == (uid, uid)
        assert pinned.uid_inside == 65534, "an id of nobody's container"
        pinned.close()


def test_whether_it_is_nested_is_asked_of_the_container() -> None:
    with tracees.watched("U") as tracee, tracees.session(tracee) as session:
        assert not Paused(tracee, session).pinned().in_nested_user_namespace, "not known yet"
        session.notifier.answer(session.receiver.out.id, _return())
        tracee.result()
        outer = Path("/proc/self/ns/user").stat().st_ino
        assert Paused(tracee, session, user_namespace=outer).pinned().in_nested_user_namespace
        session.notifier.answer(session.receiver.out.id, _return())
        tracee.result()
        own = tracee.link("ns/user")
        assert not Paused(tracee, session, user_namespace=own).pinned().in_nested_user_namespace


def _return() -> object:
    from interceptor.verdict import Return  # noqa: PLC0415 - only here

    return Return()


def open_fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_closing_leaves_nothing_open(paused: Paused) -> None:
    before = open_fds()
    pinned = paused.pinned()
    for namespace in Namespace:
        pinned.namespace_fd(namespace)
    _ = pinned.root_fd, pinned.cwd_fd, pinned.take(0), pinned.take(0)
    assert open_fds() > before
    pinned.close()
    pinned.close()
    assert open_fds() == before


def test_a_killed_tracee_is_gone_and_nothing_stays_open(paused: Paused) -> None:
    before = open_fds()
    paused.tracee.kill()
    with pytest.raises(NotificationGone):
        paused.pinned()
    assert open_fds() == before


def test_a_tracee_that_dies_after_it_was_pinned_is_gone_for_every_question(paused: Paused) -> None:
    pinned = paused.pinned()
    assert pinned.waits()
    paused.tracee.kill()
    assert not pinned.waits()
    for question in (
        lambda: pinned.root_fd, lambda: pinned.namespace_fd(Namespace.NET), lambda: pinned.take(0), lambda: pinned.groups,
        lambda: pinned.covered("proc"), lambda: pinned.capable(Cap.SYS_ADMIN, Namespace.UTS),
    ):  # fmt: skip
        with pytest.raises(NotificationGone):
            question()
    pinned.close()


def test_a_tracee_in_a_pid_namespace_that_we_do_not_see_is_explained(paused: Paused) -> None:
    notification = paused._session.receiver.notification()._replace(tid=0)
    with pytest.raises(InterceptorError, match="pid namespace"):
        pin(paused.container, {}, paused._session.notifier.fd, notification, (), Buffer())


def test_a_descriptor_of_the_tracees_is_taken(paused: Paused) -> None:
    pinned = paused.pinned()
    taken = pinned.anchor(b"/proc/self/fd/0/below")
    assert taken.path == b"below"
    assert taken.fd is not None
    assert os.path.samestat(os.fstat(taken.fd), Path(f"/proc/{paused.tracee.pid}/fd/0").stat())
    assert pinned.anchor(f"/proc/{paused.tracee.pid}/fd/0".encode()).fd == taken.fd, "taken once"
    assert pinned.anchor(b"/proc/1/fd/0") == Anchor(b"/proc/1/fd/0")
    for number in (b"99", b"999999999"):
        with pytest.raises(OSError) as caught:
            pinned.anchor(b"/proc/self/fd/" + number)
        assert caught.value.errno == errno.ENOENT
    for fd in (-1, 99, 1 << 31, 0xFFFFFFFF, 1 << 63):  # a register, or a field of a structure
        with pytest.raises(OSError) as caught:
            pinned.take(fd)
        assert caught.value.errno == errno.EBADF
    pinned.close()


def test_its_program_and_whether_it_lives_in_an_inner_container(paused: Paused) -> None:
    pinned = paused.pinned()
    assert pinned.executable == bytes(Path(f"/proc/{paused.tracee.pid}/exe").readlink())
    assert not pinned.in_inner_container, "no init is known"
    paused.container.pid_namespace = Path("/proc/self/ns/pid").stat().st_ino
    assert not pinned.in_inner_container
    paused.container.pid_namespace += 1
    assert pinned.in_inner_container
    pinned.close()


# What a rule may end


def test_killing_ends_the_process_that_made_the_call(paused: Paused) -> None:
    pinned = paused.pinned()
    before = open_fds()
    pinned.kill()
    assert paused.tracee.process.wait(10) == -signal.SIGKILL
    pinned.kill()
    assert open_fds() == before
    pinned.close()


def test_stopping_kills_the_containers_init_and_nobody_else() -> None:
    with tracees.watched("U") as init, tracees.watched("U") as tracee, tracees.session(tracee) as session:
        paused = Paused(tracee, session)
        pinned = paused.pinned()
        assert not pinned.stop_container(), "no init yet"
        paused.container.init_pid, paused.container.user_namespace = init.pid, tracee.link("ns/user")
        assert not pinned.stop_container(), "that number is another's by now"
        paused.container.user_namespace = init.link("ns/user")
        assert pinned.stop_container()
        assert init.process.wait(10) == -signal.SIGKILL
        assert pinned.waits()
        assert not pinned.stop_container()
        pinned.close()


# What it is capable of: sethostname(2) asks ns_capable(uts_ns->user_ns, CAP_SYS_ADMIN)

STEPS = {
    "u": "root in a UTS namespace of the host's",
    "ud": "without capabilities",
    "us": "another uid, which has none",
    "uU": "a nested user namespace, the UTS namespace is the host's",
    "Uu": "its own UTS namespace",
    "Uud": "the same without capabilities",
    "UuU": "two levels, the UTS namespace of the first",
    "UuUd": "the same without capabilities",
    "UUu": "two levels, the UTS namespace of the second",
    "uo": "the UTS namespace of a user namespace below",
    "uod": "without capabilities, but its owner",
    "uos": "of which another uid is the owner",
    "Uo": "the same one level deeper",
    "Uod": "without capabilities, but its owner, one level deeper",
    "UoU": "from beside it",
}


@pytest.mark.parametrize("steps", STEPS, ids=STEPS.values())
def test_capable_is_the_kernels_opinion(steps: str) -> None:
    for paused in paused_at(steps):
        ours = paused.pinned().capable(Cap.SYS_ADMIN, Namespace.UTS)
        paused._session.notifier.answer(paused._session.receiver.out.id, _return())
        paused.tracee.result()
        kernels = paused.tracee.set_name()
        assert kernels in {0, -errno.EPERM}
        assert ours is (kernels == 0)


@pytest.mark.parametrize(("steps", "owned"), [("uU", False), ("Uu", True), ("uo", True), ("uod", True), ("UoU", False)])
def test_owns_is_about_namespaces_and_not_about_capabilities(steps: str, owned: bool) -> None:
    for paused in paused_at(steps):
        assert paused.pinned().owns(Namespace.UTS) is owned
