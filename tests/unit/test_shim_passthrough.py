"""Commands that need no supervisor: which runtime gets them, and what is said when there is none."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from support.fake_supervisor import SHIM, script, shim

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def runtimes(tmp_path: Path) -> Path:
    """A directory with runc and crun that print their name and arguments."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in ("runc", "crun"):
        script(directory / name, f'echo {name} "$@"')
    return directory


def test_other_commands_go_to_the_runtime_as_they_came(tmp_path: Path, runtimes: Path) -> None:
    arguments = ["--root", "/r", "--log-format=json", "kill", "--all", "c1", "KILL"]
    result = shim(*arguments, run=tmp_path, env={"PATH": str(runtimes)})
    assert (result.returncode, result.stdout) == (0, f"runc {' '.join(arguments)}\n")


@pytest.mark.parametrize("arguments", [["features"], ["spec"], ["list", "-q"], ["list", "-f", "json"], ["nonsense"]])
def test_commands_without_a_container(tmp_path: Path, runtimes: Path, arguments: list[str]) -> None:
    result = shim(*arguments, run=tmp_path, env={"PATH": str(runtimes)})
    assert result.stdout == f"runc {' '.join(arguments)}\n"


def test_a_container_keeps_the_runtime_that_created_it(tmp_path: Path, runtimes: Path) -> None:
    record = tmp_path / "containers" / "c1"
    record.mkdir(parents=True)
    (record / "runtime").write_text(f"{runtimes}/crun\n", encoding="utf-8")
    environment = {"PATH": str(runtimes), "INTERCEPTOR_RUNTIME": "runc"}
    assert shim("state", "c1", run=tmp_path, env=environment).stdout == "crun state c1\n"
    assert shim("ps", "-f", "json", "c1", "-ef", run=tmp_path, env=environment).stdout == "crun ps -f json c1 -ef\n"
    assert shim("update", "--memory", "1", "c1", run=tmp_path, env=environment).stdout == "crun update --memory 1 c1\n"
    assert shim("state", "c2", run=tmp_path, env=environment).stdout == "runc state c2\n"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("runtime: crun", "crun"),
        ("other: 1\nruntime:   'crun'  # why", "crun"),
        ('runtime: "crun"', "crun"),
        ("# runtime: crun", "runc"),
        ("nested:\n  runtime: crun", "runc"),
        ("runtime: crun\r", "crun"),
    ],
)
def test_the_configuration_file_names_the_runtime(tmp_path: Path, runtimes: Path, line: str, expected: str) -> None:
    (tmp_path / "interceptor.yaml").write_text(line, encoding="utf-8")
    environment = {"PATH": str(runtimes), "INTERCEPTOR_CONFIG": str(tmp_path / "interceptor.yaml")}
    assert shim("state", "c1", run=tmp_path, env=environment).stdout == f"{expected} state c1\n"


def test_crun_is_taken_where_there_is_no_runc(tmp_path: Path, runtimes: Path) -> None:
    (runtimes / "runc").unlink()
    assert shim("state", "c1", run=tmp_path, env={"PATH": str(runtimes)}).stdout == "crun state c1\n"


def test_we_are_not_our_own_runtime(tmp_path: Path, runtimes: Path) -> None:
    ours = tmp_path / "ours"
    ours.mkdir()
    (ours / "runc").symlink_to(SHIM)
    assert shim("state", "c1", run=tmp_path, env={"PATH": f"{ours}:{runtimes}"}).stdout == "runc state c1\n"


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        ({"INTERCEPTOR_RUNTIME": "yuki"}, 'INTERCEPTOR_RUNTIME names the runtime "yuki", which is no program in PATH'),
        ({"INTERCEPTOR_RUNTIME": "/nowhere/runc"}, 'the runtime "/nowhere/runc", which is no executable file'),
        ({"PATH": "/nowhere"}, "neither runc nor crun is in PATH"),
        ({"INTERCEPTOR_RUN": "relative"}, 'INTERCEPTOR_RUN is "relative"; it must be an absolute path'),
    ],
)
def test_what_cannot_be_found_is_named(
    tmp_path: Path, runtimes: Path, environment: dict[str, str], problem: str
) -> None:
    result = shim("state", "c1", run=tmp_path, env={"PATH": str(runtimes), **environment})
    assert result.returncode == 1
    assert problem in result.stderr


@pytest.mark.parametrize("container", ["../c1", "a/b", "..", ".", ""])
def test_an_id_cannot_lead_out_of_the_run_directory(tmp_path: Path, runtimes: Path, container: str) -> None:
    for command in ("state", "create", "delete", "exec"):
        result = shim(command, container, run=tmp_path, env={"PATH": str(runtimes)})
        assert result.returncode == 1
        assert f'"{container}" is no container id' in result.stderr


@pytest.mark.parametrize("command", ["checkpoint", "restore"])
def test_checkpoint_and_restore_are_refused(tmp_path: Path, runtimes: Path, command: str) -> None:
    result = shim(command, "c1", run=tmp_path, env={"PATH": str(runtimes)})
    assert result.returncode == 1
    assert "not supported: intercepted calls cannot be frozen" in result.stderr


def test_the_version_is_ours_then_the_runtime_s(tmp_path: Path, runtimes: Path) -> None:
    script(runtimes / "runc", "echo runc version 9.9; echo commit: abc; echo spec: 1.0")
    result = shim("--version", run=tmp_path, env={"PATH": str(runtimes)})
    first, *rest = result.stdout.splitlines()
    assert first.startswith("interceptor-runc version ")
    assert rest == ["runc version 9.9", "commit: abc", "spec: 1.0"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--frobnicate", "state", "c1"], "unknown option --frobnicate"),
        (["--log"], "option --log needs a value"),
        (["create", "--bundle"], "option --bundle needs a value"),
        (["--log-format", "xml", "state", "c1"], "--log-format xml: it is text or json"),
        (["create"], "the container's id is missing"),
    ],
)
def test_a_command_line_that_is_wrong(tmp_path: Path, runtimes: Path, arguments: list[str], problem: str) -> None:
    result = shim(*arguments, run=tmp_path, env={"PATH": str(runtimes)})
    assert result.returncode == 1
    assert problem in result.stderr


def test_help(tmp_path: Path) -> None:
    assert "usage: interceptor-runc" in shim("--help", run=tmp_path).stdout
    without = shim(run=tmp_path)
    assert (without.returncode, without.stdout) == (1, "")
    assert "usage: interceptor-runc" in without.stderr


def test_stdio_that_is_closed_is_opened_first(tmp_path: Path, runtimes: Path) -> None:
    script(runtimes / "runc", f"readlink /proc/self/fd/0 > {tmp_path}/out")
    command = f"exec {SHIM} state c1 0<&- 2>&-"
    environment = {"PATH": f"{runtimes}:{os.environ['PATH']}", "INTERCEPTOR_RUN": str(tmp_path)}
    assert subprocess.run(["/bin/sh", "-c", command], check=False, env=environment).returncode == 0
    assert (tmp_path / "out").read_text(encoding="utf-8") == "/dev/null\n"
