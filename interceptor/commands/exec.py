"""Run a command in a container of `interceptor run`.

It has the environment, working directory and user of the container's own command where nothing else is asked for.
The exit status is the command's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interceptor.commands.run import assignment
from interceptor.run import runner

if TYPE_CHECKING:
    import argparse


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tty", "-t", action="store_true", help="a terminal")
    parser.add_argument("--interactive", "-i", action="store_true", help="accepted: standard input is always passed on")
    parser.add_argument("--env", "-e", metavar="K=V", type=assignment, action="append", default=[], help="environment")
    parser.add_argument("--workdir", "-w", metavar="DIR", help="working directory")
    parser.add_argument("--user", "-u", metavar="USER[:GROUP]", help="names or numbers, as the container has them")
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("command", metavar="CMD", nargs="+", help="after --")


def run(arguments: argparse.Namespace) -> int:
    return runner.execute(
        arguments.name,
        arguments.command,
        environment=dict(arguments.env),
        cwd=arguments.workdir,
        user=arguments.user,
        terminal=arguments.tty,
    )
