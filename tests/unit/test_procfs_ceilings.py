"""Ceilings of the host's that a policy lets containers raise; the host's files are made up."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from interceptor import limits
from runtime.procfs import ceilings, files
from runtime.procfs.leaf import Leaf, Rung, View
from runtime.procfs.values import sysctl
from runtime.procfs.values.sysctl_kinds import Unsigned

if TYPE_CHECKING:
    from pathlib import Path

NAME, MAX = "fs.file-max", "net.netfilter.nf_conntrack_max"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    made = {name: tmp_path / name for name in (NAME, MAX)}
    for path in made.values():
        path.write_text("1000\n")
    monkeypatch.setattr(ceilings, "HOST_CEILINGS", {name: str(path) for name, path in made.items()})
    return made


def remembered(path: Path, tmp_path: Path, most: dict[str, int]) -> files.Remembered:
    leaf = Leaf(str(path), Rung.FUSE, lambda _view: b"1000\n", lambda _view, now, new: Unsigned()(now, new))
    made = files.Remembered(str(tmp_path / "written.json"), View({}), most)
    made.add([leaf])
    return made


@pytest.mark.parametrize(("wanted", "then"), [(1500, 1500), (9000, 2000), (1000, 1000), (3, 1000)])
def test_what_is_written_raises_the_hosts_up_to_the_policys(
    host: dict[str, Path], tmp_path: Path, wanted: int, then: int
) -> None:
    source = remembered(host[NAME], tmp_path, {NAME: 2000})
    source.written(2, b"%d\n" % wanted, tid=1, uid=0)
    assert source.content(2) == b"%d\n" % wanted, "it reads back what it wrote"
    assert int(host[NAME].read_text()) == then


def test_without_a_policys_word_the_hosts_stays(host: dict[str, Path], tmp_path: Path) -> None:
    remembered(host[NAME], tmp_path, {}).written(2, b"5000", tid=1, uid=0)
    remembered(host[NAME], tmp_path, {MAX: 9000}).written(2, b"5000", tid=1, uid=0)
    assert {path.read_text() for path in host.values()} == {"1000\n"}


def test_bad_values_raise_nothing(host: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(OSError, match="is not") as refused:
        remembered(host[NAME], tmp_path, {NAME: 9000}).written(2, b"-5", tid=1, uid=0)
    assert refused.value.errno == errno.EINVAL
    assert host[NAME].read_text() == "1000\n"


def test_what_nobody_inside_can_write_is_raised_at_the_start(host: dict[str, Path]) -> None:
    ceilings.at_start([str(host[NAME])], {NAME: 5000, MAX: 5000})
    assert [int(path.read_text()) for path in host.values()] == [1000, 5000]
    ceilings.at_start([], {MAX: 10})
    assert int(host[MAX].read_text()) == 5000, "never lowered"


def test_a_host_without_the_file_or_that_refuses_is_no_failure(tmp_path: Path) -> None:
    ceilings.raise_to(str(tmp_path / "none"), 5)
    ceilings.raise_to(str(tmp_path), 5)


def test_every_ceiling_with_a_leaf_is_one_of_its_table() -> None:
    leaves = {leaf.path for leaf in sysctl.LEAVES if leaf.write}
    assert {name for name, path in limits.HOST_CEILINGS.items() if path in leaves} == {
        "fs.file-max", "fs.nr_open", "nf_conntrack.hashsize",
    }  # fmt: skip
