"""Examine whether this host can run system containers, and say what to do.

Everything is tried for real, in processes and namespaces of its own, and nothing stays behind. Each line is ok, a
warning (containers run, but something is slower, missing or near a limit) or a FAILURE, with what to do about it. The
exit status is 1 when there was a failure.
"""

# ruff: noqa: T201 - printing is what a command does
from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from interceptor.doctor import Verdict, examine
from interceptor.doctor.container import container
from interceptor.doctor.examine import Section
from interceptor.doctor.finding import Host
from interceptor.doctor.report import Report, as_json
from interceptor.errors import ConfigError
from interceptor.printable import wants_colour

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="where images and containers are stored; default: Docker's data-root"
    )
    parser.add_argument("--container", metavar="CONTAINER", help="examine a running container instead: a name or an id")
    parser.add_argument("--json", action="store_true", help="a JSON array with an object for each finding")


def run(arguments: argparse.Namespace) -> int:
    if os.geteuid() != 0:
        raise ConfigError("doctor tries what the supervisor will do, which needs root: sudo interceptor doctor")
    if arguments.container is not None:
        found = [Section(f"container {arguments.container}", [*container(arguments.container)])]
        return _json(found) if arguments.json else _text(found, "Its calls are answered", "something is wrong with it")
    host = Host(data=arguments.data.absolute() if arguments.data else None)
    return _json(examine(host)) if arguments.json else _text(examine(host))


def _text(sections: Iterable[Section], *words: str) -> int:
    report = Report(colour=wants_colour(sys.stdout))
    print(report.header())
    for section in sections:
        print("\n".join(report.section(section)), flush=True)
    print(f"\n{report.summary(*words)}")
    return int(report.counts[Verdict.FAILURE] > 0)


def _json(sections: Iterable[Section]) -> int:
    findings = as_json(sections)
    print(json.dumps(findings, indent=2, ensure_ascii=False))
    return int(any(f["verdict"] == Verdict.FAILURE for f in findings))
