"""The rules of the house that a test can check (docs/design.md); what import-linter checks is not repeated here."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import textwrap
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING

import pytest
from support.sources import REPOSITORY, Source, calls, dotted, functions, imports, sources

from interceptor import registry

if TYPE_CHECKING:
    from pathlib import Path

HANDLER = '''
"""personality(2): a call that no file of the project knows.

Source: personality(2); Linux kernel/exec_domain.c.
"""

import enum
import errno
from dataclasses import dataclass
from typing import Annotated

from interceptor.args import Flags
from interceptor.ports import Call
from interceptor.registry import Masked, handles
from interceptor.verdict import Fail, Verdict


class Persona(enum.IntFlag):
    ADDR_NO_RANDOMIZE = 0x0040000


@dataclass(frozen=True, slots=True)
class PersonalityArgs:
    persona: Annotated[int, Flags(Persona, bits=32)]


@handles("personality", when=(Masked("persona", Persona.ADDR_NO_RANDOMIZE, Persona.ADDR_NO_RANDOMIZE),), note="A test's.")
def personality(call: Call, args: PersonalityArgs) -> Verdict:
    return Fail(errno.EDOM)
'''

EVERYTHING_DERIVED = """
import json, sys
from pathlib import Path

import interceptor.handlers
interceptor.handlers.__path__.append(sys.argv[1])

from interceptor import docgen, policy_file, registry
from interceptor.args import Arch
from interceptor.dispatch import key_of, routes_of
from interceptor.errors import InterceptorError
from interceptor.policy import Policy
from interceptor.stanza import rules, table

rows = registry.load()
directory = Path(sys.argv[2])

def load(text):
    (directory / "default.yaml").write_text(text)
    return policy_file.load_all([directory], rows).get("default")

def refusal(text):
    try:
        load(text)
    except InterceptorError as error:
        return str(error)
    return None

emulating = load("default: emulate")
ruled = load('{default: native, calls: {personality: [{when: {persona: {has: [ADDR_NO_RANDOMIZE]}}, do: {deny: EACCES}}]}}')
routes = routes_of(rows, emulating).known
number = rows["personality"].number(Arch.X86_64)
print(json.dumps({
    "stanza": [rule for rule in rules(rows, emulating) if rule["names"] == ["personality"]],
    "stanza of others": [rule["names"] for rule in rules(rows, emulating)],
    "table": [row.rule for row in table(rows, ruled, Arch.X86_64) if row.nr == number],
    "routes": [arch.name for arch in Arch
               if key_of(arch, rows["personality"].number(arch)) in routes],
    "unknown field": refusal('{default: native, calls: {personality: [{when: {flavour: 1}, do: native}]}}'),
    "unknown flag": refusal('{default: native, calls: {personality: [{when: {persona: {has: [ADDR_NONSENSE]}}, do: native}]}}'),
    "page": [line for line in docgen.documents(rows)["syscalls.md"].splitlines() if "`personality`" in line],
    "schema": "personality" in json.loads(docgen.documents(rows)["policy.schema.json"])["properties"]["calls"]["properties"],
}))
"""


def run(script: str, *arguments: str) -> str:
    """What a fresh interpreter prints: the registry of this one stays as it is."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *arguments],
        check=False, capture_output=True, text=True, timeout=60, cwd="/",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_one_file_dropped_into_handlers_is_a_whole_system_call(tmp_path: Path) -> None:
    """Filter, stanza, table, policy vocabulary, dispatch and documents follow from it, with no other edit."""
    dropped, policies = tmp_path / "dropped", tmp_path / "policies"
    dropped.mkdir()
    policies.mkdir()
    (dropped / "personality.py").write_text(HANDLER.lstrip(), encoding="utf-8")
    seen = json.loads(run(EVERYTHING_DERIVED, str(dropped), str(policies)))
    bit = 0x0040000
    test = {"index": 0, "value": bit, "valueTwo": bit, "op": "SCMP_CMP_MASKED_EQ"}
    assert seen["stanza"] == [{"names": ["personality"], "action": "SCMP_ACT_NOTIFY", "args": [test]}]
    assert {"mount", "umount2"} <= {name for names in seen["stanza of others"] for name in names}
    assert [rule.rpartition("/")[2] for rule in seen["table"]] == ["default.yaml:1"] * 2, "the rule, then the default"
    assert seen["routes"] == ["X86_64", "I386", "AARCH64"]
    assert "'flavour'" in seen["unknown field"]
    assert "persona" in seen["unknown field"], "the message names what there is"
    assert "ADDR_NONSENSE" in seen["unknown flag"]
    assert "ADDR_NO_RANDOMIZE" in seen["unknown flag"], "the message names what there is"
    described = (
        "| `personality` | persona: flags | full | `persona` has ADDR_NO_RANDOMIZE |  | A test's. |"
        " personality(2); Linux kernel/exec_domain.c. |"
    )
    assert seen["page"] == [described]
    assert seen["schema"] is True


