"""Files that are read whole: who opens one is in the middle of one snapshot, as with the kernel's seq_file."""

from __future__ import annotations

import os
import resource
import subprocess
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest
from support import oci

from interceptor.native import fuse
from interceptor.native import mounts as mount_calls

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.root, pytest.mark.kernel]

if os.geteuid() != 0:
    pytest.skip("needs root", allow_module_level=True)

FILES = [(2, "file", 0o444), (3, "written", 0o644)]
KEPT = 32
"""snapshots.c, RETIRED_MAX."""
HANDLES = 4096
"""snapshots.c, HANDLES_MAX."""
LINES = 1000


class Counting:
    """Each snapshot is lines of one number, greater than that of the one before."""

    def __init__(self) -> None:
        self.made = 0
        self.unreadable = 0

    def content(self, _node: int) -> bytes:
        if self.unreadable:
            raise OSError(self.unreadable, os.strerror(self.unreadable))
        self.made += 1
        return b"%07d\n" % self.made * LINES

    def written(self, node: int, data: bytes, *, tid: int, uid: int) -> None:
        raise AssertionError((node, data, tid, uid))


@contextmanager
def _mounted(source: Counting, at: Path, server: fuse.Server) -> Iterator[fuse.Mount]:
    mount = server.mount(source, name="test", owner=(0, 0), direct=True)
    mount.add(FILES)
    assert mount.tree is not None
    mount_calls.move_mount(mount.tree.fileno(), str(at))
    try:
        yield mount
    finally:
        mount_calls.unmount(str(at))


@pytest.fixture
def at() -> Iterator[Path]:
    with oci.directory() as found:
        yield found


@pytest.fixture
def path(at: Path) -> Iterator[Path]:
    """A file that is another whenever somebody begins to read it."""
    server = fuse.Server(valid_ns=0)
    try:
        with _mounted(Counting(), at, server):
            yield at / "file"
    finally:
        server.close()


@contextmanager
def _open(path: Path, count: int = 1) -> Iterator[list[int]]:
    with ExitStack() as undo:
        fds = []
        for _ in range(count):
            fds.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            undo.callback(os.close, fds[-1])
        yield fds


def _rest(fd: int) -> bytes:
    return b"".join(iter(lambda: os.read(fd, 777), b""))


def test_who_goes_on_reads_the_same(path: Path) -> None:
    with _open(path, 2) as (first, second):
        begun = [os.read(fd, 100) for fd in (first, second)]
        assert begun[0] < begun[1]
        for fd, beginning in zip((first, second), begun, strict=True):
            assert beginning + _rest(fd) == beginning[:8] * LINES
            assert os.read(fd, 100) == b""


def test_who_goes_back_reads_a_newer_one(path: Path) -> None:
    with _open(path) as (fd,):
        before = os.read(fd, 8)
        os.lseek(fd, 0, os.SEEK_SET)
        after = _rest(fd)
        assert after[:8] > before
        assert after == after[:8] * LINES
        assert os.pread(fd, 8, 0) > after[:8]


def test_who_reads_elsewhere_reads_a_newer_one(path: Path) -> None:
    """seq_read_iter() has it made anew, too: traverse() in fs/seq_file.c."""
    with _open(path) as (fd,):
        found = [os.pread(fd, 8, at) for at in (8, 800, 80, 80)]
        assert found == sorted(set(found))
        assert os.pread(fd, 8, 8 * LINES) == b""
        assert os.pread(fd, 8, 1 << 40) == b""


def test_a_single_read_and_sendfile_are_whole(path: Path) -> None:
    with _open(path) as (fd,):
        text = os.read(fd, 1 << 20)
        assert text == text[:8] * LINES
    sent = subprocess.run(["busybox", "cat", path], stdout=subprocess.PIPE, check=True).stdout
    assert sent == sent[:8] * LINES
    assert sent[:8] > text[:8]


def test_what_is_kept_for_open_files_is_bounded(path: Path) -> None:
    """Beyond the bound, who has been in the middle for longest goes on with the newest."""
    with _open(path, KEPT + 8) as fds:
        begun = [os.read(fd, 8) for fd in fds]
        assert begun == sorted(set(begun))
        rests = [_rest(fd) for fd in fds]
    kept = [rest == beginning * (LINES - 1) for rest, beginning in zip(rests, begun, strict=True)]
    assert kept.count(True) >= KEPT
    assert kept == sorted(kept), "those who began last"
    others = [rest for rest, whole in zip(rests, kept, strict=True) if not whole]
    assert all(len(rest) == 8 * (LINES - 1) and rest[:8] >= begun[-1] for rest in others)


def test_there_may_be_more_open_files_than_are_known(path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < HANDLES + 200:
        pytest.skip("few files may be open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with _open(path, HANDLES + 10) as fds:
            assert len(_rest(fds[-1])) == 8 * LINES
            assert len(_rest(fds[0])) == 8 * LINES
        with _open(path) as (fd,):
            text = _rest(fd)
            assert text == text[:8] * LINES, "there is room again"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_cannot_be_made_anew_stays(at: Path) -> None:
    source, server = Counting(), fuse.Server(valid_ns=0)
    try:
        with _mounted(source, at, server):
            before = (at / "file").read_bytes()
            source.unreadable = 5
            assert (at / "file").read_bytes()[:8] >= before[:8]
    finally:
        server.close()


class _Kept:
    """ports.Keeper, as far as a mount needs it."""

    def __init__(self) -> None:
        self.fd = -1

    def keep(self, _kind: str, _key: str, fd: int) -> None:
        self.fd = os.dup(fd)

    def drop(self, _kind: str, _key: str) -> None:
        raise AssertionError("nobody closes it")


def test_files_stay_open_when_the_server_is_another(at: Path) -> None:
    """The next one knows nothing of who is in the middle of what: they go on with the newest snapshots."""
    kept, first = _Kept(), fuse.Server(valid_ns=0)
    mount = first.mount(Counting(), name="test", owner=(0, 0), direct=True, kept=(kept, "test"))
    mount.add(FILES)
    assert mount.tree is not None
    mount_calls.move_mount(mount.tree.fileno(), str(at))
    second = None
    try:
        with _open(at / "file") as (fd,):
            assert os.read(fd, 8) < b"0000100\n"
            first.close()
            source, second = Counting(), fuse.Server(valid_ns=0)
            source.made = 100
            mount = second.inherit(source, kept.fd, owner=(0, 0), direct=True, kept=(kept, "test"))
            mount.add(FILES)
            mount.begin()
            rest = _rest(fd)
            assert len(rest) == 8 * (LINES - 1)
            assert rest[:8] > b"0000100\n"
            with _open(at / "file") as (other,):
                text = _rest(other)
                assert text == text[:8] * LINES
    finally:
        mount_calls.unmount(str(at))
        if second is not None:
            second.close()
