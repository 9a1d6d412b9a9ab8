"""Which cgroups become the container's, by what is in them."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import cgroup_box

from interceptor.container import IdRange
from runtime import cgroups, mountinfo

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

IDS = IdRange(1_879_048_192, 65_536)
WITH_A_CHILD = ("sh", "-c", "sleep 100 & exec sleep 100")


@pytest.fixture
def box() -> Iterator[cgroup_box.Box]:
    if reason := cgroup_box.missing():
        pytest.skip(reason)
    with cgroup_box.box("given") as box:
        yield box


def given(pid: int) -> set[int]:
    """Owners of what is said to be given."""
    table = mountinfo.parse(Path("/proc/self/mountinfo").read_text())
    said = cgroups.delegate(pid, Path(f"/proc/{pid}/cgroup").read_text(), table, IDS)
    return {Path(directory).stat().st_uid for directory in said}


@contextlib.contextmanager
def stranger(box: cgroup_box.Box, beside: int) -> Iterator[None]:
    """A process that the container's did not start."""
    with subprocess.Popen(["sleep", "100"]) as other:
        for line in Path(f"/proc/{beside}/cgroup").read_text().splitlines():
            controller, path = line.split(":")[1:]
            top = cgroup_box.TOP if box.unified else cgroup_box.TOP / controller
            if box.name in path:
                (top / path.strip("/") / "cgroup.procs").write_text(str(other.pid))
        try:
            yield
        finally:
            other.kill()


def test_one_with_the_containers_init_alone(box: cgroup_box.Box) -> None:
    with box.run("sleep", "100") as pid:
        assert given(pid) == {IDS.first}


def test_one_in_which_init_has_started_something(box: cgroup_box.Box) -> None:
    """crun sends its notifier by a child that still ends while the cgroups are given."""
    with box.run(*WITH_A_CHILD) as pid:
        while not Path(f"/proc/{pid}/task/{pid}/children").read_text():
            pass
        assert given(pid) == {IDS.first}


def test_none_in_which_somebody_else_is(box: cgroup_box.Box) -> None:
    with box.run("sleep", "100") as pid, stranger(box, pid):
        assert given(pid) == set()
