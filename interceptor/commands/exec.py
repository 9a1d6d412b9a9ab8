"""Run a command in a container of `interceptor run`.

The exit status is the command's.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from interceptor.client import program
from interceptor.run import runner

if TYPE_CHECKING:
    import argparse


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tty", "-t", action="store_true", help="a terminal")
    parser.add_argument("--interactive", "-i", action="store_true", help="accepted: standard input is always passed on")
    parser.add_argument("--env", "-e", metavar="K=V", action="append", default=[], help="environment")
    parser.add_argument("--workdir", "-w", metavar="DIR", help="working directory")
    parser.add_argument("--user", "-u", metavar="UID[:GID]", help="numbers, as the container has them")
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("command", metavar="CMD", nargs="+", help="after --")


def run(arguments: argparse.Namespace) -> int:
    runner.existing(arguments.name)
    more = [word for entry in arguments.env for word in ("--env", entry)]
    more += ["--cwd", arguments.workdir] if arguments.workdir else []
    more += ["--user", arguments.user] if arguments.user else []
    more += ["--tty"] if arguments.tty else []
    entry = program("interceptor-runc")
    os.execv(entry, [entry, "exec", *more, arguments.name, *arguments.command])  # noqa: S606 - becomes the command
