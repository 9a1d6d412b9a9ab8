"""Remove what is left of containers of `interceptor run`.

Ended containers are removed by whoever waits for them, and what a crash left by the next `interceptor run`: this is
for those who do not want to wait for that, and, with --force, for containers that run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interceptor.run import runner

if TYPE_CHECKING:
    import argparse


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", "-f", action="store_true", help="kill it if it runs")
    parser.add_argument("names", metavar="NAME", nargs="+")


def run(arguments: argparse.Namespace) -> int:
    for name in arguments.names:
        runner.remove(name, force=arguments.force)
    return 0
