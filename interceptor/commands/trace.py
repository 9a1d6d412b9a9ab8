"""Show the intercepted calls, one strace-like line each.

Prints what the supervisor has recorded, oldest first, and ends; with --follow it goes on as calls are made, until ^C or
until the container ends. The newest 4096 calls of each container are kept, those of the last 16 containers that ended
included.

A line tells: when, container, process[thread], the call with its arguments, its result, who answered, by which rule,
and how long that took. Who answered:

  emulated          interceptor performed the call
  continued         the kernel performed it
  table             answered from the compiled table
  native-by-policy  a rule left it to the kernel
  denied            a rule refused it; the next line says which one and what would allow it
  pretended         a rule had it succeed, and nothing was done
  killed            a rule ended the process, or its whole container
  reloaded          no call: from here on another version of the policy decides
  failed            a fault of interceptor's own; the process got EIO
  gone              the process was killed or interrupted before it could be answered
"""

# ruff: noqa: T201 - printing is what a command does
from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from interceptor.commands import _supervisor
from interceptor.printable import wants_colour
from interceptor.trace.render import Printer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("container", nargs="?", metavar="CONTAINER", help="name, id or start of an id; default: all")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with calls as they are made")
    parser.add_argument("-n", "--last", type=_count, metavar="N", help="only the last N recorded calls that match")
    parser.add_argument(
        "-s", "--syscall", action="append", default=[], metavar="S",
        help="only system call S; several with commas, or by giving the option again",
    )  # fmt: skip
    parser.add_argument(
        "--how", action="append", default=[], metavar="HOW",
        help="only calls that were answered so (see above); several with commas, or by giving the option again",
    )  # fmt: skip
    parser.add_argument("--denied", action="append_const", const="denied", dest="how", help="short for --how denied")
    parser.add_argument("--json", action="store_true", help="one JSON object a line (keys: docs/control.md)")


def run(arguments: argparse.Namespace) -> int:
    request = {
        "container": arguments.container,
        "last": arguments.last,
        "follow": arguments.follow,
        "calls": _names(arguments.syscall),
        "how": _names(arguments.how),
    }
    show = _json_lines if arguments.json else _lines(Printer(colour=wants_colour(sys.stdout)))
    shown = 0
    with _supervisor.running("nothing is recorded") as supervisor:
        for message in supervisor.stream("trace", **request):
            for line in show(message):
                print(line)
            sys.stdout.flush()
            shown += len(message.get("events", ()))
    if not shown:
        print("interceptor: no such call was recorded", file=sys.stderr)
    return 0


def _json_lines(message: Mapping[str, Any]) -> Iterable[str]:
    yield from map(json.dumps, message.get("events", ()))
    if message.get("lost"):
        yield json.dumps({"lost": message["lost"]})


def _lines(printer: Printer) -> Callable[[Mapping[str, Any]], Iterable[str]]:
    def lines(message: Mapping[str, Any]) -> Iterable[str]:
        printer.widen(message.get("events", []))
        for event in message.get("events", ()):
            yield from printer.lines(event)
        if message.get("lost"):
            yield printer.lost(message["lost"])

    return lines


def _names(given: list[str]) -> list[str]:
    return [name for names in given for name in names.split(",") if name]


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of calls; 0 or more are")
    return int(text)