def test_the_same_file_twice_is_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(HANDLER.lstrip(), encoding="utf-8")
    script = """
        import sys
        import interceptor.handlers
        interceptor.handlers.__path__.append(sys.argv[1])
        from interceptor import registry
        try:
            registry.load()
        except ValueError as error:
            print(error)
    """
    assert (
        run(textwrap.dedent(script), str(tmp_path))
        == "'personality' is registered by interceptor.handlers.one already\n"
    )


# Where the machine is touched

ONLY_IN_NATIVE = {"cffi", "_cffi_backend", "ctypes", "fcntl"}


def test_cffi_ctypes_and_fcntl_live_in_native_only() -> None:
    found = [
        f"{source.name}:{line}: {module}"
        for source in sources()
        if not source.native
        for module, line in imports(source.tree)
        if module.split(".")[0] in ONLY_IN_NATIVE or module.startswith("interceptor.native._native")
    ]
    assert found == []


def test_raw_descriptors_are_closed_in_native_only() -> None:
    found = [
        f"{source.name}:{call.lineno}"
        for source in sources()
        if not source.native
        for call in calls(source.tree, "os.close")
    ]
    assert found == []


COMMANDS = ("interceptor/client.py", "interceptor/doctor/", "interceptor/run/")
"""Processes of their own, which answer no container's calls."""


def test_what_the_supervisor_starts_is_known_while_it_is_young() -> None:
    """interceptor/native/children.py says why."""
    found = [
        f"{source.name}:{call.lineno}"
        for source in sources()
        for name in ("subprocess.run", "subprocess.Popen", "os.fork", "os.posix_spawn")
        for call in calls(source.tree, name)
        if not source.name.startswith(COMMANDS)
    ]
    assert found == []


WHERE_TIME_OF_DAY_IS_SHOWN = {
    "interceptor/commands/proc.py", "interceptor/commands/ps.py", "interceptor/supervisor.py", "interceptor/trace/clock.py",
    "runtime/preparation.py", "runtime/procfs/files.py",
}  # fmt: skip
"""It may jump: nothing waits for it, and nothing is worked out from it but what people read."""


def test_the_time_of_day_is_only_shown() -> None:
    clocks = ("time.time", "time.time_ns", "datetime.now", "datetime.utcnow")
    found = {source.name for source in sources() if any(list(calls(source.tree, clock)) for clock in clocks)}
    assert found <= WHERE_TIME_OF_DAY_IS_SHOWN
    in_c = {path.name for path in (REPOSITORY / "interceptor/native").glob("*.c") if "CLOCK_REALTIME" in path.read_text()}
    assert in_c <= {"fuse.c"}, "times of files"


WHERE_SOMETHING_ENDS = {
    "interceptor/dispatch.py": {"Dispatcher._guard"},  # an operation: one intercepted call
    "interceptor/session.py": {"Session._run", "Worker.receive"},  # a session; a pure handler, asked again below
    "interceptor/control.py": {"Control._operate", "Control.serve_one", "_run_undo"},  # an operation; a connection
    "runtime/dockercp.py": {"_Engine._run"},  # an engine's watcher
}


def catches_all(handler: ast.ExceptHandler) -> bool:
    """Whether it catches every error and does not raise it again."""
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    every = any(kind is None or dotted(kind) in {"Exception", "BaseException"} for kind in caught)
    return every and not (isinstance(handler.body[-1], ast.Raise) and handler.body[-1].exc is None)


def test_everything_is_caught_only_where_a_session_an_operation_or_a_command_ends() -> None:
    """What cleans up and raises again is no end."""
    found: dict[str, set[str]] = {}
    for source in sources():
        for name, function in functions(source.tree):
            if any(catches_all(node) for node in ast.walk(function) if isinstance(node, ast.ExceptHandler)):
                found.setdefault(source.name, set()).add(name)
    assert found == WHERE_SOMETHING_ENDS


