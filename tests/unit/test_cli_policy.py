"""`interceptor policy`: lists, shows and checks what the supervisor would read."""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any

import pytest

from interceptor import cli
from interceptor.args import Flags, OptionalCStr, Signature
from interceptor.commands._policy_text import describe
from interceptor.policy import (
    Decision,
    Do,
    FilesystemDecision,
    FlagSet,
    Mount,
    Numbers,
    Policy,
    Rule,
    Text,
    Truth,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


class MS(enum.IntFlag):
    MS_RDONLY = 1
    MS_BIND = 4096


@dataclass(frozen=True, slots=True)
class Args:
    fstype: OptionalCStr
    flags: Annotated[int, Flags(MS)]


ROWS: Any = {"mount": SimpleNamespace(signature=Signature.of(Args))}


def test_a_policy_in_words() -> None:
    deny = Decision(Do.DENY, "site.yaml:7", errno.EPERM, log=True)
    arguments = (("fstype", Text(("nfs*", None))), ("flags", FlagSet(1, 4096)))
    rule = Rule(deny, arguments, (("uid", Numbers(((0, 0), (5, 9)))),))
    nested = Rule(Decision(Do.NATIVE, "site.yaml:9"), (), (("nested", Truth(value=True)),))
    policy = Policy(
        "site", "/etc/interceptor/policies/site.yaml", description="ours",
        default=Decision(Do.EMULATE, "default.yaml:33"),
        rules={"mount": (rule, nested)},
        filesystems={
            "*": FilesystemDecision(Mount.NATIVE, "d.yaml:2"),
            "nfs": FilesystemDecision(Mount.DENY, "d.yaml:1", errno.ENODEV),
        },
    )  # fmt: skip
    lines = [line.rstrip() for line in describe(policy, ROWS).splitlines()]
    assert lines[0] == "site: ours"
    start = lines.index("mount")
    assert lines[start + 1] == (
        "  deny with EPERM, logged when fstype is 'nfs*' or NULL and flags has MS_RDONLY and lacks MS_BIND"
        " and caller.uid is 0 or 5..9  site.yaml:7"
    )
    assert lines[start + 2].split("  ")[1] == "native when caller.nested is true"
    assert lines[start + 3].split() == ["emulate", "default.yaml:33"]
    assert lines[-2].split() == ["nfs", "deny", "with", "ENODEV", "d.yaml:1"]
    assert lines[-1].split() == ["*", "native", "d.yaml:2"]


GOOD = "description: x\ndefault: emulate\nselectable: true\n"


@pytest.fixture
def directory(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The administrator's policies; the shipped ones are set aside."""
    monkeypatch.setenv("INTERCEPTOR_POLICIES", str(tmp_path))
    monkeypatch.setattr("interceptor.policy_file.SHIPPED", tmp_path / "none")
    (tmp_path / "default.yaml").write_text(GOOD)
    return tmp_path


def test_list_show_check(directory: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (directory / "web.yaml").write_text("extends: [default]\n")
    assert cli.main(["policy"]) == 0
    header, default, web = capsys.readouterr().out.splitlines()
    assert header.split() == ["POLICY", "SELECTABLE", "FILE", "DESCRIPTION"]
    assert default.split() == ["default", "yes", str(directory / "default.yaml"), "x"]
    assert web.split()[:2] == ["web", "no"]
    assert cli.main(["policy", "show", "web"]) == 0
    assert f"{directory}/default.yaml:2" in capsys.readouterr().out
    assert cli.main(["policy", "check"]) == 0
    assert capsys.readouterr().out == "2 policies are fine\n"
    assert cli.main(["policy", "check", str(directory / "web.yaml")]) == 0
    assert capsys.readouterr().out == f"{directory}/web.yaml: policy 'web' is fine\n"


def test_mistakes_are_failures_with_their_place(directory: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (directory / "web.yaml").write_text("extends: [default]\nbogus: 1\n")
    for arguments in (["policy"], ["policy", "check"], ["policy", "check", str(directory / "web.yaml")]):
        assert cli.main(arguments) == 1
        assert f"interceptor: {directory}/web.yaml:2:1: " in capsys.readouterr().err


@pytest.mark.usefixtures("directory")
def test_an_unknown_policy_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["policy", "show", "nix"]) == 1
    assert capsys.readouterr().err == "interceptor: there is no policy 'nix'; there are: default\n"


@pytest.mark.usefixtures("directory")
def test_a_file_that_cannot_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["policy", "check", "/nonexistent/p.yaml"]) == 1
    assert "/nonexistent/p.yaml" in capsys.readouterr().err
