"""The new mount API, call by call, beside the same program without the filter; and what only we can do.

The program is one of x86-64 and one of i386, without a C library.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
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

ABIS = {"x86-64": (), "i386": ("-m32",)}
OPTIONS = ("-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-pie", "-no-pie")
NESTED = ["unshare", "-Urpimnf"]
IN = {"in the container": ["unshare", "-m"], "in a nested user namespace": NESTED}


@pytest.fixture(params=["runc", "crun"], scope="module")
def box(request: pytest.FixtureRequest) -> Iterator[whole.Box]:
    with whole.host(request.param) as host:
        made = host.box("bare")
        made.sh("mkdir -p /data/lower/d /data/second; echo below >/data/lower/f; echo second >/data/second/s")
        yield made


def said(box: whole.Box, *steps: str, abi: str = "x86-64", inside: str = "in the container") -> list[str]:
    done = box.exec(*IN[inside], box.probe("newmount", *OPTIONS, *ABIS[abi]), *steps)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def compare(box: whole.Box, *steps: str, abi: str = "x86-64", inside: str = "in the container") -> list[str]:
    ours = said(box, *steps, abi=abi, inside=inside)
    native = box.unfiltered(*IN[inside], box.probe("newmount", *OPTIONS, *ABIS[abi]), *steps)
    assert ours == native.stdout.splitlines()
    return ours


USE = (
    "ls", ".", "attr", "0x1", "0", "move", "/mnt", "ls", ".", "show", "/mnt", "attr", "0", "0x1", "show", "/mnt",
    "umount", "/mnt", "close", "umount", "/mnt", "show", "/mnt",
)  # fmt: skip


@pytest.mark.parametrize("abi", ABIS)
@pytest.mark.parametrize("inside", IN)
@pytest.mark.parametrize("fstype", ["proc", "sysfs", "tmpfs", "ramfs", "devpts", "mqueue", "nonsense", "ext4"])
def test_a_mount_is_what_the_kernels_is(box: whole.Box, fstype: str, inside: str, abi: str) -> None:
    steps = ("open", fstype, "set", "source=x", "create", "mount", "0xe", *USE)
    if "nested" in inside and fstype in ("proc", "sysfs"):  # too revealing for the kernel: covers would be missing
        lines = said(box, *steps, abi=abi, inside=inside)
        assert lines[:7] == [f"{what} ok" for what in ("open", "source=x", "create", "mount", "ls", "attr", "move")]
        assert f"/mnt ro,nosuid,nodev,noexec,relatime - {fstype} x " in "\n".join(lines)
        return
    lines = compare(box, *steps, abi=abi, inside=inside)
    if "create ok" in lines:
        assert lines[-2:] == ["close ok", "umount ok"]
    left = [event for event in box.trace("--last", "30") if event["how"] == "failed"]
    assert not left


@pytest.mark.parametrize("attributes", ["0", "1", "0x10", "0x20", "0x80", "0x20008f", "0x30", "0x40", "0x100"])
@pytest.mark.parametrize("fstype", ["proc", "sysfs"])
def test_attributes_mean_what_they_mean(box: whole.Box, fstype: str, attributes: str) -> None:
    steps = ("open", fstype, "create", "mount", attributes, "move", "/mnt", "show", "/mnt", "close", "umount", "/mnt")
    ours = said(box, *steps)
    native = box.unfiltered("unshare", "-m", box.probe("newmount", *OPTIONS), *steps).stdout.splitlines()
    if ours != native:  # mnt_already_visible() wants the atime of the one that is visible: a tmpfs is free
        assert native[2] == "mount errno 1"
        steps = ("open", "tmpfs", *steps[2:])
        free = box.unfiltered("unshare", "-m", box.probe("newmount", *OPTIONS), *steps).stdout.splitlines()
        assert [line.split(" - ")[0] for line in ours] == [line.split(" - ")[0] for line in free]


@pytest.mark.parametrize(
    "option", ["hidepid=invisible", "subset=pid", "gid=5", "hidepid=9", "nonsense", "nonsense=1", "ro"]
)
def test_options_mean_what_they_mean(box: whole.Box, option: str) -> None:
    compare(
        box, "open", "proc", "set", option, "create", "mount", "0", "move", "/mnt", "show", "/mnt", "umount", "/mnt"
    )


@pytest.mark.parametrize("fstype", ["proc", "sysfs", "tmpfs"])
def test_calls_in_an_order_that_makes_no_sense(box: whole.Box, fstype: str) -> None:
    compare(box, "open", fstype, "mount", "0", "create", "create", "set", "source=x", "move", "/mnt")


@pytest.mark.parametrize(
    "to", ["/nowhere", "/probe/newmount", "fd:/mnt", "fd:/nowhere", "/data/link", "/proc/self/fd/77"]
)
def test_where_it_goes(box: whole.Box, to: str) -> None:
    box.sh("ln -sfn /mnt /data/link; touch /probe/newmount")
    steps = ("open", "proc", "create", "mount", "0", "move", to, "show", "/mnt", "move", "/mnt", "show", "/mnt")
    compare(box, *steps)


MASKS = "mount -o bind /dev/null /proc/meminfo; mount -o bind /data /proc/fs"


def test_masks_are_over_a_fresh_proc_too(box: whole.Box) -> None:
    program = box.probe("newmount", *OPTIONS)
    steps = "open proc create mount 0xe move /mnt umount /mnt/meminfo umount /mnt/fs close"
    inner = f"{program} {steps}; stat -c %F /mnt/meminfo; ls /mnt/fs | grep -c lower; readlink /mnt/self"
    seen = box.sh(f"unshare -m sh -euc '{MASKS}; unshare -Urpfm sh -c \"{inner}\"'").splitlines()
    assert seen[:-3] == [
        "open ok", "create ok", "mount ok", "move ok", "umount errno 22", "umount errno 22", "close ok",
    ]  # fmt: skip
    assert seen[-3:-1] == ["character special file", "1"]


def test_covers_cannot_be_left_behind(box: whole.Box) -> None:
    """A detached mount must not be copied without what covers it."""
    program = box.probe("newmount", *OPTIONS)
    inner = f"{program} open proc create mount 0xe reclone move /mnt; stat -c %F /mnt/meminfo"
    done = box.exec("unshare", "-m", "sh", "-euc", f'{MASKS}; unshare -Urpfm sh -c "{inner}"')
    seen = done.stdout.splitlines()
    assert seen[:4] == ["open ok", "create ok", "mount ok", "reclone errno 22"], seen
    assert "regular file" not in seen


def test_a_context_that_was_handed_on_lends_nothing_to_a_nested_user_namespace(box: whole.Box) -> None:
    """The container's root opens it, somebody in a user namespace below inherits it."""
    program = box.probe("newmount", *OPTIONS)
    inner = f"{program} inherit 3 set lowerdir+=/data/lower set lowerdir+=/data/second set metacopy=on create mount 0"
    seen = box.sh(f"{program} open overlay keep 3 run /bin/unshare -Urm {inner}").splitlines()
    assert seen[-2:] == ["create errno 1", "mount errno 22"], seen


