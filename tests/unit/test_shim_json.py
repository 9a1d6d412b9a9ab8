"""What interceptor-runc writes and reads as JSON, compared with Python's."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.fake_supervisor import fake_supervisor, script, shim

if TYPE_CHECKING:
    from pathlib import Path

ARGUMENTS = st.lists(st.binary(min_size=1, max_size=24).filter(lambda raw: b"\0" not in raw), max_size=6)
TEXTS = st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=24), max_size=6)
SLOW_ENOUGH = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SLOW_ENOUGH
@given(ARGUMENTS)
def test_any_argument_reaches_the_supervisor(tmp_path_factory: pytest.TempPathFactory, arguments: list[bytes]) -> None:
    run = tmp_path_factory.mktemp("run")
    with fake_supervisor(run) as supervisor:
        supervisor.answers["exec"] = {"exec": ["/bin/true"]}
        assert shim("exec", "c1", *arguments, run=run).returncode == 0
        (request,) = supervisor.seen
    assert [os.fsencode(argument) for argument in request["argv"]] == [b"exec", b"c1", *arguments]


@SLOW_ENOUGH
@given(TEXTS, st.booleans(), st.sampled_from([None, 2]))
def test_any_answer_is_understood(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], ascii_only: bool, indent: int | None
) -> None:
    directory = tmp_path_factory.mktemp("run")
    out = directory / "out"
    prints = script(directory / "prints", f'printf "%s\\\\0" "$@" > {out}')
    more = [{"nested": [1, -2.5e3, None, True, {}, []]}]
    answer = {"v": 1, "more": more, "ok": True, "exec": [str(prints), "x", *texts]}
    with fake_supervisor(directory) as supervisor:
        supervisor.answers["exec"] = json.dumps(answer, ensure_ascii=ascii_only, indent=indent).encode()
        result = shim("exec", "c1", run=directory)
    assert (result.returncode, result.stderr) == (0, "")
    assert out.read_bytes().split(b"\0")[:-1] == [b"x", *(text.encode() for text in texts)]


def test_bytes_that_are_no_text_come_back_as_they_were(tmp_path: Path) -> None:
    prints = script(tmp_path / "prints", f'printf "%s" "$1" > {tmp_path}/out')
    with fake_supervisor(tmp_path) as supervisor:
        supervisor.answers["exec"] = lambda request: {"exec": [str(prints), request["argv"][2]]}
        shim("exec", "c1", b"\xff\xc3\x28\xed\xa0\x80", run=tmp_path)
    assert (tmp_path / "out").read_bytes() == b"\xff\xc3\x28\xed\xa0\x80"


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"{", "ends inside a string|a string was expected"),
        (b'{"v":1,"ok":true,}', "a string was expected"),
        (b'{"v":1,"ok":true}x', "goes on after its end"),
        (b'{"v":1,"ok":tru}', "a value was expected"),
        (b'{"v":01,"ok":true}', "a comma or the closing bracket was expected"),
        (b'{"v":1,"ok":true,"a":"\\x"}', "an escape that JSON does not have"),
        (b'{"v":1,"ok":true,"a":"\n"}', "a control character inside a string"),
        (b'{"v":1,"ok":true,"a":"\\u12g4"}', "without four hexadecimal digits"),
        (b"[" * 65 + b"]" * 65, "nested too deeply"),
        (b'{"v":2,"ok":true}', "another version of the control protocol"),
        (b'["v",1]', "another version of the control protocol"),
        (b'{"v":1}', "refused and did not say why"),
        (b'{"v":1,"ok":true}', "names no command to execute"),
        (b'{"v":1,"ok":true,"exec":[]}', "names no command to execute"),
        (b'{"v":1,"ok":true,"exec":["true"]}', "names no command to execute"),
        (b'{"v":1,"ok":true,"exec":["/bin/true",1]}', "an argument that is no string"),
        (b'{"v":1,"ok":true,"exec":["/bin/true","a\\u0000b"]}', "an argument that is no string"),
    ],
)
def test_an_answer_that_is_wrong_is_refused_with_the_reason(tmp_path: Path, answer: bytes, problem: str) -> None:
    with fake_supervisor(tmp_path) as supervisor:
        supervisor.answers["exec"] = answer
        result = shim("exec", "c1", run=tmp_path)
    assert result.returncode == 1
    assert any(each in result.stderr for each in problem.split("|")), result.stderr


def test_a_command_line_beyond_one_message_is_refused(tmp_path: Path) -> None:
    with fake_supervisor(tmp_path):
        result = shim("exec", "c1", *["x" * 1000] * 140, run=tmp_path)
    assert result.returncode == 1
    assert "the control socket carries 131072" in result.stderr


def test_the_last_of_two_equal_names_counts(tmp_path: Path) -> None:
    answer = b'{"v":1,"ok":true,"exec":["/bin/false"],"exec":["/bin/true"]}'
    with fake_supervisor(tmp_path) as supervisor:
        supervisor.answers["exec"] = answer
        assert shim("exec", "c1", run=tmp_path).returncode == 0
