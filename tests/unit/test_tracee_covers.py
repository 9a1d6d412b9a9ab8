"""What a fresh proc must cover again, read from mountinfo; and whose descriptor a path names."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from support.fakes import container

from interceptor import tracee as module
from interceptor.args import Arch
from interceptor.container import DeviceNumber
from interceptor.ports import Mounted
from interceptor.tracee import Pinned, covers, tree, unescape
from interceptor.wire import Anchor

if TYPE_CHECKING:
    from collections.abc import Callable

PROC = b"30 25 0:24 / /proc rw,nosuid - proc proc rw"
ROOT = b"25 1 0:20 / / rw - overlay o rw"


def lines(*rows: bytes) -> bytes:
    return b"".join(row + b"\n" for row in rows)


def test_what_lies_below_in_the_order_of_mounting() -> None:
    text = lines(
        ROOT, PROC, b"31 25 0:25 / /sys ro - sysfs sysfs ro",
        b"40 30 0:24 /sys /proc/sys ro - proc proc rw", b"41 30 0:6 /null /proc/kcore rw - devtmpfs udev rw",
    )  # fmt: skip
    assert covers(text, b"proc") == [b"/proc", b"sys", b"kcore"]
    assert covers(text, b"sysfs") == [b"/sys"]


def test_what_lies_on_what_lies_below_comes_after_it() -> None:
    """Also where it is older: a mount that was moved keeps its number."""
    text = lines(
        ROOT, PROC, b"38 40 0:9 / /proc/sys/kernel/x rw - tmpfs t rw", b"40 30 0:24 /sys /proc/sys ro - proc p rw"
    )
    assert covers(text, b"proc") == [b"/proc", b"sys", b"sys/kernel/x"]


@pytest.mark.parametrize(
    "row",
    [
        b"30 25 0:24 /sys /mnt rw - proc proc rw",  # a part of one
        b"30 25 0:24 / /proc rw - tmpfs proc rw",
        b"30 25 0:24 / /proc rw shared:1 - tmpfs proc rw",
    ],
)
def test_without_a_whole_one_there_is_nothing(row: bytes) -> None:
    assert covers(lines(ROOT, row), b"proc") == []


def test_optional_fields_do_not_confuse() -> None:
    text = lines(
        ROOT, b"30 25 0:24 / /proc rw shared:1 master:2 - proc proc rw", b"31 30 0:9 / /proc/x rw unbindable - t t rw"
    )
    assert covers(text, b"proc") == [b"/proc", b"x"]


def test_another_mount_over_the_whole_is_no_part_of_it() -> None:
    assert covers(lines(ROOT, PROC, b"40 30 0:9 / /proc rw - tmpfs t rw"), b"proc") == [b"/proc"]


def test_a_proc_on_the_root() -> None:
    assert covers(lines(b"1 0 0:24 / / rw - proc p rw", b"2 1 0:9 / /sys rw - t t rw"), b"proc") == [b"/", b"sys"]


def test_names_with_blanks_and_worse() -> None:
    text = lines(ROOT, b"30 25 0:24 / /a\\040b rw - proc p rw", b"31 30 0:9 / /a\\040b/c\\134d\\012e rw - t t rw")
    assert covers(text, b"proc") == [b"/a b", b"c\\d\ne"]
    assert unescape(b"\\134040") == b"\\040"


TID, NSTGID = 100, 7


@pytest.fixture
def anchor(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Anchor]:
    def make(path: bytes, *, mountinfo: bytes = lines(ROOT, PROC)) -> Anchor:
        files = {"mountinfo": mountinfo, "status": b"Name:\tx\nNStgid:\t900\t%d\n" % NSTGID}
        monkeypatch.setattr(module.native, "read", lambda _proc, name: files[name])
        monkeypatch.setattr(module.native, "take", lambda _proc, tid, fd: 1000 + fd if tid == TID else -1)
        held = SimpleNamespace(proc=3, close=lambda: None)
        notification = SimpleNamespace(id=1, tid=TID, arch=Arch.X86_64)
        return Pinned(container(), {}, 5, notification, held).anchor(path)  # type: ignore[arg-type]

    return make


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/proc/self/fd/3", Anchor(b"", 1003)),
        (b"/proc/thread-self/fd/3", Anchor(b"", 1003)),
        (b"//proc///self//fd/3/a/b", Anchor(b"a/b", 1003)),
        (b"/proc/self/fd/3//a", Anchor(b"a", 1003)),
        (b"/proc/self/fd/3/", Anchor(b"", 1003)),
        (b"/proc/self/fd/3/..", Anchor(b"..", 1003)),
        (b"/dev/fd/12", Anchor(b"", 1012)),
        (b"/proc/7/fd/3", Anchor(b"", 1003)),
        (b"/proc/8/fd/3", Anchor(b"/proc/8/fd/3")),
        (b"/proc/self/fd/3x", Anchor(b"/proc/self/fd/3x")),
        (b"/proc/self/fd/", Anchor(b"/proc/self/fd/")),
        (b"/proc/self/fd/-1", Anchor(b"/proc/self/fd/-1")),
        (b"/proc/self/fd/99999999999", Anchor(b"/proc/self/fd/99999999999")),
        (b"/proc/selfish/fd/3", Anchor(b"/proc/selfish/fd/3")),
        (b"/mnt/proc/self/fd/3", Anchor(b"/mnt/proc/self/fd/3")),
        (b"/proc/self/fd/3\n", Anchor(b"/proc/self/fd/3\n")),
        (b"relative", Anchor(b"relative")),
    ],
)
def test_a_descriptor_is_named_by_procfs(anchor: Callable[..., Anchor], path: bytes, expected: Anchor) -> None:
    assert anchor(path) == expected


def test_where_no_procfs_is_mounted_the_name_means_nothing(anchor: Callable[..., Anchor]) -> None:
    assert anchor(b"/proc/self/fd/3", mountinfo=lines(ROOT)) == Anchor(b"/proc/self/fd/3")


def test_a_mount_and_all_that_is_mounted_below_it() -> None:
    text = lines(
        ROOT, PROC, b"31 25 0:25 / /sys ro - sysfs sysfs ro", b"40 30 0:70 /stat /proc/stat ro - fuse.x x rw",
        b"41 40 0:9 / /proc/stat ro - tmpfs t rw", b"42 31 0:9 / /sys/a\\040b ro - tmpfs t rw",
    )  # fmt: skip
    device = DeviceNumber(0, 70)
    assert tree(text, 30) == [
        Mounted(30, DeviceNumber(0, 24), b"/proc", b"proc"), Mounted(40, device, b"/proc/stat", b"fuse.x"),
        Mounted(41, DeviceNumber(0, 9), b"/proc/stat", b"tmpfs"),
    ]  # fmt: skip
    assert [mounted.point for mounted in tree(text, 31)] == [b"/sys", b"/sys/a b"]
    assert tree(text, 99) == []