def test_a_hidden_mask_still_hides(box: whole.Box) -> None:
    program = box.probe("newmount", *OPTIONS)
    inner = f"mount -t tmpfs none /proc; {program} open proc create mount 0xe"
    seen = box.sh(f"unshare -m sh -euc '{MASKS}; unshare -Urpfm sh -c \"{inner}\"'").splitlines()
    assert seen == ["open ok", "create ok", "mount errno 1"]


def test_one_where_none_is_visible(box: whole.Box) -> None:
    """As by mount(2): what `ip netns exec` does by unmounting /sys first."""
    program = box.probe("newmount", *OPTIONS)
    steps = "open sysfs create mount 0xe move /mnt"
    seen = box.sh(f"unshare -mn sh -euc 'mount -t tmpfs none /sys; {program} {steps}; ls /mnt/class/net'").splitlines()
    assert seen == ["open ok", "create ok", "mount ok", "move ok", "lo"]


@pytest.mark.parametrize("fstype", ["debugfs", "tracefs", "securityfs"])
def test_a_stand_in(box: whole.Box, fstype: str) -> None:
    seen = said(box, "open", fstype, "set", "source=x", "create", "mount", "0xa", *USE)
    assert {line for line in seen if not line.startswith("/")} <= {
        "open ok", "source=x ok", "create ok", "mount ok", "ls ok", "attr ok", "move ok", "umount ok", "umount errno 16",
        "close ok", "attr errno 1",
    }  # fmt: skip
    shown = next(line for line in seen if line.startswith("/mnt"))
    assert re.fullmatch(rf"/mnt ro,nosuid,noexec,relatime - tmpfs {fstype} ro,.*", shown), shown


LAYERS = {
    "one string": ("set", "lowerdir=/data/lower:/data/second"),
    "one by one": ("set", "lowerdir+=/data/lower", "set", "lowerdir+=/data/second"),
    "descriptors": ("dir", "lowerdir+=/data/lower", "dir", "lowerdir+=/data/second"),
    "set anew": ("set", "lowerdir=/data/second:/bin", "set", "lowerdir=/data/lower:/data/second"),
}


@pytest.mark.parametrize("abi", ABIS)
@pytest.mark.parametrize("layers", LAYERS)
def test_an_overlay(box: whole.Box, layers: str, abi: str) -> None:
    program = box.probe("newmount", *OPTIONS, *ABIS[abi])
    steps = " ".join(("open overlay set source=o", *LAYERS[layers]))
    upper = "set upperdir=/data/upper dir workdir=/data/work set metacopy=on set redirect_dir=on create mount 2"
    seen = box.sh(
        "rm -rf /data/upper /data/work; mkdir /data/upper /data/work; unshare -m sh -euc '"
        f"{program} {steps} {upper} move /mnt close; cat /mnt/f /mnt/s; chown 1000 /mnt/f; mv /mnt/d /mnt/e; rm /mnt/s;"
        " ls -A /mnt; umount /mnt'; ls -A /data/upper"
    ).splitlines()
    assert all(line.endswith(" ok") for line in seen[: seen.index("below")]), seen
    assert seen[seen.index("below") :] == ["below", "second", "e", "f", "d", "e", "f", "s"]
    upper_dir = Path(f"/proc/{box.init}/root/data/upper")
    assert os.getxattr(upper_dir / "e", "trusted.overlay.redirect") == b"d"
    assert "trusted.overlay.metacopy" in os.listxattr(upper_dir / "f")


