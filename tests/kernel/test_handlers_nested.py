"""Tracees in user namespaces below the container's own: what is emulated for them reveals and lends nothing.

The kernel's rule is mount_too_revealing() (fs/namespace.c): a fresh proc or sysfs only where a whole one is visible.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from support import whole

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

MASK = "mount -o bind /dev/null /proc/meminfo; mount -o bind /data /proc/fs; "
"""What engines do with /proc, done by hand: the policy `all` takes theirs away."""


@pytest.fixture(params=["runc", "crun"], scope="module")
def host(request: pytest.FixtureRequest) -> Iterator[whole.Host]:
    with whole.host(request.param) as made:
        yield made


@pytest.fixture(scope="module")
def box(host: whole.Host) -> whole.Box:
    return host.box()


@pytest.fixture(scope="module")
def engines(host: whole.Host) -> whole.Box:
    """As Docker starts it: no CAP_SYS_ADMIN, and something over a file of /proc that its root cannot take away."""
    mask = {"destination": "/proc/meminfo", "type": "bind", "source": "/dev/null", "options": ["bind", "ro"]}
    return host.box("engine", mounts=[mask])


def nested(script: str, options: str = "-Urpfm") -> str:
    """Shell: `script` in namespaces below the container's; quotes in it are double ones."""
    return f"unshare {options} sh -euc '{script}'"


def test_unshare_with_a_fresh_proc(box: whole.Box) -> None:
    assert box.sh("unshare -Urpfm --mount-proc=/proc sh -c 'echo $$; ls /proc | grep -c ^[0-9]'").split() == ["1", "3"]
    [event] = box.trace("--syscall", "mount", "--last", "1")
    assert (event["how"], event["args"]["fstype"], event["result"]) == ("emulated", "proc", 0)


def test_masks_are_over_the_fresh_proc_too(box: whole.Box) -> None:
    seen = box.sh(
        f"unshare -m sh -euc '{MASK} unshare -Urpfm sh -euc \"mount -t proc proc /mnt; stat -c %F /mnt/meminfo; ls /mnt/fs;"
        " stat -c %F /mnt/1/stat; umount /mnt/meminfo || echo locked; umount /mnt/fs || echo locked\" 2>&1'"
    )
    assert seen.splitlines() == [
        "character special file", "regular empty file", "umount: can't unmount /mnt/meminfo: Invalid argument", "locked",
        "umount: can't unmount /mnt/fs: Invalid argument", "locked",
    ]  # fmt: skip


HIDDEN = {
    "below a tmpfs": "mount -t tmpfs none /proc; mount -t proc proc /mnt",
    "below a tmpfs with the same names": (
        "mount -t tmpfs none /proc; mkdir /proc/fs; echo x >/proc/meminfo; mount -t proc proc /mnt"
    ),
    "outside of a new root": (
        "mount -t tmpfs none /data; mkdir /data/p; busybox cp -a /bin /data; chroot /data mount -t proc proc /p"
    ),
}


@pytest.mark.parametrize("how", HIDDEN)
def test_a_hidden_mask_still_hides(box: whole.Box, how: str) -> None:
    """Who hides the old proc does not get an uncovered new one."""
    script = HIDDEN[how].replace("'", "")
    done = box.exec("sh", "-euc", f"unshare -m sh -euc '{MASK} unshare -Urpfm sh -euc \"{script}; echo mounted\"'")
    assert done.returncode != 0, done.stdout
    assert "mounted" not in done.stdout
    assert "ermission" in done.stderr or "not permitted" in done.stderr


def test_an_unprivileged_user_of_an_engines_container_sees_the_masks(engines: whole.Box) -> None:
    script = nested("mount -t proc proc /proc; stat -c %F /proc/meminfo; echo $$")
    done = engines.exec("sh", "-c", script, user="1000:1000")
    assert done.stdout.splitlines() == ["character special file", "1"], done.stderr
    [event] = engines.trace("--syscall", "mount", "--last", "1")
    assert event["how"] == "emulated"


REFUSED = {
    "overlay of the container": ("-Ur", "mount -t overlay o -o lowerdir=/bin:/etc /mnt"),
    "writable overlay of the container": (
        "-Ur",
        "mount -t overlay o -o lowerdir=/bin,upperdir=/data/u,workdir=/data/w /mnt",
    ),
    "sysfs of the container": ("-Ur", "mount -t sysfs s /mnt"),
    "sysfs of the container's network namespace": ("-Urm", "mount -t sysfs s /mnt"),
    "proc of the container": ("-Ur", "mount -t proc p /mnt"),
    "proc of the container's pid namespace": ("-Urm", "mount -t proc p /mnt"),
    "stand-in in the container": ("-Ur", "mount -t debugfs d /mnt"),
    "tmpfs in the container": ("-Ur", "mount -t tmpfs t /mnt"),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("user", ["0:0", "1000:1000"])
def test_capabilities_of_a_nested_user_namespace_do_not_count_outside(box: whole.Box, what: str, user: str) -> None:
    box.sh("mkdir -p /data/u /data/w")
    options, command = REFUSED[what]
    done = box.exec("unshare", options, *command.split(), user=user)
    assert done.returncode != 0, done.stdout
    assert "ermission denied" in done.stderr or "not permitted" in done.stderr
    assert box.sh("grep -c ' /mnt ' /proc/1/mountinfo || true").strip() == "0"


@pytest.mark.parametrize("what", REFUSED)
def test_the_containers_own_capabilities_do_count(box: whole.Box, what: str) -> None:
    """The same, but for the user namespace."""
    box.sh("mkdir -p /data/u /data/w")
    _, command = REFUSED[what]
    assert box.sh(f"unshare -m sh -euc '{command}; grep -c \" /mnt \" /proc/self/mountinfo'").strip() == "1"


def test_trusted_attributes_are_not_lent_to_a_nested_user_namespace(box: whole.Box) -> None:
    """There the kernel itself mounts an overlay that cannot see them."""
    layers = "lowerdir=/etc,upperdir=/data/u,workdir=/data/w"
    script = f"mount -t tmpfs t /data; mkdir /data/u /data/w /data/m; mount -t overlay o -o {layers} /data/m; touch /data/m/x"
    done = box.exec("unshare", "-Urm", "sh", "-euc", script)
    assert done.returncode == 0, done.stderr
    [event] = [e for e in box.trace("--syscall", "mount") if e["args"] and e["args"]["fstype"] == "overlay"][-1:]
    assert event["how"] == "continued", event


def test_a_nested_network_namespace_has_a_sysfs(box: whole.Box) -> None:
    assert box.sh("unshare -Urmn sh -euc 'mount -t sysfs s /mnt; ls /mnt/class/net'").split() == ["lo"]


def test_two_levels_deep(box: whole.Box) -> None:
    """Beyond the first level too, with the masks of every level."""
    inner = "unshare -Urpfm sh -euc 'mount -t proc proc /proc; stat -c %F /proc/meminfo; echo $$'"
    (box.rootfs / "probe/inner").write_text(f"mount -t proc proc /proc; {inner}\n", encoding="utf-8")
    said = box.sh(f"unshare -m sh -euc '{MASK} unshare -Urpfm sh -eu /probe/inner'")
    assert said.splitlines() == ["character special file", "1"]
