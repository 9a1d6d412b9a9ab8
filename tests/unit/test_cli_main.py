"""The command line's manners."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from interceptor import cli
from interceptor.commands import _table
from interceptor.errors import ConfigError
from interceptor.printable import printable, wants_colour

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = [sys.executable, "-c", "from interceptor.cli import main; raise SystemExit(main())"]
"""The installed package, from a directory that has no package of that name."""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "100"}
    return subprocess.run(
        [*PROGRAM, *arguments], capture_output=True, text=True, check=False, cwd="/", env=environment, timeout=60
    )


def test_help_lists_every_command_with_a_summary() -> None:
    done = run("--help")
    assert done.returncode == 0
    for name in cli.names():
        assert f"\n  {name} " in done.stdout
    assert run("help").stdout == done.stdout


def test_nothing_given_is_a_usage_error() -> None:
    done = run()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: interceptor COMMAND")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["trase"], "interceptor: no command 'trase'; did you mean 'trace'?\n"),
        (["trace", "--bogus"], "interceptor trace: unrecognized arguments: --bogus (see interceptor trace --help)\n"),
        (["trace", "--last", "-3"], "interceptor trace: argument -n/--last: '-3' is no number of calls"),
        (["trace", "--last", "x"], "interceptor trace: argument -n/--last: 'x' is no number of calls"),
        (["supervise", "--idle", "never"], "interceptor supervise: argument --idle: 'never' is no number of seconds"),
        (["supervise", "--ready-fd", "-1"], "interceptor supervise: argument --ready-fd"),
        (["trace", "--den"], "interceptor trace: unrecognized arguments: --den"),
    ],
)
def test_a_wrong_command_line_gets_one_line_and_status_2(arguments: list[str], complaint: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(complaint)
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_every_command_has_help() -> None:
    for name in cli.names():
        command = cli.load(name)
        assert command.__doc__
        assert f"interceptor {name}" in cli.parser_of(command, name).format_help()


def test_version() -> None:
    assert run("version").stdout == run("--version").stdout
    assert run("version").stdout.startswith("interceptor 0.")


@pytest.mark.parametrize("command", ["trace", "ps", "version", "supervise"])
def test_a_command_imports_no_more_than_it_needs(command: str) -> None:
    script = (
        "import sys\nfrom interceptor.cli import main\n"
        f"try: main([{command!r}, '--help'])\nexcept SystemExit: pass\n"
        "heavy = {'trio', 'structlog', 'pyroute2', 'pyseccomp'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr


class Broken:
    """A command that fails as it is told to."""

    __doc__ = "Fails."

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def options(self, parser: object) -> None: ...

    def run(self, _arguments: object) -> int:
        raise self.error


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ConfigError("policy\x1b 'x'"), 1, "interceptor: policy\\x1b 'x'\n"),
        (ConfigError("a.yaml:1: no\na.yaml:3: no"), 1, "interceptor: a.yaml:1: no\ninterceptor: a.yaml:3: no\n"),
        (FileNotFoundError(2, "No such file or directory", "/x"), 1, "interceptor: /x: No such file or directory\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_failures_become_one_line(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli._guarded(Broken(error), "broken", []) == status
    assert capsys.readouterr().err == line


def test_a_closed_pipe_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run([*PROGRAM, "version"], stdout=write, stderr=subprocess.PIPE, check=False, cwd="/")
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_nothing_is_shown_of_a_supervisor_that_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERCEPTOR_RUN", str(tmp_path))
    done = run("trace")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "interceptor: no supervisor runs, so nothing is recorded; the first container starts one\n"
    assert run("ps").stdout.split()[:3] == ["CONTAINER", "NAME", "IMAGE"]
    assert run("ps", "--json").stdout == "[]\n"
    assert list(tmp_path.iterdir()) == [], "looking starts nothing"


def test_tables_stand_in_line_and_are_harmless() -> None:
    shown = _table.table(("NAME", "N"), [("a\x1b[2J", "7"), ("long name", "12")], right={1})
    assert shown.splitlines() == ["NAME        N", "a\\x1b[2J    7", "long name  12"]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-3, "0s"), (42.9, "42s"), (312, "5m12s"), (3600, "1h00m"), (11_040, "3h04m"), (86_400 * 12 + 6 * 3600, "12d06h")],
)
def test_durations(seconds: float, shown: str) -> None:
    assert _table.duration(seconds) == shown


def test_printable() -> None:
    assert printable("grün 42") == "grün 42"
    assert printable("a\x00\x1b\n\u202eb") == "a\\x00\\x1b\\n\\u202eb"


def test_colours_follow_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert wants_colour(Terminal())  # type: ignore[arg-type]
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_colour(Terminal())  # type: ignore[arg-type]
    monkeypatch.setenv("NO_COLOR", "")
    monkeypatch.setenv("TERM", "dumb")
    assert not wants_colour(Terminal())  # type: ignore[arg-type]
