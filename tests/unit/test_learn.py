"""Policies that are learned from traces, and cases that stand beside rules."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from support import generated
from support.policy_rows import write

from interceptor import cli, policy_file, registry
from interceptor.args import Arch
from interceptor.calltext import parse
from interceptor.explain import Explanation, Rung, explain, gets, try_cases
from interceptor.learn import learn
from interceptor.policy import Do
from interceptor.policy_file import SHIPPED
from interceptor.policy_text import quoted
from interceptor.strict_yaml import PolicyErrors

if TYPE_CHECKING:
    from pathlib import Path

    from interceptor.policy import Policy

ROWS = registry.load()


def load(directory: Path, text: str, name: str = "site") -> Policy:
    write(directory, name, text)
    return policy_file.load_all([directory, SHIPPED]).get(name)


def event(text: str, policy: Policy) -> dict[str, Any] | None:
    """What a trace would have of a call; None for what never leaves the kernel."""
    call = parse(text, ROWS)
    found = explain(call, policy)
    if found.rung in (Rung.KERNEL, Rung.FILTER):
        return None
    args = call.row.signature.decode(call.registers, Arch.X86_64, call.read)
    return {"call": call.row.name, "arguments": call.row.signature.render(args), "how": str(found.how), "rule": found.rule}


SEEN = [
    'mount("proc", "/proc", "proc", MS_NOSUID, NULL)', 'mount("proc", "/proc/self/fd/6", "proc", 0, NULL)',
    'mount("tmpfs", "/run", "tmpfs", 0, "size=1")', 'sethostname("web-1", 5)', 'umount2("/mnt/a", MNT_DETACH)',
]  # fmt: skip
UNSEEN = [
    'mount("proc", "/elsewhere", "proc", 0, NULL)', 'mount("x", "/run", "nfs", 0, NULL)', 'sethostname("db", 2)',
    'umount2("/mnt/b", 0)', 'setdomainname("x", 1)',
]  # fmt: skip


def allowed(found: Explanation) -> bool:
    return gets(found)[0] in (Do.EMULATE, Do.NATIVE)


def test_what_was_seen_is_allowed_and_the_rest_refused(tmp_path: Path) -> None:
    base = policy_file.load_all([SHIPPED]).get("default")
    learned = learn([e for text in SEEN if (e := event(text, base))], base, ROWS, "web")
    assert len(learned.calls) == len(SEEN)
    policy = load(tmp_path, learned.text)
    assert policy.description == "Learned from 5 calls of web"
    assert all(allowed(explain(parse(text, ROWS), policy)) for text in SEEN), learned.text
    assert not any(allowed(explain(parse(text, ROWS), policy)) for text in UNSEEN), learned.text
    bind = explain(parse('mount("/a", "/b", NULL, MS_BIND, NULL)', ROWS), policy)
    assert bind.rung is Rung.KERNEL, "what was never intercepted is not refused now"
    assert '  sethostname:\n    - {when: {name: ["web-1"]}, do: emulate}\n    - do: deny\n' in learned.text


def test_a_refused_call_is_learned_as_allowed(tmp_path: Path) -> None:
    base = load(tmp_path / "base", "extends: [default]\ncalls: {sethostname: [{do: {deny: EPERM}, log: true}]}\n", "default")
    seen = event('sethostname("db", 2)', base)
    assert seen is not None
    assert seen["how"] == "denied"
    policy = load(tmp_path, learn([seen], base, ROWS, "x").text)
    assert allowed(explain(parse('sethostname("db", 2)', ROWS), policy))


def test_a_thousand_calls_are_all_allowed(tmp_path: Path) -> None:
    base = load(tmp_path / "base", generated.POLICY)
    texts = generated.generated(generated.calls(ROWS), 300)
    learned = learn([e for text in texts if (e := event(text, base))], base, ROWS, "x")
    write(tmp_path / "both", "site", generated.POLICY)
    policy = load(tmp_path / "both", learned.text, "learned")
    assert len(learned.calls) > 100
    for call in learned.calls:
        found = explain(call, policy)
        assert gets(found)[0] is not Do.DENY or found.rung is Rung.FILTER, (call, learned.text)


@pytest.mark.parametrize("text", ["a", "no", "", 'a"b\\', "\0\n\x1f\x7f\x85", "\N{EURO SIGN}\u2028", "\N{GRINNING FACE}"])
def test_what_is_quoted_is_read_as_it_was(text: str) -> None:
    assert yaml.safe_load(quoted(text)) == text


def test_many_strings_become_patterns(tmp_path: Path) -> None:
    base = policy_file.load_all([SHIPPED]).get("default")
    texts = [f'umount2("/var/lib/docker/overlay2/{i:x}/merged", 0)' for i in range(40)]
    learned = learn([e for t in texts if (e := event(t, base))], base, ROWS, "x")
    assert '- {when: {target: ["/var/lib/docker/overlay2/*"]}, do: emulate}' in learned.text
    texts = [f'umount2("/proc/self/fd/{i}", 0)' for i in range(40)]
    numbered = learn([e for t in texts if (e := event(t, base))], base, ROWS, "x")
    assert '["/proc/self/fd/*"]' in numbered.text
    policy = load(tmp_path, learned.text)
    assert allowed(explain(parse('umount2("/var/lib/docker/overlay2/zz/merged", 0)', ROWS), policy))


def test_what_was_answered_from_registers_says_nothing_of_strings() -> None:
    base = policy_file.load_all([SHIPPED]).get("default")
    seen = {"call": "sethostname", "arguments": "0x7ffd, 5", "how": "table", "rule": "x:1"}
    learned = learn([seen], base, ROWS, "x")
    assert "  sethostname:\n    - do: emulate\n" in learned.text
    assert not learned.calls


def test_the_command_reads_traces(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("INTERCEPTOR_POLICIES", str(tmp_path))
    base = policy_file.load_all([SHIPPED]).get("default")
    trace = tmp_path / "trace.json"
    trace.write_text("".join(json.dumps(e) + "\n" for text in SEEN if (e := event(text, base))))
    assert cli.main(["policy", "learn", str(trace)]) == 0
    assert 'description: "Learned from 5 calls of ' in capsys.readouterr().out
    trace.write_text("{}\n")
    assert cli.main(["policy", "learn", str(trace)]) == 1
    assert "line 1 of the trace is no event" in capsys.readouterr().err
    trace.write_text("mount(\n")
    assert cli.main(["policy", "learn", str(trace)]) == 1
    assert "line 1 of the trace is no JSON" in capsys.readouterr().err


# Cases

CASES = """\
extends: [default]
calls:
  sethostname:
    - when: {name: "web-*", caller: {uid: 0}}
      do: emulate
    - when: {caller: {uid: 7}}
      do: kill
    - do: {deny: EACCES}
