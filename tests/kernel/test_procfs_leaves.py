"""Leaves of /proc in real containers, on runc and crun: what is shown, that it is whole, and that nothing stays."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import oci, probes
from support.mounts import mounts
from support.waiting import wait_for

from interceptor.native import fuse
from interceptor.native import mounts as mount_calls
from runtime.procfs.leaf import Leaf, Rung, View
from runtime.procfs.service import Procfs

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.root, pytest.mark.kernel]

if os.geteuid() != 0:
    pytest.skip("needs root", allow_module_level=True)


def _count(view: View) -> bytes:
    view.state["n"] = view.state.get("n", 0) + 1
    return f"reading {view.state['n']} of {view.cgroups['memory' if 'memory' in view.cgroups else ''][0]}\n".encode()


def _store(_view: View, _old: bytes, new: bytes) -> bytes:
    if not new.strip().isdigit():
        raise OSError(errno.EINVAL, "not a number")
    return new.strip() + b"\n"


LEAVES = [
    Leaf("/proc/meminfo", Rung.FUSE, lambda _view: b"MemTotal:         524288 kB\n"),
    Leaf("/proc/uptime", Rung.FUSE, _count),
    Leaf("/proc/sys/vm/swappiness", Rung.FUSE, lambda _view: b"60\n", write=_store, mode=0o644),
    Leaf("/proc/no/such/thing", Rung.FUSE, lambda _view: b""),
]


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with oci.directory() as found:
        yield found


@pytest.fixture(params=["runc", "crun"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[oci.Host]:
    runtime = shutil.which(request.param)
    if runtime is None:
        pytest.skip(f"{request.param} is not installed")
    with oci.Host(tmp_path, runtime) as found:
        found.lifecycle._procfs = Procfs(LEAVES)
        yield found
    assert not [str(mount) for mount in mounts() if str(tmp_path) in mount.point]
    assert sorted(path.name for path in tmp_path.glob("run/containers/*")) == []


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return oci.busybox_rootfs(tmp_path / "rootfs")


def test_a_containers_files_are_its_own(host: oci.Host, plain: Path) -> None:
    script = (
        "cat /proc/meminfo; ls -ln /proc/meminfo; grep -c . /proc/uptime; cat /proc/sys/vm/swappiness;"
        "echo 10 > /proc/sys/vm/swappiness && cat /proc/sys/vm/swappiness;"
        "echo none > /proc/sys/vm/swappiness; echo $?; cat /proc/sys/vm/swappiness;"
        "echo x > /proc/meminfo; echo $?"
    )
    before = Path("/proc/sys/vm/swappiness").read_text()
    out = host.output_of("one", oci.config(plain, "/bin/sh", "-c", script, cgroup=f"{host.cgroup}/one")).splitlines()
    assert out[0] == "MemTotal:         524288 kB"
    assert out[1].startswith("-r--r--r--    1 0        0 ")
    assert out[2:5] == ["1", "60", "10"]
    assert "Invalid argument" in out[5]
    assert out[6:8] == ["1", "10"]
    assert "Read-only file system" in out[8]
    assert Path("/proc/sys/vm/swappiness").read_text() == before


def test_the_view_is_the_containers_cgroup(host: oci.Host, plain: Path) -> None:
    out = host.output_of("two", oci.config(plain, "/bin/cat", "/proc/uptime", cgroup=f"{host.cgroup}/two"))
    assert out.startswith("reading 1 of /proc/self/fd/")
    assert out.rstrip().endswith(f"{host.cgroup}/two")


def test_what_was_written_is_known_by_whom(host: oci.Host, plain: Path) -> None:
    script = "echo 17 > /proc/sys/vm/swappiness; sleep 1000"
    pid = host.create(
        "three", host.bundle("three", oci.config(plain, "/bin/sh", "-c", script, cgroup=f"{host.cgroup}/3"))
    )
    host.start("three")
    served = host.lifecycle._procfs._served["three"]
    wait_for(lambda: served.remembered.who(LEAVES[2]) is not None, "a written value", within=10)
    who = served.remembered.who(LEAVES[2])
    assert who is not None
    assert (who.text, who.tid, who.comm) == ("17\n", pid, "sh")
    host.delete("three")


class _Varying:
    """Snapshots as whole_reads.c wants them, of every size between a line and so many of them."""

    def __init__(self, lines: int) -> None:
        self.made = 0
        self._lines = lines
        self.starved = 0
        """Nanoseconds that the server waited at most for a CPU between two of them."""
        self._waited = 0

    def content(self, _node: int) -> bytes:
        waited = int(Path("/proc/thread-self/schedstat").read_text().split()[1])
        self.starved = max(self.starved, waited - self._waited) if self.made else 0
        self._waited = waited
        self.made += 1
        number, rows = self.made, self.made * 7919 % self._lines
        body = f"{number} row ............................................................\n" * rows
        return f"{number} first {rows} {time.monotonic_ns()}\n{body}{number} last\n".encode()

    def written(self, node: int, data: bytes, *, tid: int, uid: int) -> None:
        raise AssertionError((node, data, tid, uid))


def _read_all(source: _Varying, at: Path, buffer: str, reads: int, *, direct: bool) -> int:
    """So many by eight processes. None is torn or old; answers how many were late."""
    server = fuse.Server()
    at.mkdir()
    try:
        mount = server.mount(source, name="test", owner=(0, 0), direct=direct)
        mount.add([(2, "varying", 0o444)])
        mount_calls.move_mount(mount.tree.fileno(), str(at))
        command = [probes.probe("whole_reads"), at / "varying", "8", str(reads // 8), buffer]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=240)
    finally:
        mount_calls.unmount(str(at))
        server.close()
    counted, late, torn, oldest, starved = map(int, done.stdout.split())
    assert (counted, torn) == (reads, 0)
    starved += source.starved // 1000
    assert oldest - starved < 50_000, f"microseconds; {starved} of {oldest} nobody had a CPU"
    assert source.made > 10
    return late


@pytest.mark.parametrize("buffer", ["65536", "0"], ids=["to-the-end", "at-once"])
def test_100_000_reads_while_sizes_change_are_whole_and_new(buffer: str, tmp_path: Path) -> None:
    late = _read_all(_Varying(58), tmp_path / "leaf", buffer, 100_000, direct=False)
    assert late < 100, "a rule for exceptions"


@pytest.mark.parametrize(
    ("lines", "buffer", "reads"),
    [(250, "65536", 100_000), (1400, "65536", 8_000), (250, "100", 4_000), (100, "1", 160), (250, "kept", 8_000)],
    ids=["to-the-end", "100-kB", "in-parts", "by-bytes", "kept-open"],
)
def test_longer_texts_are_whole_for_each_who_opens_them(lines: int, buffer: str, reads: int, tmp_path: Path) -> None:
    assert _read_all(_Varying(lines), tmp_path / "leaf", buffer, reads, direct=True) == 0, "there is no exception"
