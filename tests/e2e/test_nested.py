"""User namespaces inside a system container: what the kernel gives them, no less and no more.

A nested user namespace is what rootless engines, browsers and package builds make. Its mount namespace has another
owner than the container's, so mounts that came from outside are locked there, and a fresh proc or sysfs is refused
natively as too revealing: Linux fs/namespace.c, mount_too_revealing().
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from support.engine import EngineError
from support.system_container import SystemContainer
from support.variants import MAIN, Variant
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from support.engine import Engine

pytestmark = [pytest.mark.root, pytest.mark.engine, pytest.mark.slow]

NESTED = "unshare --user --map-root-user --pid --fork --mount --mount-proc"
"""unshare -Urpfm --mount-proc, spelt out."""


@pytest.fixture(scope="module")
def system(start_engine: Callable[[Variant], AbstractContextManager[Engine]]) -> Iterator[SystemContainer]:
    with start_engine(MAIN) as engine:
        container = SystemContainer(engine, MAIN.image, "nested")
        container.wait_booted(within=30)
        yield container


def test_a_nested_namespace_has_its_own_proc(system: SystemContainer) -> None:
    assert system.sh(f"{NESTED} sh -c 'ps -e --no-headers | wc -l; cat /proc/1/comm'").split() == ["3", "sh"]


def test_so_has_one_of_an_ordinary_user(system: SystemContainer) -> None:
    assert system.sh(f"setpriv --reuid 1000 --regid 1000 --clear-groups {NESTED} cat /proc/self/stat").startswith(
        "1 (cat)"
    )


def test_so_has_one_within_another(system: SystemContainer) -> None:
    assert system.sh(f"{NESTED} {NESTED} cat /proc/self/stat").startswith("1 (cat)")


def test_masks_do_not_prevent_it(system: SystemContainer) -> None:
    """A mask of the container's own making, locked in the nested namespace, which natively makes proc unmountable."""
    masks = "mount --bind /dev/null /proc/kallsyms; mount -t tmpfs tmpfs /proc/fs"
    assert system.sh(f"unshare --mount sh -euc '{masks}; {NESTED} cat /proc/1/comm'") == "cat"


def test_nor_do_an_inner_containers(system: SystemContainer) -> None:
    """Rootless-in-a-container: the inner engine's default masks, and a user namespace within."""
    wait_for(lambda: system.exec("docker", "version", check=False).returncode == 0, "the inner dockerd", within=20)
    system.inner("import", "/usr/share/interceptor/busybox.tar", "busybox")
    nested = ("unshare", "-U", "-r", "-p", "-f", "-m", "--mount-proc", "cat", "/proc/1/comm")
    seen = system.inner("run", "--rm", "--security-opt", "seccomp=unconfined", "busybox", *nested)
    assert seen == "cat"


@pytest.mark.parametrize("fstype", ["overlay", "sysfs", "proc", "tmpfs"])
@pytest.mark.parametrize("mount", ["mount", "busybox mount"], ids=["new-api", "mount(2)"])
def test_capabilities_in_a_nested_namespace_alone_mount_nothing_outside_it(
    system: SystemContainer, mount: str, fstype: str
) -> None:
    """All capabilities, but in a user namespace that does not own the mount namespace: EPERM, whoever asks."""
    options = "-o lowerdir=/etc:/usr" if fstype == "overlay" else ""
    command = f"unshare --user --map-root-user {mount} -t {fstype} {options} none /mnt"
    with pytest.raises(EngineError, match=re.compile("permission denied|operation not permitted", re.IGNORECASE)):
        system.sh(f"LC_ALL=C {command}")
    assert system.sh("grep -c ' /mnt ' /proc/self/mountinfo || true") == "0"


def test_a_nested_mount_namespace_does_not_get_the_containers_sysfs(system: SystemContainer) -> None:
    """sysfs shows a network namespace, and that one still belongs to the container: Linux fs/sysfs/mount.c."""
    with pytest.raises(EngineError, match=re.compile("permission denied", re.IGNORECASE)):
        system.sh("unshare --user --map-root-user --mount mount -t sysfs none /mnt")
    own = "unshare --user --map-root-user --mount --net sh -euc 'mount -t sysfs none /mnt; ls /mnt/class/net'"
    assert system.sh(own) == "lo"


def test_an_overlay_in_a_nested_namespace_is_that_namespaces_own(system: SystemContainer) -> None:
    """It works, without privilege over the files below: what root of the container owns stays its."""
    system.sh("""
        mkdir -p /srv/lower /run/nested/upper /run/nested/work
        echo x > /srv/lower/secret; chmod 600 /srv/lower/secret
        chown -R 1000:1000 /run/nested
    """)
    mount = "mount -t overlay -o lowerdir=/srv/lower,upperdir=/run/nested/upper,workdir=/run/nested/work none /mnt"
    inside = f"{mount}; echo x > /mnt/new; cat /mnt/new; echo y > /mnt/secret"
    user = "setpriv --reuid 1000 --regid 1000 --clear-groups unshare --user --map-root-user --mount"
    said = system.sh(f"{user} sh -euc '{inside}' 2>&1 || true; ls /run/nested/upper; cat /srv/lower/secret")
    assert said.startswith("x\n")
    assert "ermission denied" in said
    assert said.endswith("\nnew\nx")