tests:
  - call: sethostname("web-1", 5)
    expect: emulate
  - call: sethostname("web-1", 5)
    caller: {uid: 1000, nested: true}
    expect: {deny: EACCES}
    rung: handler
  - {call: 'sethostname("x", 1)', caller: {uid: 7}, expect: kill}
  - {call: 'mount("/a", "/b", NULL, MS_BIND, NULL)', expect: native, rung: kernel}
  - {call: 'acct(NULL)', expect: {deny: ENOSYS}, rung: filter}
  - {call: 'sethostname("db", 2)', expect: emulate}
  - {call: 'sethostname("db", 3)', expect: emulate}
  - {call: 'sethostname("db", 2)', expect: {deny: EACCES}, rung: table}
"""


def test_cases_beside_the_rules(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    policy = load(tmp_path, CASES)
    found = [(case.place.rpartition(":")[2], wrong) for case, wrong in try_cases(policy, ROWS)]
    assert [line for line, wrong in found if not wrong] == ["10", "12", "16", "17", "18"]
    assert [wrong.replace(str(tmp_path), "") for _, wrong in found if wrong] == [
        "expected emulate, gets deny with EACCES (handler, /site.yaml:8)",
        "'sethostname(\"db\", 3)', column 1: name has 2 bytes, but length is 3",
        "expected of the table, decided by the handler (/site.yaml:8)",
    ]
    monkeypatch.setenv("INTERCEPTOR_POLICIES", str(tmp_path))
    assert cli.main(["policy", "test", str(tmp_path / "site.yaml")]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0].endswith('site.yaml:19: sethostname("db", 2): expected emulate, gets deny with EACCES'
                           f" (handler, {tmp_path}/site.yaml:8)")  # fmt: skip
    assert out[-1] == "5 of 8 cases hold"


def test_the_shipped_cases_hold(capsys: pytest.CaptureFixture[str], monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("INTERCEPTOR_POLICIES", str(tmp_path))
    assert cli.main(["policy", "test"]) == 0, capsys.readouterr().out
    count = int(capsys.readouterr().out.split()[0])
    assert count >= 8


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("{call: x}", "a case without `expect:`"),
        ("{expect: native}", "a case without `call:`"),
        ("{call: x, expect: natve}", "unknown decision 'natve'; did you mean 'native'?"),
        ("{call: x, expect: native, rung: bpf}", "unknown rung 'bpf'"),
        ("{call: x, expect: native, caller: {gid: 1}}", "unknown key in a caller: 'gid'"),
    ],
)
def test_mistakes_in_cases(tmp_path: Path, case: str, expected: str) -> None:
    with pytest.raises(PolicyErrors) as caught:
        load(tmp_path, f"default: native\ntests: [{case}]\n")
    assert expected in str(caught.value)
