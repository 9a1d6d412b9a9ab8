"""Files that are kept open and sent, or mapped, again and again: nobody asks for attributes, and yet they are never old."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from support import oci
from support.waiting import PATIENCE

from interceptor.native import fuse
from interceptor.native import mounts as mount_calls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.root, pytest.mark.kernel]

if os.geteuid() != 0:
    pytest.skip("needs root", allow_module_level=True)

OLD_S = 0.05
PAUSE_S = 0.3


class Clock:
    """Each snapshot is lines of the time at which it was made, in microseconds; from a moment on there is one line more."""

    def __init__(self, lines: int) -> None:
        self.lines = lines

    def content(self, _node: int) -> bytes:
        return b"%016d\n" % (time.monotonic_ns() // 1000) * self.lines

    def written(self, node: int, data: bytes, *, tid: int, uid: int) -> None:
        raise AssertionError((node, data, tid, uid))


@contextmanager
def mounted(source: Clock, *, direct: bool) -> Iterator[Path]:
    server = fuse.Server()
    try:
        with oci.directory() as at:
            mount = server.mount(source, name="test", owner=(0, 0), direct=direct)
            mount.add([(2, "file", 0o444)])
            assert mount.tree is not None
            mount_calls.move_mount(mount.tree.fileno(), str(at))
            try:
                yield at / "file"
            finally:
                mount_calls.unmount(str(at))
    finally:
        server.close()


def sent(fd: int) -> bytes:
    """What sendfile(2) sends of it, from its start."""
    out = os.memfd_create("sent")
    try:
        while os.sendfile(out, fd, os.lseek(out, 0, os.SEEK_CUR), 1 << 16):
            pass
        return os.pread(out, 1 << 20, 0)
    finally:
        os.close(out)


def age(text: bytes, begin: float) -> float:
    """Of a whole text, in seconds, when somebody began to ask for it. It may end in blanks (fuse.h)."""
    (made,) = set(map(int, text.split()))
    assert text.endswith(b"\n")
    return begin - made / 1e6


def ages(look: Callable[[], bytes], count: int, *, pause: float) -> list[float]:
    found = []
    for _ in range(count):
        begin = time.monotonic()
        found.append(age(look(), begin))
        time.sleep(pause)
    return found


def new(ages: list[float]) -> None:
    """But for those who had to wait for a CPU, none is from before the last pause, nor older than it may be."""
    assert sorted(ages)[-3] < PAUSE_S, ages
    assert statistics.median(ages) < OLD_S * PATIENCE, ages


@pytest.mark.parametrize(("lines", "direct"), [(3, False), (3, True), (600, True)])
def test_what_is_sent_again_is_never_old(lines: int, direct: bool) -> None:
    with mounted(Clock(lines), direct=direct) as path, path.open("rb") as file:
        found = ages(lambda: sent(file.fileno()), 100, pause=0.002) + ages(lambda: sent(file.fileno()), 10, pause=PAUSE_S)
    new(found)


MAPPED = """
import mmap, sys, time
with open(sys.argv[1], "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
    for pause in (0.002,) * 100 + (0.3,) * 10:
        begin = time.monotonic()
        print(begin, mapped[:17].decode(), end="")
        time.sleep(pause)
"""


def test_what_is_mapped_is_never_old() -> None:
    """By another process: who waits for a page holds what Python's other threads need to make it."""
    with mounted(Clock(3), direct=False) as path:
        said = subprocess.run([sys.executable, "-c", MAPPED, path], check=True, capture_output=True, text=True, timeout=60)
    found = [float(begin) - int(made) / 1e6 for begin, made in map(str.split, said.stdout.splitlines())]
    new(found)


@pytest.mark.parametrize("direct", [False, True])
def test_what_has_grown_is_sent_whole(direct: bool) -> None:
    """What it was before, until somebody asks: the kernel does not know that there is more."""
    source = Clock(3)
    with mounted(source, direct=direct) as path, path.open("rb") as file:
        assert age(sent(file.fileno()), time.monotonic()) < PAUSE_S
        time.sleep(PAUSE_S)
        source.lines = 100
        assert sent(file.fileno()).count(b"\n") == 3
        time.sleep(PAUSE_S)
        path.stat()
        text = sent(file.fileno())
        assert age(text, time.monotonic()) < PAUSE_S
        assert text.count(b"\n") == 100
