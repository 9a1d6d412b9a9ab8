"""Run the supervisor in the foreground.

One supervisor serves a whole host. The runtime starts a keeper with the first container, which starts the supervisor and
starts it again should it die. Run in the foreground, it has no keeper: containers lose interception when it ends.
"""

from __future__ import annotations

import argparse
import importlib
import sys


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--spawned", action="store_true", help="end after an idle time without containers")
    parser.add_argument(
        "--idle", type=_seconds, default=60.0, metavar="SECONDS", help="that idle time (default: %(default)g)"
    )
    parser.add_argument("--check", action="store_true", help="only say whether it could: policies, plugins, versions")
    parser.add_argument("--ready-fd", type=_fd, metavar="N", help="write one byte to descriptor N once it serves")
    parser.add_argument("--keeper-fd", type=_fd, metavar="N", help="the socket to the keeper that started it")
    parser.add_argument("--log-format", choices=("console", "json"), default="console", help="default: %(default)s")


def run(arguments: argparse.Namespace) -> int:
    # structlog imports rich, where that is installed, to draw tracebacks as our log never does: 5 MB for every host.
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]
    status = importlib.import_module("interceptor.supervisor").main(arguments)
    return int(status or 0)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds; 0 or more are")
    return seconds


def _fd(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no descriptor; a number such as 3 is")
    return int(text)
