"""Files that stay open between two readings, and for how long."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from support.leaks import open_files

from interceptor.native.files import close_kept, keep_open, read_kept

if TYPE_CHECKING:
    from pathlib import Path


def open_below(directory: Path) -> int:
    return sum(path.startswith(f"{directory}/") for path in open_files(os.getpid()))


def test_open_below_their_directory_for_its_time_and_no_longer(tmp_path: Path) -> None:
    for name in ("a", "ab"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "quota").write_text("1\n")
    keep_open(f"{tmp_path}/a")
    assert [read_kept(f"{tmp_path}/a/quota") for _ in range(2)] == [b"1\n"] * 2
    assert read_kept(f"{tmp_path}/ab/quota") == b"1\n"
    assert read_kept(f"{tmp_path}/a/none") == b""
    assert open_below(tmp_path) == 1
    close_kept(f"{tmp_path}/a")
    assert open_below(tmp_path) == 0


def test_who_still_reads_when_it_is_over_leaves_nothing_open(tmp_path: Path) -> None:
    """A look at a container's limits that began before the container was forgotten."""
    (tmp_path / "quota").write_text("1\n")
    keep_open(str(tmp_path))
    read_kept(f"{tmp_path}/quota")
    close_kept(str(tmp_path))
    assert read_kept(f"{tmp_path}/quota") == b"1\n"
    assert open_below(tmp_path) == 0
