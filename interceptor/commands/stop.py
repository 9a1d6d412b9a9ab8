"""Stop containers of `interceptor run`.

SIGTERM, or SIGRTMIN+3 for systemd, then SIGKILL after the given time; returns when nothing is left of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interceptor.run import runner

if TYPE_CHECKING:
    import argparse


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--time", "-t", metavar="SECONDS", type=float, default=10.0, help="before SIGKILL (default: 10)")
    parser.add_argument("names", metavar="NAME", nargs="+")


def run(arguments: argparse.Namespace) -> int:
    for name in arguments.names:
        runner.stop(name, arguments.time)
    return 0
