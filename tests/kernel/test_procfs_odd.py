"""Leaves that are used as nobody should: each use ends as on the kernel's own file, or why it does not is said here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
from support import whole

from runtime.procfs.table import leaves

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.root, pytest.mark.kernel]

FILE: Final = "a leaf is a file with a size and pages: that is what makes it as fast as the kernel's own"
READ_ONLY: Final = "refused as well, because of the mount instead of the file"
NO_ATTRIBUTES: Final = "neither has any; FUSE says so in other words"
SHORT: Final = "the kernel's cannot be read in parts, ours can"
PRESSURE: Final = "without a v2 cgroup there is nothing to wait for; see docs/proc.md"

DIFFERENT: Final = {
    # use: what it is here, and why
    "lseek-end": ("some", FILE), "lseek-data": ("0", FILE), "lseek-hole": ("some", FILE), "fsync": ("0", FILE),
    "mmap-private": ("whole", FILE), "mmap-shared": ("whole", FILE), "open-direct": ("0", FILE), "sendfile": ("whole", FILE),
    "splice": ("whole", FILE), "fchmod": ("EROFS", READ_ONLY), "fchown": ("EROFS", READ_ONLY),
    "fsetxattr": ("EROFS", READ_ONLY), "open-append": ("EROFS", READ_ONLY), "open-both": ("EROFS", READ_ONLY),
    "open-truncate": ("EROFS", READ_ONLY), "open-write": ("EROFS", READ_ONLY), "truncate": ("EROFS", READ_ONLY),
    "fgetxattr": ("EOPNOTSUPP", NO_ATTRIBUTES), "flistxattr": ("EOPNOTSUPP", NO_ATTRIBUTES),
    "pread-one": ("some", SHORT), "read-byte-by-byte": ("whole", SHORT),
    "open": ("0", "root reads the head of slabinfo; the kernel's own root alone may, and that is nobody inside"),
    "poll": ("ready", "/proc/swaps tells of swapon(2), which nobody calls inside"),
    "permissions-to-write": ("0", PRESSURE),
}  # fmt: skip
LONGER: Final = {"mmap-shared": "ENODEV"}
"""A text that may be longer than a page has none."""
WRITTEN_DIFFERENT: Final = {"mmap-writable": "0", "fsync-writable": "0"}


@pytest.fixture(scope="module")
def boxes() -> Iterator[tuple[whole.Box, whole.Box]]:
    """With leaves, and without."""
    with whole.host("runc") as host:
        yield host.box(), host.box("bare")


def outcome(box: whole.Box, kind: str, *paths: str) -> dict[tuple[str, str], str]:
    done = box.exec(box.probe("odd_uses"), kind, *paths)
    assert done.returncode == 0, done.stdout + done.stderr
    return {(path, use): result for path, use, result in (line.split(" ", 2) for line in done.stdout.splitlines())}


def test_reading_in_every_way(boxes: tuple[whole.Box, whole.Box]) -> None:
    ours, bare = boxes
    leaf_points = ours.sh("grep ' - fuse.interceptor ' /proc/self/mountinfo | cut -d' ' -f5").split()
    computed = {leaf.path for leaf in leaves() if leaf.write is None}
    paths = [path for path in leaf_points if path in computed and ours.sh(f"cat {path}")]
    if not paths:
        pytest.skip("no leaves: this host has no FUSE")
    mine, native = outcome(ours, "read", *paths), outcome(bare, "read", *paths)
    for (path, use), result in mine.items():
        here, why = DIFFERENT.get(use, (None, ""))
        kernels = native.get((path, use))
        if kernels is not None and kernels != result:
            assert result in (here, LONGER.get(use)), f"{use} of {path}: {kernels} natively, {result} here; {why}"
    assert {result for (_, use), result in mine.items() if use == "read-direct"} == {"whole"}


def test_writing_in_every_way(boxes: tuple[whole.Box, whole.Box]) -> None:
    """A remembered value, and one of the same kind that is the network namespace's own."""
    ours, bare = boxes
    remembered, own = "/proc/sys/kernel/panic", "/proc/sys/net/ipv4/tcp_max_syn_backlog"
    mine, native = outcome(ours, "write", remembered), outcome(bare, "write", own)
    found = {use: (result, mine.get((remembered, use))) for (_, use), result in native.items()}
    different = {use: ours for use, (kernels, ours) in found.items() if kernels != ours}
    assert different == WRITTEN_DIFFERENT, {use: found[use] for use in different}
