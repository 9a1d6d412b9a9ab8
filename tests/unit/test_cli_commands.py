"""What `trace` and `ps` print of a supervisor's answers."""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from interceptor import cli
from interceptor.commands import _supervisor

if TYPE_CHECKING:
    from collections.abc import Iterator

EVENT = {
    "time": "2026-09-21T14:13:20.789012Z",
    "time_ns": 1_790_000_000_789_012_345,
    "container": "abcdef0123456789",
    "name": "web",
    "tid": 12,
    "comm": "systemd",
    "arch": "x86_64",
    "call": "umount2",
    "arguments": '"/proc", 0',
    "args": {"target": "/proc", "flags": 0},
    "result": 0,
    "errno": None,
    "error": None,
    "how": "emulated",
    "rule": "default.yaml:3",
    "why": "",
    "micros": 41.7,
}
CONTAINER = {
    "id": "abcdef0123456789",
    "name": None,
    "image": "debian:12",
    "policy": "systemd",
    "runtime": "/usr/sbin/runc",
    "pid": 4711,
    "ids": [1_000_000, 65536],
    "created": time.time_ns() - 65_000_000_000,
    "sessions": 1,
    "calls": 394,
    "denied": 2,
    "parked": 0,
    "agents": 1,
}


LEAF = {
    "path": "/proc/meminfo", "rung": "fuse", "writable": False, "masked": False, "value": "MemTotal: 524288 kB",
    "host": "MemTotal: 8000000 kB", "differs": True, "changed": None,
}  # fmt: skip
SYSCTL = {
    "path": "/proc/sys/vm/swappiness", "rung": "fuse", "writable": True, "masked": False, "value": "10", "host": "60",
    "differs": True, "changed": {"time_ns": time.time_ns() - 65_000_000_000, "tid": 12, "uid": 0, "comm": "s\x1b[2J"},
}  # fmt: skip
SEEN = {
    "ok": True, "container": "abcdef0123456789", "leaves": [LEAF, SYSCTL], "hidden": ["/proc/keys"],
    "inner": [["/sys/fs/cgroup/docker/x"]], "oom_score_adj": {"floor": -999, "value": 0},
}  # fmt: skip


class FakeSupervisor:
    """Answers from a script and notes what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.messages: list[dict[str, Any]] = []
        self.containers: list[dict[str, Any]] = [CONTAINER]

    def call(self, op: str, **fields: Any) -> dict[str, Any]:
        self.asked.append((op, fields))
        return SEEN if op == "proc" else {"ok": True, "containers": self.containers}

    def stream(self, op: str, **fields: Any) -> Iterator[dict[str, Any]]:
        self.asked.append((op, fields))
        yield from self.messages

    def close(self) -> None: ...


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> FakeSupervisor:
    fake = FakeSupervisor()

    @contextlib.contextmanager
    def if_running() -> Iterator[FakeSupervisor]:
        yield fake

    monkeypatch.setattr(_supervisor, "if_running", if_running)
    return fake


def test_trace_asks_for_what_was_said(supervisor: FakeSupervisor, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trace", "web", "-f", "-n", "5", "-s", "mount,umount2", "-s", "bpf", "--denied"]) == 0
    assert supervisor.asked == [
        (
            "trace",
            {"container": "web", "last": 5, "follow": True, "calls": ["mount", "umount2", "bpf"], "how": ["denied"]},
        )
    ]
    assert capsys.readouterr() == ("", "interceptor: no such call was recorded\n")


def test_trace_prints_lines(supervisor: FakeSupervisor, capsys: pytest.CaptureFixture[str]) -> None:
    supervisor.messages = [{"events": [EVENT, {**EVENT, "name": "database"}]}, {"events": [], "lost": 3}]
    assert cli.main(["trace"]) == 0
    lines = capsys.readouterr().out.splitlines()
    first, second, lost = (line for line in lines if not line.startswith("--"))
    assert 'web      systemd[12]            umount2("/proc", 0) ' in first
    assert first.endswith(" = 0 <emulated> default.yaml:3 42µs")
    assert "database systemd[12] " in second
    assert lost.startswith("… 3 calls are missing here")


@pytest.mark.usefixtures("supervisor")
def test_trace_takes_no_second_container(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["trace", "one", "two"])
    assert "unrecognized arguments: two" in capsys.readouterr().err


def test_trace_prints_json(supervisor: FakeSupervisor, capsys: pytest.CaptureFixture[str]) -> None:
    supervisor.messages = [{"events": [EVENT]}, {"events": [], "lost": 3}]
    assert cli.main(["trace", "--json"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [EVENT, {"lost": 3}]


@pytest.mark.usefixtures("supervisor")
def test_ps_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ps"]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["CONTAINER", "NAME", "IMAGE", "POLICY", "RUNTIME", "PID", "IDS", "UP", "CALLS", "DENIED", "PARKED"]  # fmt: skip # noqa: E501
    cells = row.split()
    assert cells[:7] == ["abcdef012345", "-", "debian:12", "systemd", "runc", "4711", "1000000-1065535"]
    assert cells[8:] == ["394", "2", "0"]
    assert cells[7].endswith("s")


def test_ps_prints_json_and_ids(supervisor: FakeSupervisor, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ps", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [CONTAINER]
    assert cli.main(["ps", "-q"]) == 0
    assert capsys.readouterr().out == "abcdef0123456789\n"
    supervisor.containers = []
    assert cli.main(["ps", "-q"]) == 0
    assert capsys.readouterr().out == ""


def test_proc_prints_a_table(supervisor: FakeSupervisor, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["proc", "web"]) == 0
    assert supervisor.asked == [("proc", {"container": "web"})]
    header, meminfo, swappiness, *rest = capsys.readouterr().out.splitlines()
    assert header.split() == ["PATH", "RUNG", "VALUE", "HOST", "CHANGED"]
    assert meminfo.split() == ["/proc/meminfo", "fuse", "MemTotal:", "524288", "kB", "MemTotal:", "8000000", "kB"]
    assert swappiness.split()[:4] == ["/proc/sys/vm/swappiness", "fuse", "10", "60"]
    assert swappiness.endswith(" ago by s\\x1b[2J[12], uid 0")
    assert rest == [
        "hidden: /proc/keys", "oom_score_adj: down to -999",
        "inner container with limits of its own: /sys/fs/cgroup/docker/x",
    ]  # fmt: skip


@pytest.mark.usefixtures("supervisor")
def test_proc_prints_json_and_what_was_changed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["proc", "web", "--json", "--changed"]) == 0
    assert json.loads(capsys.readouterr().out) == {key: SEEN[key] for key in SEEN if key != "ok"} | {"leaves": [SYSCTL]}
