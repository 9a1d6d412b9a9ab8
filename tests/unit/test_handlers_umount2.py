"""umount2(2): what the container was created with stays; everything else is the kernel's."""

from __future__ import annotations

import errno

import pytest
from support.fakes import Asked, FakeAgent, FakeTracee, ask, container, policy

from interceptor.container import DeviceNumber
from interceptor.errors import AgentError, NotificationGone
from interceptor.handlers.umount2 import Umount2Args, UmountFlag
from interceptor.ports import Mounted
from interceptor.verdict import Continue, Fail, Return
from interceptor.wire import Anchor

HOSTS = Anchor(b"/etc/hosts")
IMMUTABLE, OTHER = 31, 77


def umount(flags: int = 0, *, mount_id: int = IMMUTABLE, immutable: bool = True, **how: object) -> Asked:
    how.setdefault("agent", FakeAgent(mount_ids={HOSTS: mount_id}))
    how.setdefault("of", container(immutable=frozenset({IMMUTABLE})))
    return ask("umount2", Umount2Args(b"/etc/hosts", flags), by=policy(immutable_mounts=immutable), **how)  # type: ignore[arg-type]


def test_an_immutable_mount_is_busy() -> None:
    asked = umount()
    assert asked.verdict == Fail(errno.EBUSY)
    assert asked.call.denied
    assert "immutable-mounts" in asked.call.why


@pytest.mark.parametrize(
    "how",
    [
        {"mount_id": OTHER},
        {"immutable": False},
        {"of": container()},
        {"tracee": FakeTracee(mount_namespace=5)},
    ],
    ids=["made inside", "policy allows it", "none recorded", "another mount namespace"],
)
def test_all_else_is_the_kernels(how: dict[str, object]) -> None:
    asked = umount(**how)
    assert isinstance(asked.verdict, Continue)
    assert not asked.call.denied


@pytest.mark.parametrize(("flags", "follow"), [(0, True), (UmountFlag.MNT_DETACH, True), (8, False), (10, False)])
def test_the_last_symbolic_link_is_followed_unless_told_not_to(flags: int, follow: bool) -> None:
    assert umount(flags).done == [("mount_id", HOSTS, follow)]


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EINVAL, errno.EACCES, errno.ELOOP])
def test_what_the_agent_cannot_find_the_kernel_refuses(number: int) -> None:
    assert isinstance(umount(agent=FakeAgent(fails=OSError(number, "no"))).verdict, Continue)


@pytest.mark.parametrize("error", [AgentError("died"), NotificationGone("gone")])
def test_faults_and_departures_are_not_continued(error: Exception) -> None:
    with pytest.raises(type(error)):
        umount(agent=FakeAgent(fails=error))


LEAVES, PROC = DeviceNumber(0, 70), DeviceNumber(0, 90)
FRESH = Anchor(b"/mnt/proc")


def proc(*below: Mounted, point: bytes = b"/mnt/proc") -> list[Mounted]:
    return [Mounted(OTHER, PROC, point, b"proc"), *below]


def leaf(number: int, point: bytes) -> Mounted:
    return Mounted(number, LEAVES, point, b"fuse")


def umount_fresh(mounts: list[Mounted], flags: int = 0, used: tuple[int, ...] = (), at: Anchor = FRESH) -> Asked:
    return ask(
        "umount2", Umount2Args(at.path, flags), by=policy(), of=container(leaves=frozenset({LEAVES})),
        agent=FakeAgent(mount_ids={at: mounts[0].mount_id}), tracee=FakeTracee(mounted=mounts, used=frozenset(used)),
    )  # fmt: skip


def test_a_proc_goes_with_its_leaves() -> None:
    asked = umount_fresh(proc(leaf(78, b"/mnt/proc/stat"), leaf(79, b"/mnt/proc/meminfo")))
    assert asked.verdict == Return()
    assert asked.done[-1] == ("detach", FRESH, OTHER, True)


@pytest.mark.parametrize("used", [OTHER, 78])
def test_a_proc_in_use_is_busy(used: int) -> None:
    asked = umount_fresh(proc(leaf(78, b"/mnt/proc/stat")), used=(used,))
    assert asked.verdict == Fail(errno.EBUSY)
    assert not asked.call.denied


@pytest.mark.parametrize(
    ("below", "flags"),
    [
        ([], 0),
        ([leaf(78, b"/mnt/proc/stat")], UmountFlag.MNT_DETACH),
        ([leaf(78, b"/mnt/proc/stat")], UmountFlag.MNT_FORCE),
        ([leaf(78, b"/mnt/proc/stat")], UmountFlag.MNT_EXPIRE),
        ([leaf(78, b"/mnt/proc/stat"), Mounted(79, PROC, b"/mnt/proc/sys/fs/binfmt_misc", b"binfmt_misc")], 0),
    ],
    ids=["no leaves", "lazily", "by force", "expiring", "with a mount of somebody's"],
)
def test_other_ways_of_unmounting_a_proc_are_the_kernels(below: list[Mounted], flags: int) -> None:
    assert isinstance(umount_fresh(proc(*below), flags).verdict, Continue)


def test_a_leaf_stays_where_programs_look_and_elsewhere_is_the_kernels() -> None:
    at = Anchor(b"/x")
    asked = umount_fresh([leaf(78, b"/sys/devices/system/cpu/online")], at=at)
    assert asked.verdict == Fail(errno.EINVAL)
    assert asked.call.allow == "leaves: none"
    assert isinstance(umount_fresh([leaf(78, b"/mnt/proc/stat")], at=at).verdict, Continue)
