"""The command line: ``interceptor COMMAND …``.

A command is a module in `interceptor/commands/` named like it: its docstring is its help, `options(parser)` declares
its arguments, `run(arguments)` does it and returns the exit status. Only the module of the command that was asked for
is imported, so that `interceptor trace` starts without the supervisor's weight.

Exit status: 0, 1 for a failure (one line on standard error says which), 2 for a wrong command line, 130 after ^C.
"""

# ruff: noqa: T201 - printing is what a command does
from __future__ import annotations

import argparse
import difflib
import importlib
import os
import pkgutil
import sys
from typing import TYPE_CHECKING, NoReturn, Protocol

from interceptor.errors import InterceptorError
from interceptor.printable import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = "interceptor.commands"
FAILURE, USAGE, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141


class Command(Protocol):
    """What a module of `interceptor/commands/` offers."""

    __doc__: str | None

    def options(self, parser: argparse.ArgumentParser) -> None:
        """Declares the command's arguments."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Does it; the exit status. InterceptorError and OSError become one line on standard error."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and where to read on."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line (without the program's name); the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help", "help"):
        return _help(to_stderr=not given)
    if given[0] == "--version":
        given[0] = "version"
    if given[0] not in names():
        return _unknown(given[0])
    return _guarded(load(given[0]), given[0], given[1:])


def names() -> list[str]:
    """Every command."""
    package = importlib.import_module(COMMANDS)
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def load(name: str) -> Command:
    """The module of command `name`."""
    module: Command = importlib.import_module(f"{COMMANDS}.{name}")
    return module


def parser_of(command: Command, name: str) -> argparse.ArgumentParser:
    parser = Parser(
        prog=f"interceptor {name}",
        description=(command.__doc__ or "").strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.options(parser)
    return parser


def _guarded(command: Command, name: str, given: Sequence[str]) -> int:
    """Parses and runs; turns what people caused or may expect into a line and a status."""
    try:
        status = command.run(parser_of(command, name).parse_args(given))
        sys.stdout.flush()
    except InterceptorError as error:
        return _fail(str(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing to flush at exit
        return BROKEN_PIPE
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


def _fail(message: str) -> int:
    """One line; a set of policy files may have several mistakes, which get a line each."""
    for line in message.splitlines() or [""]:
        print(f"interceptor: {printable(line)}", file=sys.stderr)
    return FAILURE


def _help(*, to_stderr: bool) -> int:
    """Every command with the first line of its help; a usage error when nothing was asked for."""
    width = max(map(len, names()))
    lines = [f"  {name.ljust(width)}  {_summary(load(name))}" for name in names()]
    text = "\n".join(["usage: interceptor COMMAND [OPTION…]", "", *lines, "", "interceptor COMMAND --help tells more."])
    print(text, file=sys.stderr if to_stderr else sys.stdout)
    return USAGE if to_stderr else 0


def _summary(command: Command) -> str:
    first = (command.__doc__ or "").strip().split("\n", 1)[0].rstrip(".")
    return first[:1].lower() + first[1:]


def _unknown(name: str) -> int:
    near = difflib.get_close_matches(name, names(), 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names())}"
    print(f"interceptor: no command {printable(name)!r}; {hint}", file=sys.stderr)
    return USAGE
