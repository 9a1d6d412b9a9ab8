"""List, show and check policies.

Without a word after it, lists all policies. `show NAME` prints one with everything that it extends folded in and the
place that decides each entry, with --compiled who answers what: the kernel, the BPF filter, the table in C, or Python.
`check` reads all files as the supervisor does, or FILEs as if they stood before the others, and reports every mistake as
file:line:column. `schema` prints what editors want to know. `explain` says what would happen to a call. `reload` has the
running supervisor read everything again (as does SIGHUP): with a mistake in any file nothing changes, otherwise the new
rules decide from the next call on, of running containers too.
"""

# ruff: noqa: T201 - printing is what a command does
from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interceptor import policy_file, registry
from interceptor.args import Arch
from interceptor.commands import _supervisor, _table
from interceptor.commands._policy_text import compiled, describe, explanation
from interceptor.errors import ConfigError
from interceptor.explain import explained
from interceptor.printable import printable
from interceptor.reload import Change
from interceptor.stanza import Drift

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping

    from interceptor.policy_file import PolicySet


def options(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    actions.add_parser("list", help="all policies (the default)")
    show = actions.add_parser("show", help="one policy, resolved")
    show.add_argument("name", metavar="NAME")
    show.add_argument("--compiled", action="store_true", help="who answers what: the filter, the C table, Python")
    check = actions.add_parser("check", help="look for mistakes")
    check.add_argument("files", nargs="*", type=Path, metavar="FILE")
    actions.add_parser("schema", help="the JSON Schema of policy files, for editors")
    reload = actions.add_parser("reload", help="have the running supervisor read all files again")
    reload.add_argument("--json", action="store_true", help="one JSON object a container (keys: docs/control.md)")
    explain = actions.add_parser("explain", help="what would happen to a call, by which rule, answered by whom")
    explain.add_argument("of", metavar="CONTAINER|POLICY")
    explain.add_argument("call", metavar="CALL", help="as strace writes it: 'mount(\"proc\", \"/x\", \"proc\", 0, NULL)'")
    _caller_options(explain)
    explain.add_argument("--json", action="store_true", help="one JSON object (keys: docs/control.md)")


def run(arguments: argparse.Namespace) -> int:
    return ACTIONS[arguments.action or "list"](arguments)


def _load() -> PolicySet:
    return policy_file.load_all(policy_file.search_path(os.environ))


def _list(_arguments: argparse.Namespace) -> int:
    policies = _load().policies.values()
    rows = [(p.name, "yes" if p.selectable else "no", p.origin, p.description) for p in policies]
    print(_table.table(("POLICY", "SELECTABLE", "FILE", "DESCRIPTION"), sorted(rows)))
    return 0


def _show(arguments: argparse.Namespace) -> int:
    text = compiled if arguments.compiled else describe
    print(text(_load().get(arguments.name), registry.load()))
    return 0


def _check(arguments: argparse.Namespace) -> int:
    directories = policy_file.search_path(os.environ)
    for file in arguments.files:
        found = policy_file.check(file, directories)
        print(f"{file}: policy {found.name!r} is fine")
    if not arguments.files:
        print(f"{len(_load().policies)} policies are fine")
    return 0


def _schema(_arguments: argparse.Namespace) -> int:
    from interceptor import docgen  # noqa: PLC0415 - for this action alone

    print(docgen.documents(registry.load())["policy.schema.json"], end="")
    return 0


def _caller_options(parser: argparse.ArgumentParser) -> None:
    """What is said of the caller: root of the container with all capabilities, unless told otherwise."""
    parser.add_argument("--uid", type=int, default=0, help="the caller's effective uid inside the container (default 0)")
    parser.add_argument("--nested", action="store_true", help="it is in a user namespace below the container's own")
    parser.add_argument("--inner", action="store_true", help="it is in a container inside the container")
    parser.add_argument("--executable", default="", metavar="PATH", help="the path of its program")
    parser.add_argument("--incapable", action="store_true", help="it lacks the capability that the call needs")
    parser.add_argument("--arch", choices=[a.name.lower() for a in Arch], default="x86_64")


def _explain(arguments: argparse.Namespace) -> int:
    caller = {name: getattr(arguments, name) for name in ("uid", "nested", "inner", "executable", "incapable", "arch")}
    body = {"container": arguments.of, "call": arguments.call, **caller}
    found = _of_container(body) or _of_policy(body)
    print(json.dumps(found, indent=2) if arguments.json else explanation(found))
    return 0


def _of_container(body: Mapping[str, Any]) -> dict[str, Any] | None:
    """The supervisor's answer, by the policy that the container really has; None for what is no container."""
    with _supervisor.if_running() as supervisor:
        if supervisor is None:
            return None
        names = {n for c in supervisor.call("ps")["containers"] for n in (c["id"], c["id"][:12], c["name"])}
        return supervisor.call("explain", **body)["explanation"] if body["container"] in names else None


def _of_policy(body: Mapping[str, Any]) -> dict[str, Any]:
    policies = _load()
    if body["container"] not in policies.policies:
        listed = ", ".join(sorted(policies.policies))
        raise ConfigError(f"there is no container and no policy {body['container']!r}; there are the policies {listed}")
    return explained(body, policies.get(body["container"]), registry.load())


def _reload(arguments: argparse.Namespace) -> int:
    with _supervisor.running("the policies are read when one starts") as supervisor:
        changes = supervisor.call("reload")["containers"]
    if arguments.json:
        print("".join(f"{json.dumps(change)}\n" for change in changes), end="")
        return 0
    print(f"reloaded, for {len(changes)} containers that run" if changes else "reloaded; no container runs")
    for found in changes:
        drift = Drift(tuple(found["narrower"]), tuple(found["wider"]))
        change = Change(found["container"], found["policy"], drift, tuple(found["restart"]), gone=found["gone"])
        print(f"  {found['container'][:12]}  {printable(change.words())}")
    return 0


ACTIONS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "list": _list, "show": _show, "check": _check, "schema": _schema, "explain": _explain, "reload": _reload,
}  # fmt: skip
