"""interceptor-runc ps: whose processes are listed, and how; the cgroup is a directory that looks like one."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from support.fake_supervisor import script, shim

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def sleeper() -> Iterator[int]:
    with subprocess.Popen(["sleep", "1000"]) as running:
        yield running.pid
        running.kill()


@pytest.fixture
def run(tmp_path: Path, sleeper: int) -> Path:
    """A run directory with container c1: this process below its cgroup, another further down, one met twice."""
    record, cgroup = tmp_path / "containers" / "c1", tmp_path / "cgroup"
    (cgroup / "init.scope").mkdir(parents=True)
    (cgroup / "system.slice" / "a b.service").mkdir(parents=True)
    (cgroup / "cgroup.procs").write_text("")
    (cgroup / "init.scope" / "cgroup.procs").write_text(f"{os.getpid()}\n0\n")
    (cgroup / "system.slice" / "a b.service" / "cgroup.procs").write_text(f"{sleeper}\n{os.getpid()}\n")
    record.mkdir(parents=True)
    (record / "cgroup").write_text(f"{cgroup}\n")
    (record / "runtime").write_text(str(script(tmp_path / "crun", 'echo crun "$@"')))
    return tmp_path


@pytest.mark.parametrize("option", [["--format", "json"], ["--format=json"], ["-f", "json"], ["-fjson"], ["-f=json"]])
def test_the_pids_of_the_whole_tree_once_and_in_order(run: Path, sleeper: int, option: list[str]) -> None:
    for line in (["ps", *option, "c1"], ["ps", *option, "c1", "-ef"]):
        assert json.loads(shim(*line, run=run).stdout) == sorted({os.getpid(), sleeper})


def test_an_empty_cgroup_is_an_empty_list(run: Path) -> None:
    (run / "containers/c1/cgroup").write_text(f"{run / 'bare'}\n")
    (run / "bare").mkdir()
    assert shim("ps", "--format", "json", "c1", run=run).stdout == "[]\n"
    assert len(shim("ps", "c1", run=run).stdout.splitlines()) == 1


def test_the_table_is_that_of_ps(run: Path, sleeper: int) -> None:
    heading, *lines = shim("ps", "c1", run=run).stdout.splitlines()
    assert heading.split()[:3] == ["UID", "PID", "PPID"]
    assert sorted(int(line.split()[1]) for line in lines) == sorted({os.getpid(), sleeper})


def test_the_words_behind_the_id_are_for_ps(run: Path, sleeper: int) -> None:
    heading, *lines = shim("ps", "c1", "-eo", "ppid,pid,args", run=run).stdout.splitlines()
    assert heading.split() == ["PPID", "PID", "COMMAND"]
    assert f"{os.getpid()} {sleeper} sleep 1000" in {" ".join(line.split()) for line in lines}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (["ps", "--format", "xml", "c1"], "--format xml: it is table or json"),
        (["ps", "c1", "-eo", "comm"], "no column PID"),
        (["ps", "c1", "--frobnicate"], "ps ended with status 1"),
    ],
)
def test_what_cannot_be_listed(run: Path, line: list[str], problem: str) -> None:
    result = shim(*line, run=run)
    assert result.returncode == 1
    assert problem in result.stderr


def test_without_a_cgroup_of_its_own_the_runtime_answers(run: Path) -> None:
    (run / "containers/c1/cgroup").write_text("/nonexistent/cgroup\n")
    assert shim("ps", "-f", "json", "c1", "-ef", run=run).stdout == "crun ps -f json c1 -ef\n"
    (run / "containers/c1/cgroup").unlink()
    assert shim("ps", "-f", "json", "c1", "-ef", run=run).stdout == "crun ps -f json c1 -ef\n"
