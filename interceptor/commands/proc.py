"""Show what a container sees of the machine in /proc and /sys, beside what the host has.

RUNG says how a file is shown: `fuse` is computed when it is read, or remembered when it was written; `file` never changes. Of
long files the first line is printed in which they differ. CHANGED tells who wrote a remembered value inside, and when.
Files of a namespace of the container's own (uptime, hostname, net sysctls) are the kernel's, and not listed.
"""

# ruff: noqa: T201 - printing is what a command does
from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from interceptor.commands import _supervisor, _table
from interceptor.printable import printable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping

HEADER = ("PATH", "RUNG", "VALUE", "HOST", "CHANGED")
WIDTH = 32


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("container", metavar="CONTAINER", help="a name, an id or the beginning of an id")
    parser.add_argument("--changed", action="store_true", help="only what was written inside")
    parser.add_argument("--json", action="store_true", help="a JSON object (keys: docs/control.md)")


def run(arguments: argparse.Namespace) -> int:
    with _supervisor.running("there is no container") as supervisor:
        found = supervisor.call("proc", container=arguments.container)
    leaves = [leaf for leaf in found["leaves"] if leaf["changed"] or not arguments.changed]
    if arguments.json:
        keys = ("container", "leaves", "hidden", "inner", "oom_score_adj")
        print(json.dumps({key: found[key] for key in keys} | {"leaves": leaves}, indent=2))
        return 0
    print(_table.table(HEADER, [_row(leaf, time.time_ns()) for leaf in leaves]))
    for line in _rest(found):
        print(printable(line))
    return 0


def _row(leaf: Mapping[str, Any], now_ns: int) -> tuple[str, ...]:
    rung = "engine's" if leaf["masked"] else leaf["rung"]
    host = "same" if not leaf["differs"] else _short(leaf["host"])
    return leaf["path"], rung, _short(leaf["value"]), host, _changed(leaf["changed"], now_ns)


def _short(value: str | None) -> str:
    text = "-" if value is None else value
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"


def _changed(changed: Mapping[str, Any] | None, now_ns: int) -> str:
    if changed is None:
        return ""
    since = _table.duration((now_ns - changed["time_ns"]) / 1e9)
    return f"{since} ago by {changed['comm']}[{changed['tid']}], uid {changed['uid']}"


def _rest(found: Mapping[str, Any]) -> Iterator[str]:
    if found["hidden"]:
        yield f"hidden: {', '.join(found['hidden'])}"
    if found["oom_score_adj"]:
        yield f"oom_score_adj: down to {found['oom_score_adj']['floor']}"
    for cgroups in found["inner"]:
        yield f"inner container with limits of its own: {cgroups[0]}"
