"""List, show and check policies.

Without a word after it, lists all policies. `show NAME` prints one with everything that it extends folded in and the
place that decides each entry; `check` reads all files as the supervisor does, or FILEs as if they stood before the
others, and reports every mistake as file:line:column.
"""

# ruff: noqa: T201 - printing is what a command does
from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from interceptor import policy_file, registry
from interceptor.commands import _table
from interceptor.commands._policy_text import describe

if TYPE_CHECKING:
    import argparse


def options(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    actions.add_parser("list", help="all policies (the default)")
    show = actions.add_parser("show", help="one policy, resolved")
    show.add_argument("name", metavar="NAME")
    check = actions.add_parser("check", help="look for mistakes")
    check.add_argument("files", nargs="*", type=Path, metavar="FILE")


def run(arguments: argparse.Namespace) -> int:
    directories = policy_file.search_path(os.environ)
    if arguments.action == "check" and arguments.files:
        for file in arguments.files:
            found = policy_file.check(file, directories)
            print(f"{file}: policy {found.name!r} is fine")
        return 0
    policies = policy_file.load_all(directories)
    if arguments.action == "check":
        print(f"{len(policies.policies)} policies are fine")
    elif arguments.action == "show":
        print(describe(policies.get(arguments.name), registry.load()))
    else:
        rows = [(p.name, "yes" if p.selectable else "no", p.origin, p.description) for p in policies.policies.values()]
        print(_table.table(("POLICY", "SELECTABLE", "FILE", "DESCRIPTION"), sorted(rows)))
    return 0