@pytest.mark.parametrize("count", [1, 30])
def test_layers_by_descriptors_of_the_programs_own(box: whole.Box, count: int) -> None:
    """By both APIs: container engines open long lists of layers, and name them so."""
    program = box.probe("newmount", *OPTIONS)
    names = [f"/proc/self/fd/{number}" for number in range(20, 20 + count)]
    layers = ":".join(["/data/lower", *names])
    one_by_one = " ".join(f"set lowerdir+={name}" for name in names)
    opened = "; ".join(f"mkdir -p /data/n{n}; touch /data/n{n}/s{n}; exec {n}</data/n{n}" for n in range(20, 20 + count))
    script = (
        f"{opened}; mount -t overlay o -o lowerdir={layers} /mnt; ls /mnt; umount /mnt; echo --;"
        f" {program} open overlay set lowerdir+=/data/lower {one_by_one} create mount 0 move /mnt close; ls /mnt"
    )
    (box.rootfs / "probe/layers").write_text(script, encoding="utf-8")
    seen = box.sh("unshare -m sh -eu /probe/layers").splitlines()
    there = ["d", "f", *sorted(f"s{number}" for number in range(20, 20 + count))]
    assert seen[: seen.index("--")] == there
    assert seen[-len(there) :] == there
    assert all(line.endswith(" ok") for line in seen[len(there) + 1 : -len(there)])


def test_a_layer_behind_a_closed_descriptor_is_not_there(box: whole.Box) -> None:
    done = box.exec("unshare", "-m", "mount", "-t", "overlay", "o", "-o", "lowerdir=/data/lower:/proc/self/fd/77", "/mnt")
    assert "No such file or directory" in done.stderr


def test_an_overlay_for_users_is_the_kernels(box: whole.Box) -> None:
    steps = ("open", "overlay", "set", "lowerdir=/etc:/bin")
    compare(
        box,
        *steps,
        "set",
        "userxattr",
        "create",
        "mount",
        "0",
        "move",
        "/mnt",
        "show",
        "/mnt",
        "close",
        "umount",
        "/mnt",
    )


def test_an_overlay_in_a_nested_user_namespace_is_the_kernels(box: whole.Box) -> None:
    steps = ("open", "overlay", "set", "lowerdir=/etc:/bin", "create", "mount", "0", "move", "/mnt", "show", "/mnt")
    compare(box, *steps, inside="in a nested user namespace")


@pytest.mark.parametrize("option", ["lowerdir+=/proc/1", "lowerdir+=/sys", "nonsense=1", "lowerdir+=/nowhere"])
def test_an_option_that_is_not_taken_over_makes_no_other_overlay(box: whole.Box, option: str) -> None:
    """Foreign layers, unknown options, no such directory: nothing is mounted without them."""
    seen = said(box, "open", "overlay", "set", "lowerdir+=/data/lower", "set", option, "create", "mount", "0")
    assert seen[-2].startswith("create errno ")
    assert seen[-1].startswith("mount errno ")


def test_clones_attributes_and_moves_of_the_kernels_mounts(box: whole.Box) -> None:
    steps = (
        "clone",
        "/data",
        "attr",
        "1",
        "0",
        "move",
        "/mnt",
        "show",
        "/mnt",
        "attr",
        "0",
        "1",
        "show",
        "/mnt",
        "close",
    )
    compare(box, *steps, "umount", "/mnt")
    compare(
        box, "open", "proc", "create", "mount", "0", "move", "/mnt", "clone", "/mnt", "move", "/data", "show", "/data"
    )


def test_nothing_is_kept_for_who_ended(box: whole.Box) -> None:
    """More contexts than are kept, all of them left behind; then one that is needed."""
    for _ in range(3):
        said(box, *("open", "proc", "create", "mount", "0") * 30)
    assert (
        said(box, "open", "proc", "create", "mount", "0", "move", "/mnt", "close", "umount", "/mnt")[-1] == "umount ok"
    )


def test_the_family_can_be_switched_off() -> None:
    with whole.host("runc") as host:
        made = host.box("no-new-mount-api")
        seen = said(
            made, "open", "tmpfs", "set", "a=b", "create", "mount", "0", "move", "/mnt", "clone", "/", "attr", "0", "0"
        )
        assert [line.rsplit(" ", 2)[1:] for line in seen] == [["errno", "38"]] * 7
        assert "proc" in made.sh("mount -t proc proc /mnt; grep ' /mnt ' /proc/self/mountinfo")