def test_an_errno_is_always_a_name() -> None:
    found = [
        f"{source.name}:{call.lineno}: {ast.unparse(call)}"
        for source in sources()
        for name in ("Fail", "OSError", "call.deny")
        for call in calls(source.tree, name)
        if call.args and any(isinstance(node, ast.Constant) for node in ast.walk(call.args[0]))
    ]
    assert found == []


# Handlers

HANDLER_FILES = [source for source in sources("interceptor/handlers") if not source.name.endswith("__init__.py")]
ROWS = registry.load()


@pytest.mark.parametrize("row", ROWS.values(), ids=str)
def test_the_args_class_is_the_call(row: registry.Syscall) -> None:
    args = row.signature.args
    assert is_dataclass(args)
    assert args.__dataclass_params__.frozen
    assert "__slots__" in vars(args), "slots=True"
    assert [field.name for field in fields(args)] == [field.name for field in row.signature.fields]
    assert [field.register for field in row.signature.fields] == list(range(len(fields(args))))


ARGUMENTS = {"mount": 5, "umount2": 2, "fsopen": 2, "sethostname": 2, "setdomainname": 2}
"""By their man pages; calls that are not listed are not checked."""


def test_every_argument_is_declared() -> None:
    known = {name: len(row.signature.fields) for name, row in ROWS.items() if name in ARGUMENTS}
    assert known == ARGUMENTS


@pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.name)
def test_a_handler_names_its_sources(row: registry.Syscall) -> None:
    assert f"{row.name}(2)" in row.source or row.module.rpartition(".")[2] + "(2)" in row.source
    assert "Linux" in row.source, "the kernel's file too"


@pytest.mark.parametrize("source", HANDLER_FILES, ids=lambda source: source.module)
def test_continue_has_a_literal_reason(source: Source) -> None:
    for call in calls(source.tree, "Continue"):
        where = f"{source.name}:{call.lineno}"
        assert [keyword.arg for keyword in call.keywords] == ["because"], where
        assert not call.args, where
        reason = call.keywords[0].value
        assert isinstance(reason, ast.Constant), where
        assert isinstance(reason.value, str), where
        assert len(reason.value.split()) > 3, where


@pytest.mark.parametrize("source", HANDLER_FILES, ids=lambda source: source.module)
def test_a_handler_reaches_the_world_through_ports_only(source: Source) -> None:
    """Above all, handlers do not log."""
    allowed = {"args", "ports", "registry", "verdict", "policy", "container", "wire", "loops", "limits", "netmounts"}
    ours = {name.split(".")[1] for name, _ in imports(source.tree) if name.split(".")[0] == "interceptor"}
    assert ours <= allowed
    others = {name.split(".")[0] for name, _ in imports(source.tree)} - {"interceptor"}
    assert others <= {"__future__", "collections", "dataclasses", "enum", "errno", "re", "stat", "struct", "typing"}


# Imports

IMPORT_ALL = """
import importlib, json, os, sys, threading

def fds():
    paths = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return {path: os.readlink(path) for path in paths if os.path.lexists(path)}

import logging, pkgutil, structlog, trio
before = fds()
handlers = list(logging.getLogger().handlers)
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps({
    "threads": [thread.name for thread in threading.enumerate()],
    "fds": sorted(path for fd, path in fds().items() if before.get(fd) != path),
    "root handlers": len(logging.getLogger().handlers) - len(handlers),
    "structlog": structlog.is_configured(),
    "children": open(f"/proc/self/task/{os.getpid()}/children").read(),
}))
"""


def test_importing_starts_nothing_opens_nothing_and_configures_nothing() -> None:
    modules = [source.module for source in sources() if not source.module.endswith((".__main__", ".build_cffi"))]
    assert "interceptor.supervisor" in modules
    seen = json.loads(run(IMPORT_ALL, *modules))
    assert seen == {"threads": ["MainThread"], "fds": [], "root handlers": 0, "structlog": False, "children": ""}


def test_sources_found() -> None:
    """The scans above look at what is really there."""
    names = {source.name for source in sources()}
    assert {"interceptor/dispatch.py", "interceptor/native/pin.py", "runtime/plugin.py"} <= names
    assert (REPOSITORY / "interceptor/handlers/mount.py").exists()
    assert {source.module for source in HANDLER_FILES} == {row.module for row in ROWS.values()}
