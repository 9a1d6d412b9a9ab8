"""A fresh proc reveals no more than the one that the tracee has: what covers parts of that covers the new one too."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import target as support

from interceptor.wire import Anchor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.target import Target

    from interceptor.agent_pool import PinnedAgent

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(support.why_not() is not None, reason=str(support.why_not())),
]

COVERED = [b"/proc", b"sys/kernel", b"sys/kernel/hostname", b"uptime", b"gone", b"1/gone"]


@pytest.fixture
def target() -> Iterator[Target]:
    with support.target() as made:

        def mask() -> None:
            Path("/data/mask").write_text("masked", encoding="ascii")
            Path("/data/empty").mkdir()
            support.mount("/data/mask", "/proc/uptime", None, support.MS_BIND)
            support.mount("mask", "/proc/sys/kernel", "tmpfs")
            Path("/proc/sys/kernel/hostname").touch()
            support.mount("/data/mask", "/proc/sys/kernel/hostname", None, support.MS_BIND)

        made.inside(mask)
        yield made


@pytest.fixture
def agent(target: Target) -> Iterator[PinnedAgent]:
    with support.agent(target) as made:
        yield made


def mount_proc(agent: PinnedAgent) -> None:
    agent.mount("proc", Anchor(b"/mnt"), source=b"proc", flags=0, options=None, like=COVERED)


def points(target: Target) -> list[str]:
    return [fields[4] for fields in target.mounts() if fields[4].startswith("/mnt")]


def test_what_is_covered_stays_covered(target: Target, agent: PinnedAgent) -> None:
    mount_proc(agent)
    assert points(target) == ["/mnt", "/mnt/sys/kernel", "/mnt/sys/kernel/hostname", "/mnt/uptime"]
    assert target.path("/mnt/uptime").read_text() == "masked"
    assert target.path("/mnt/sys/kernel/hostname").read_text() == "masked"


def test_covers_of_the_containers_own_root_can_be_taken_off_as_ever(target: Target, agent: PinnedAgent) -> None:
    mount_proc(agent)
    target.inside(lambda: support.umount("/mnt/uptime"))
    assert target.path("/mnt/uptime").read_text() != "masked"


def test_covers_in_a_nested_user_namespace_are_locked(target: Target) -> None:
    with support.nested(target) as inner, support.agent(inner) as agent:
        native = support.error_of(lambda: in_mounts_of(inner, lambda: support.mount("proc", "/mnt", "proc")))
        assert native == "EPERM", "mount_too_revealing() should see the locked masks"
        mount_proc(agent)
        assert inner.path("/mnt/uptime").read_text() == "masked"
        for point in ("/mnt/uptime", "/mnt/sys/kernel"):
            attempt = support.error_of(lambda at=point: in_mounts_of(inner, lambda: support.umount(at)))
            assert attempt == "EINVAL"
        again = support.error_of(
            lambda: in_mounts_of(inner, lambda: support.mount("/mnt/uptime", "/data", None, support.MS_BIND))
        )
        assert again == "ENOTDIR"
        assert (
            support.error_of(lambda: in_mounts_of(inner, lambda: support.mount("/mnt", "/data", None, support.MS_BIND)))
            == "EINVAL"
        ), "a bind without MS_REC would leave the covers behind"
        in_mounts_of(inner, lambda: support.umount("/mnt", support.MNT_DETACH))
        assert points(inner) == []
        assert points(target) == []


def in_mounts_of(subject: Target, function: object) -> None:
    """Runs `function` as root of the user namespace of `subject`, in its mount namespace."""

    def enter() -> None:
        for namespace in (support.Namespace.USER, support.Namespace.MOUNT):
            support.setns(subject.namespace_fd(namespace), namespace)
        function()  # type: ignore[operator]

    support.in_child(enter)


def test_a_vanished_old_mount_is_no_reason_to_reveal(target: Target, agent: PinnedAgent) -> None:
    like = [b"/nowhere", b"uptime"]
    attempt = support.error_of(
        lambda: agent.mount("proc", Anchor(b"/mnt"), source=b"proc", flags=0, options=None, like=like)
    )
    assert attempt == "EPERM"
    assert points(target) == []


def test_staging_leaves_nothing_on_the_host(agent: PinnedAgent) -> None:
    before = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    mount_proc(agent)
    mount_proc_again = support.error_of(lambda: mount_proc(agent))
    assert mount_proc_again is None
    assert Path("/proc/self/mountinfo").read_text(encoding="utf-8") == before
