from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from support.policy_rows import NOT_NEW, ROWS, MountArgs, MountFlags, NameArgs, row, rows_of

from interceptor import docgen, policy_file, policy_grammar, registry
from interceptor.policy import Told
from interceptor.ports import Cap, Namespace
from interceptor.registry import Masked, Needs
from interceptor.strict_yaml import Problems

if TYPE_CHECKING:
    import pytest

REPOSITORY = Path(__file__).parents[2]


def test_the_documents_of_the_repository_are_fresh() -> None:
    diff = docgen.stale(REPOSITORY / "docs", registry.load())
    assert not diff, "run: .venv/bin/python -m interceptor.docgen\n" + "".join(diff)


def test_check_fails_with_a_diff_and_writing_mends_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert docgen.main(["--check", "--directory", str(tmp_path)]) == 1
    assert "+# Intercepted system calls" in capsys.readouterr().out
    assert docgen.main(["--directory", str(tmp_path / "docs")]) == 0
    assert docgen.main(["--check", "--directory", str(tmp_path / "docs")]) == 0
    page = tmp_path / "docs" / "syscalls.md"
    page.write_text(page.read_text().replace("Generated", "Written"))
    assert docgen.main(["--check", "--directory", str(tmp_path / "docs")]) == 1
    assert "-<!-- Written by" in capsys.readouterr().out


def test_a_row_reads_as_its_handler_declared_it() -> None:
    bind_remount = MountFlags.MS_BIND | MountFlags.MS_REMOUNT
    when = (Masked("flags", NOT_NEW, 0), Masked("flags", bind_remount, MountFlags.MS_REMOUNT))
    mount = row("mount", MountArgs, *when, note="a | b")
    object.__setattr__(mount, "needs", Needs(Cap.SYS_ADMIN, Namespace.MOUNT))
    lines = docgen.syscalls_page(rows_of(mount, row("sethostname", NameArgs))).splitlines()[-2:]
    described = (
        r"| `mount` | source: string, target: string, fstype: string, flags: flags, data: string | full |"
        r" `flags` has none of MS_REMOUNT\|MS_BIND\|MS_MOVE\|MS_PRIVATE or"
        r" `flags` has MS_REMOUNT and `flags` has none of MS_BIND |"
        r" CAP_SYS_ADMIN, owner of the mnt namespace | a \| b | mount(2) |"
    )
    assert lines == [described, "| `sethostname` | name: string, len: number | full | always |  |  | sethostname(2) |"]


def test_the_schema_has_the_keys_of_the_grammar() -> None:
    schema = docgen.policy_schema(ROWS)
    json.dumps(schema)
    file = policy_grammar.read_policy(b"default: native", "x.yaml", ROWS, Problems(), name="x")
    reader = policy_grammar._Reader(file, ROWS, Problems())
    assert set(schema["properties"]) == set(reader.keys())
    assert set(schema["properties"]["calls"]["properties"]) == set(ROWS)
    when = schema["$defs"]["mount-rules"]["items"]["properties"]["when"]["properties"]
    assert set(when) == {"source", "target", "fstype", "flags", "data", "caller"}
    assert "MS_BIND" in when["flags"]["anyOf"][0]["properties"]["has"]["anyOf"][0]["enum"]
    assert set(schema["$defs"]["caller"]["properties"]) == set(policy_grammar.CALLER_CONDITIONS)
    assert "address" not in schema["$defs"]["shutdown-rules"]["items"]["properties"]["when"]["properties"]


def test_every_reference_leads_somewhere() -> None:
    schema = docgen.policy_schema({**ROWS, **registry.load()})
    text = json.dumps(schema)
    names = {part.partition('"')[0] for part in text.split('"#/$defs/')[1:]}
    assert names <= set(schema["$defs"])


def test_the_readmes_example_loads(tmp_path: Path) -> None:
    readme = (REPOSITORY / "policies" / "README.md").read_text(encoding="utf-8")
    example = next(b for b in readme.split("```yaml\n")[1:] if b.startswith("description:")).partition("```")[0]
    rows = {**ROWS, **registry.load()}
    (tmp_path / "web.yaml").write_text(example, encoding="utf-8")
    policies = policy_file.load_all([tmp_path, policy_file.SHIPPED], rows)
    team = {"org.example.team": "core"}
    assert policies.choose(Told("nginx:1.27", team, {"tier": "web1"})).name == "web"
