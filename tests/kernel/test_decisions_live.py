"""pretend, kill and stop in real containers: what the process, and the container, see of it."""

from __future__ import annotations

import os
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

POLICY = """\
extends: [default]
selectable: true
calls:
  sethostname:
    - when: {name: pretended}
      do: pretend
    - when: {name: killed}
      do: kill
    - when: {name: stopped}
      do: stop
    - when: {name: inner, caller: {inner: true}}
      do: {deny: EACCES}
    - when: {name: program, caller: {executable: "*/busybox"}}
      do: {deny: EBUSY}
    - do: emulate
  setdomainname:
    - do: pretend
"""


@pytest.fixture(params=["runc", "crun"], scope="module")
def host(request: pytest.FixtureRequest) -> Iterator[whole.Host]:
    with whole.host(request.param, {"decisions": POLICY}) as host:
        yield host


@pytest.fixture
def box(host: whole.Host) -> whole.Box:
    return host.box("decisions")


def test_pretend_is_success_and_nothing_is_done(box: whole.Box) -> None:
    before = box.sh("hostname")
    assert box.sh("hostname pretended; hostname") == before
    [event] = box.trace("--syscall", "sethostname", "--last", "1")
    assert (event["how"], event["result"], event["rule"].rpartition(":")[2]) == ("pretended", 0, "5")
    program = box.probe("set_name")
    count = len(box.trace())
    done = box.exec(program, "0", "setdomainname", "x")
    assert (done.returncode, done.stdout.strip()) == (0, "done"), "by the filter alone"
    assert len(box.trace()) == count


def test_kill_ends_the_process_and_the_trace_says_why(box: whole.Box) -> None:
    assert box.exec("sh", "-c", "hostname killed; echo $?").stdout == "137\n", "128 + SIGKILL, and the shell lives"
    line, why = [line for line in box.lines("--how", "killed") if not line.startswith("--")]
    assert 'sethostname("killed", 6)' in line
    assert "refused by" in why
    assert 'name is "killed"; the process was killed' in why
    assert "calls: {sethostname: [{when: {name: killed}, do: emulate}]}" in why
    assert box.sh("hostname still-here; hostname") == "still-here\n"


def test_stop_ends_the_container(host: whole.Host, box: whole.Box) -> None:
    other = host.box("decisions")
    box.exec("hostname", "stopped")
    wait_for(lambda: not Path(f"/proc/{box.init}/ns/pid").exists(), "the container's end", within=20)
    assert host.entry("state", box.id).stdout.count('"stopped"') == 1
    [event] = box.trace("--how", "killed")
    assert event["why"] == 'name is "stopped"; the container was stopped'
    assert other.sh("hostname other; hostname") == "other\n"


def test_inner_containers_and_programs_are_told_apart(box: whole.Box) -> None:
    assert box.sh("hostname inner; hostname") == "inner\n"
    inside = box.exec("unshare", "-p", "-f", "sh", "-c", "hostname inner")
    assert inside.stderr.strip().endswith("Permission denied")
    assert box.exec("hostname", "program").stderr.strip().endswith("Device or resource busy")
    program = box.probe("set_name")
    assert box.exec(program, "0", "sethostname", "program").stdout.strip() == "done"
