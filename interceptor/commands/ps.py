"""List the containers that the supervisor looks after.

IDS is the container's exclusive range of host ids. CALLS counts the intercepted calls, DENIED those among them that a
rule refused, PARKED those that wait for a slow action at this moment. Behind a POLICY that was reloaded stands how the
container's BPF filter, which is fixed when it is created, differs from it: narrower until the container is started again.
"""

# ruff: noqa: T201 - printing is what a command does
from __future__ import annotations

import json
import time
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from interceptor.commands import _supervisor, _table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="a JSON array (keys: docs/control.md)")
    parser.add_argument("-q", "--quiet", action="store_true", help="only the ids, whole")


def run(arguments: argparse.Namespace) -> int:
    containers = _containers()
    if arguments.quiet:
        print("".join(f"{c['id']}\n" for c in containers), end="")
    elif arguments.json:
        print(json.dumps(containers, indent=2))
    else:
        print(_table.table(HEADER, [_row(c, time.time_ns()) for c in containers], right={5, 8, 9, 10}))
    return 0


def _containers() -> list[dict[str, Any]]:
    """Oldest first; none where no supervisor runs, which is the same."""
    with _supervisor.if_running() as supervisor:
        found = supervisor.call("ps")["containers"] if supervisor else []
    return sorted(found, key=lambda c: c["created"])


HEADER = ("CONTAINER", "NAME", "IMAGE", "POLICY", "RUNTIME", "PID", "IDS", "UP", "CALLS", "DENIED", "PARKED")


def _policy(container: Mapping[str, Any]) -> str:
    drifted = [word for word in ("narrower", "wider") if container.get(word)]
    return f"{container['policy']} (filter {', '.join(drifted)})" if drifted else container["policy"]


def _row(container: Mapping[str, Any], now_ns: int) -> tuple[str, ...]:
    first, size = container["ids"]
    return (
        container["id"][:12],
        container["name"] or "-",
        container["image"] or "-",
        _policy(container),
        PurePath(container["runtime"]).name,
        str(container["pid"] or "-"),
        f"{first}-{first + size - 1}",
        _table.duration((now_ns - container["created"]) / 1e9),
        str(container["calls"]),
        str(container["denied"]),
        str(container["parked"]),
    )
