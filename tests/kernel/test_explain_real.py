"""`interceptor policy explain` against what then happens: a thousand made-up calls, made in a container, and its trace."""

from __future__ import annotations

import errno
import json
import os
import platform
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from support import generated, whole

from interceptor import policy_file, registry
from interceptor.args import Address, Arch
from interceptor.calltext import CallText, parse
from interceptor.explain import Asker, Explanation, Rung, explain
from interceptor.policy import Caller
from interceptor.trace.record import How
from interceptor.verdict import Fail, Return

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.policy import Policy

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the calls are made with x86-64's numbers"),
]

COUNT = 1000
STRUCT = "s" + "ff" * 256
"""What a pointer leads to of which nothing is known: limits without bound, a priority of -1, a form that nobody knows."""
ROWS = registry.load()


@pytest.fixture(scope="module")
def box() -> Iterator[whole.Box]:
    with whole.host("runc", {"site": generated.POLICY}) as host:
        yield host.box("site")


def site(box: whole.Box) -> Policy:
    return policy_file.load_all([box.host.directory / "policies", policy_file.SHIPPED]).get("site")


def as_line(call: CallText) -> str:
    """For calls.c. A number that happens to be a made-up address (MS_POSIXACL is 0x10000) stays a number."""
    kinds = {f.register: f.kind for f in call.row.signature.fields}
    words = [str(call.row.number(Arch.X86_64))]
    for register, value in enumerate(call.registers):
        if getattr(kinds.get(register), "pointer", False) and value in call.memory:
            words.append(f"s{call.memory[value].hex()}")
        else:
            words.append(STRUCT if isinstance(kinds.get(register), Address) and value else hex(value))
    return " ".join(words)


def made(box: whole.Box, calls: list[CallText]) -> list[int]:
    """Each call's result: 0 or more, or -errno."""
    program = box.probe("calls")
    command = box.host.command(whole.ENTRY, "--root", box.host.directory / "oci", "exec", box.id, program)
    done = subprocess.run(
        command, input="\n".join(map(as_line, calls)) + "\n", env=box.host.environment, capture_output=True, text=True,
        check=False, timeout=120, cwd="/",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [int(line) for line in done.stdout.splitlines()]


def test_a_flag_that_is_a_made_up_address_is_made_as_a_flag() -> None:
    """Else it would be a pointer, and what the filter makes of that changes from run to run."""
    calls = [parse(f'mount("a", "/data/x", "tmpfs", {flag}, NULL)', ROWS) for flag in ("MS_POSIXACL", "MS_UNBINDABLE")]
    assert [as_line(call).split()[4] for call in calls] == ["0x10000", "0x20000"]


def test_a_thousand_calls(box: whole.Box) -> None:
    texts = generated.generated(generated.calls(ROWS), COUNT)
    assert len(texts) >= COUNT
    calls, policy = [parse(text, ROWS) for text in texts], site(box)
    asker = Asker(Caller(uid=0, executable=b"/probe/calls"))
    said = [explain(call, policy, asker) for call in calls]
    results = made(box, calls)
    assert len(results) == len(calls)
    events = iter(events_of(box))
    for text, call, explained, result in zip(texts, calls, said, results, strict=True):
        event = next(events) if explained.rung in (Rung.TABLE, Rung.HANDLER) else None
        assert event is None or event["call"] == call.row.name, f"{text}\n{explained}\nanother's event: {event}"
        disagreement = differs(explained, event, result)
        assert not disagreement, f"{disagreement}\n{text}\n{explained}\n{event}\nresult {result}"
    assert next(events, None) is None
    kinds = {(e.rung, e.how) for e in said}
    assert {rung for rung, _ in kinds} == set(Rung), "the made-up calls reach every rung"
    assert {How.DENIED, How.PRETENDED, How.NATIVE, How.EMULATED} <= {how for _, how in kinds}


def events_of(box: whole.Box) -> list[dict[str, Any]]:
    """Of the thread that made most calls: the probe; the runtime's own few came from others."""
    events = box.trace()
    tids = [event["tid"] for event in events]
    prober = max(set(tids), key=tids.count)
    return [event for event in events if event["tid"] == prober]


def differs(said: Explanation, event: dict[str, Any] | None, result: int) -> str:  # noqa: PLR0911 - a list
    """What is otherwise than explained."""
    if isinstance(said.verdict, Fail) and result != -said.verdict.errno:
        return f"explained {errno.errorcode[said.verdict.errno]}"
    if isinstance(said.verdict, Return) and result != said.verdict.value:
        return f"explained {said.verdict.value}"
    if event is None:
        return ""
    if event["rule"] != said.rule:
        return f"explained {said.rule}, was {event['rule']}"
    if not said.asks and event["how"] != said.how:
        return f"explained {said.how}, was {event['how']}"
    if (said.why, said.remedy) != (event["why"], event.get("remedy", "")) and not said.asks and said.remedy:
        return f"explained {said.why!r} {said.remedy!r}"
    return ""


@pytest.mark.parametrize(
    "call", ['mount("x", "/mnt", "nfs", 0, NULL)', 'sethostname("db", 2)', 'setdomainname("x", 1)']
)
def test_the_supervisor_says_the_same_of_a_container_as_of_its_policy(box: whole.Box, call: str) -> None:
    of_container = json.loads(box.host.interceptor("policy", "explain", "--json", box.id, call))
    of_policy = json.loads(box.host.interceptor("policy", "explain", "--json", "site", call))
    assert of_container == of_policy
    assert of_container["rule"].startswith(str(box.host.directory / "policies" / "site.yaml"))
    assert call in box.host.interceptor("policy", "explain", box.id, call)


def test_a_policy_is_learned_from_a_container(box: whole.Box) -> None:
    box = box.host.box("site")
    assert box.exec("hostname", "web-77").returncode == 0
    assert box.exec("hostname", "db-77").returncode == 1
    learned = box.host.directory / "learned.yaml"
    learned.write_text(box.host.interceptor("policy", "learn", box.id))
    assert "is fine" in box.host.interceptor("policy", "check", str(learned))
    policy = policy_file.check(learned, [box.host.directory / "policies", policy_file.SHIPPED])
    for name, allowed in (("web-77", True), ("db-77", True), ("web-78", False)):
        found = explain(parse(f'sethostname("{name}", {len(name)})', ROWS), policy)
        assert (found.how is not How.DENIED) is allowed, learned.read_text()
