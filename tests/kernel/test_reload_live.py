"""Policies reloaded under containers that run: the next call is decided by the new rules, a mistake changes nothing."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import whole
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

HEAD = "extends: [default]\nselectable: true\ncalls:\n  sethostname:\n"
ALLOW = HEAD + "    - do: emulate\n"
DENY = HEAD + "    - when: {name: 'web-*'}\n      do: emulate\n    - do: {deny: EACCES}\n"
TABLE = HEAD + "    - when: {length: 4}\n      do: {deny: ENOSPC}\n    - do: emulate\n"


@pytest.fixture(scope="module")
def host() -> Iterator[whole.Host]:
    with whole.host("runc", {"live": ALLOW}) as host:
        yield host


@pytest.fixture
def box(host: whole.Host) -> whole.Box:
    write(host, ALLOW)
    host.interceptor("policy", "reload")
    return host.box("live")


def write(host: whole.Host, text: str) -> None:
    (host.directory / "policies" / "live.yaml").write_text(text, encoding="utf-8")


def name(box: whole.Box, name: str) -> str:
    done = box.exec("hostname", name)
    return "" if done.returncode == 0 else done.stderr.strip().rpartition(": ")[2]


def test_the_next_call_is_decided_by_the_new_rules(host: whole.Host, box: whole.Box) -> None:
    assert name(box, "db-1") == ""
    write(host, DENY)
    [said] = [json.loads(line) for line in host.interceptor("policy", "reload", "--json").splitlines() if box.id in line]
    assert said == {"container": box.id, "policy": "live", "narrower": [], "wider": [], "restart": [], "gone": False}
    assert name(box, "db-2") == "Permission denied"
    assert name(box, "web-2") == ""
    events = [(e["how"], e["rule"].rpartition("/")[2]) for e in box.trace("--syscall", "sethostname")]
    assert events[-2:] == [("denied", "live.yaml:7"), ("emulated", "live.yaml:5")]
    write(host, TABLE)
    host.interceptor("policy", "reload")
    assert name(box, "db-3") == "No space left on device"
    assert name(box, "db-33") == ""
    write(host, ALLOW)
    host.interceptor("policy", "reload")
    assert name(box, "db-4") == ""
    events = [(e["how"], e["rule"].rpartition("/")[2]) for e in box.trace("--syscall", "sethostname")]
    assert events[-3:] == [("table", "live.yaml:5"), ("emulated", "live.yaml:7"), ("emulated", "live.yaml:5")]
    assert box.trace("--how", "reloaded")[-1]["why"] == "policy 'live' counts from here on"


def test_a_mistake_in_any_file_changes_nothing(host: whole.Host, box: whole.Box) -> None:
    write(host, DENY.replace("EACCES", "EACCESS"))
    done = host.run(whole.PROGRAM, "policy", "reload")
    assert done.returncode == 1
    assert "live.yaml:7:18: unknown errno 'EACCESS'; did you mean 'EACCES'?" in done.stderr
    assert name(box, "db-1") == ""
    other = host.directory / "policies" / "other.yaml"
    other.write_text("default: nonsense\n")
    write(host, DENY)
    try:
        assert host.run(whole.PROGRAM, "policy", "reload").returncode == 1
        assert name(box, "db-1") == ""
        host.supervisor.send_signal(signal.SIGHUP)
        wait_for(lambda: "policies not reloaded" in host.log.read_text(), "the line in the log", within=10)
        assert "other.yaml:1:10: unknown decision 'nonsense'" in host.log.read_text()
    finally:
        other.unlink()
    assert host.supervisor.poll() is None
    host.supervisor.send_signal(signal.SIGHUP)
    wait_for(lambda: name(box, "db-1") != "", "the rules of the file", within=10)


def test_containers_are_told_where_their_filter_is_another(host: whole.Host, box: whole.Box) -> None:
    write(host, ALLOW + "  swapon:\n    - do: {deny: EBUSY}\n  swapoff:\n    - do: native\n")
    listing = host.interceptor("policy", "reload")
    assert "narrower: swapon as before until it is started again; its filter is wider than needed: swapoff" in listing
    [row] = [line for line in host.interceptor("ps").splitlines() if box.id[:12] in line]
    assert "live (filter narrower, wider)" in row
    assert "narrower: swapon" in box.trace("--how", "reloaded")[-1]["why"]
    assert any("narrower: swapon" in line for line in box.lines("--how", "reloaded"))
    fresh = host.box("live")
    [of_fresh] = [c for c in json.loads(host.interceptor("ps", "--json")) if c["id"] == fresh.id]
    assert (of_fresh["narrower"], of_fresh["wider"]) == ([], [])


def test_a_policy_that_is_gone_is_kept_by_who_has_it(host: whole.Host, box: whole.Box) -> None:
    (host.directory / "policies" / "live.yaml").unlink()
    assert "there is no policy 'live' any more" in host.interceptor("policy", "reload")
    assert name(box, "db-1") == ""


def test_no_call_is_lost_or_decided_by_neither(host: whole.Host, box: whole.Box) -> None:
    """Reloads as fast as they go, while a container calls: each answer is one of the two."""
    stop = box.rootfs / "data" / "stop"

    def reload() -> None:
        try:
            for text in (TABLE, DENY) * 3:
                write(host, text)
                host.interceptor("policy", "reload")
        finally:
            stop.touch()

    thread = threading.Thread(target=reload)
    thread.start()
    try:
        done = box.exec("sh", "-c", "while [ ! -e /data/stop ]; do hostname db-1 2>&1; done; hostname db-1 2>&1")
    finally:
        thread.join()
    answers = {line.rpartition(": ")[2] for line in done.stdout.splitlines()}
    assert answers <= {"Permission denied", "No space left on device"}
    rules = {(e["errno"], e["rule"].rpartition("/")[2]) for e in box.trace("--syscall", "sethostname") if e["tid"]}
    before = (None, "live.yaml:5")  # by what the box began with
    assert rules <= {("EACCES", "live.yaml:7"), ("ENOSPC", "live.yaml:5"), before}
    assert len(rules - {before}) == 2


def test_a_supervisor_that_takes_over_is_not_kept_from_it_by_a_mistake() -> None:
    with whole.host("runc", {"live": DENY}, kept=True) as host:
        box = host.box("live")
        write(host, "defualt: native\n")
        pid = host.supervisor_pid()
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not Path(f"/proc/{pid}/exe").exists(), "the end of the supervisor", within=10)
        assert name(box, "web-1") == ""
        assert name(box, "db-1") == "Permission denied", "by the rules of the last good load"
        assert host.supervisor_pid() != pid
        assert host.run(whole.PROGRAM, "policy", "reload").returncode == 1
        write(host, TABLE)
        host.interceptor("policy", "reload")
        assert name(box, "db-1") == "No space left on device"
