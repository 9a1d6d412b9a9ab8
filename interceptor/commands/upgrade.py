"""Let another version of the supervisor go on, without restarting a container.

Without --program it is the one that runs, from its files as they are now: install the new version in its place first.
The new one is asked whether it could (policies, plugins, journal) before the old one ends. Should it not serve within
three seconds all the same, the former program is started again. Intercepted calls wait meanwhile.
"""

# ruff: noqa: T201 - printing is what a command does
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from interceptor.commands import _restart
from interceptor.errors import InterceptorError

if TYPE_CHECKING:
    import argparse


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--program", type=Path, metavar="PATH", help="the `interceptor` of another installation")


def run(arguments: argparse.Namespace) -> int:
    wanted = str(arguments.program.absolute()) if arguments.program else None
    before, after, seconds = _restart.restart(wanted)
    if wanted and after["program"] != wanted:
        raise InterceptorError(f"{wanted} does not serve; {after['program']} goes on (see supervisor.log)")
    who = f"{after['program']} {after['version']} (process {after['pid']})"
    print(f"{who} goes on for {before['version']} after {seconds:.2f} s")
    return 0
