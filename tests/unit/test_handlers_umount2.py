"""umount2(2): what the container was created with stays; everything else is the kernel's."""

from __future__ import annotations

import errno

import pytest
from support.fakes import Asked, FakeAgent, FakeTracee, ask, container, policy

from interceptor.errors import AgentError, NotificationGone
from interceptor.handlers.umount2 import Umount2Args, UmountFlag
from interceptor.verdict import Continue, Fail
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
