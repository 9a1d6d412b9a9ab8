"""List, show and check policies.

Without a word after it, lists all policies. `show NAME` prints one with everything that it extends folded in and the
place that decides each entry, with --compiled who answers what: the kernel, the BPF filter, the table in C, or Python.
`check` reads all files as the supervisor does, or FILEs as if they stood before the others, and reports every mistake as
file:line:column. `schema` prints what editors want to know. `explain` says what would happen to a call. `reload` has the
running supervisor read everything again (as does SIGHUP): with a mistake in any file nothing changes, otherwise the new
rules decide from the next call on, of running containers too. `test` tries the cases that a file has under `tests`; `learn`
prints the smallest policy that allows what a container did.
"""

# ruff: noqa: T201 - printing is what a command does
from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interceptor import policy_file, registry
from interceptor.args import Arch
from interceptor.commands import _supervisor, _table
from interceptor.commands._policy_text import compiled, describe, explanation
from interceptor.errors import ConfigError
from interceptor.explain import explained, try_cases
from interceptor.learn import learn
from interceptor.printable import printable
from interceptor.reload import Change
from interceptor.stanza import Drift

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping

    from interceptor.policy import Policy
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
    test = actions.add_parser("test", help="try the cases that stand under `tests` in policy files")
    test.add_argument("files", nargs="*", type=Path, metavar="FILE", help="default: all policies")
    learn = actions.add_parser("learn", help="print the smallest policy that allows what a trace has seen")
    learn.add_argument("of", metavar="CONTAINER|TRACE", help="a container, or a file (- is standard input) of trace --json")
    learn.add_argument("--base", metavar="POLICY", help="for TRACE: the policy under which it was made (default: default)")
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


def _test(arguments: argparse.Namespace) -> int:
    directories, rows = policy_file.search_path(os.environ), registry.load()
    policies = [policy_file.check(file, directories) for file in arguments.files] or list(_load().policies.values())
    tried = [(case, mistake) for policy in policies for case, mistake in try_cases(policy, rows)]
    wrong = [(case, mistake) for case, mistake in tried if mistake]
    for case, mistake in wrong:
        print(printable(f"{case.place}: {case.call}: {mistake}"))
    print(f"{len(tried) - len(wrong)} of {len(tried)} cases hold")
    return 1 if wrong else 0


def _learn(arguments: argparse.Namespace) -> int:
    rows = registry.load()
    events, base = _traced(arguments)
    learned = learn(events, base, rows, arguments.of)
    print(learned.text, end="")
    if not learned.calls:
        print("interceptor: no call with known arguments was seen", file=sys.stderr)
    return 0


def _traced(arguments: argparse.Namespace) -> tuple[list[dict[str, Any]], Policy]:
    """Events, and the policy under which they came about."""
    policies = _load()
    if arguments.of == "-" or Path(arguments.of).is_file():
        text = sys.stdin.read() if arguments.of == "-" else Path(arguments.of).read_text(encoding="utf-8")
        events = [_event(line, number) for number, line in enumerate(text.splitlines(), 1)]
        return events, policies.get(arguments.base or "default")
    with _supervisor.running("nothing was recorded") as supervisor:
        containers = supervisor.call("ps")["containers"]
        messages = list(supervisor.stream("trace", container=arguments.of, last=None, follow=False, calls=[], how=[]))
    events = [event for message in messages for event in message.get("events", ())]
    ids = {event["container"] for event in events}
    name = next((c["policy"] for c in containers if c["id"] in ids), arguments.base or "default")
    return events, policies.get(arguments.base or name)


def _event(line: str, number: int) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"line {number} of the trace is no JSON ({error}); interceptor trace --json prints it") from None
    if not isinstance(event, dict) or not {"call", "how", "arguments"} <= set(event):
        raise ConfigError(f"line {number} of the trace is no event; interceptor trace --json prints them")
    return event


ACTIONS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "list": _list, "show": _show, "check": _check, "schema": _schema, "explain": _explain, "reload": _reload,
    "test": _test, "learn": _learn,
}  # fmt: skip
