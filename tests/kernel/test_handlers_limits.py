"""setrlimit(2) and prlimit(2), with and without the filter, by both ABIs.

Where this host's root lacks CAP_SYS_RESOURCE, as in some virtual machines, what would raise a limit is tried all the same:
it is refused with the reason. `make machine` runs this on a kernel where nothing is lacking.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import whole
from support.both_abis import MARKS, answers

from runtime.process import may_raise_limits

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = MARKS

CEILINGS = """\
extends: [default]
selectable: true
limits: {rlimits: {nofile: 65536, memlock: unlimited}}
"""
OTHERWISE = "1024/4096 4096/8192"
LENT = {
    "setrlimit raised": "  5000/9000 4096/8192, child {}, before 0/0",
    "setrlimit raised, soft is lowered": "  3/9000 4096/8192, child {}, before 0/0",
    "setrlimit raised up to the ceiling, at the end of a page": "  0/65536 4096/8192, child {}, before 0/0",
    "setrlimit of locked memory, without bound": "  1024/4096 -1/-1, child {}, before 0/0",
    "prlimit64 raised": "  5000/9000 4096/8192, child {}, before 0/0",
    "prlimit64 raised, and what it was": "  5000/9000 4096/8192, child {}, before 1024/4096",
    "prlimit64 raised, and what it was has no place": "  5000/9000 4096/8192, child {}, before 0/0",
    "prlimit64 raised of the child": "  {}, child 100/65536 4096/8192, before 1024/4096",
    "prlimit64 of locked memory, without bound": "  1024/4096 1/-1, child {}, before 0/0",
    "prlimit64 of locked memory, 4 GiB": "  1024/4096 1/4294967295, child {}, before 0/0",
}
"""What succeeds with the ceilings above, and what the program sees then."""
AFTERWARDS = {"prlimit64 raised, and what it was has no place": "EFAULT"}
"""Where the kernel says so once it is done."""
LACK = "the supervisor lacks CAP_SYS_RESOURCE"


@pytest.fixture(scope="module")
def host() -> Iterator[whole.Host]:
    with whole.host("runc", {"ceilings": CEILINGS}) as host:
        yield host


@pytest.fixture(scope="module")
def box(host: whole.Host) -> whole.Box:
    return host.box("ceilings")


@pytest.mark.parametrize("abi", ["64", "32"])
def test_up_to_the_ceilings_it_is_done_and_all_else_is_the_kernels(box: whole.Box, abi: str) -> None:
    program = (box.probe("limits"), abi)
    kernel, ours = answers(box.unfiltered(*program)), answers(box.exec(*program))
    assert LENT.keys() < ours.keys()
    for call, (answer, after) in ours.items():
        if call in LENT and may_raise_limits():
            assert kernel[call][0] == "EPERM", call
            assert (answer, after) == (AFTERWARDS.get(call, "ok"), LENT[call].format(OTHERWISE)), call
        else:
            assert (answer, after) == kernel[call], call


def test_the_trace_says_what_was_beyond_and_whose_lack_it_is(box: whole.Box) -> None:
    box.exec(box.probe("limits"), "64")
    events = [event for event in box.trace("--syscall", "prlimit64,setrlimit") if event["how"] == "emulated"]
    refused = [event for event in events if event["errno"] == "EPERM"]
    if may_raise_limits():
        assert not refused
        assert len(events) >= len(LENT)
    else:
        assert len(refused) >= len(LENT)
        assert all(LACK in event["why"] for event in refused)
        assert any(LACK in line for line in box.lines("--syscall", "prlimit64"))
    beyond = [event for event in box.trace() if "limits: rlimits:" in event["why"]]
    assert {event["errno"] for event in beyond} == {None}
    assert {event["how"] for event in beyond} == {"continued"}


def test_who_only_asks_and_what_has_no_ceiling_never_leaves_the_kernel(box: whole.Box) -> None:
    before = len(box.trace())
    box.sh("for i in 1 2 3; do ulimit -n; ulimit -Hn; ulimit -l; ulimit -c 0; ulimit -Sc; done")
    assert len(box.trace()) == before


def test_others_than_root_get_the_kernels_answer(box: whole.Box) -> None:
    for abi in ("64", "32"):
        found = answers(box.exec(box.probe("limits"), abi, user="1000:1000"))
        assert {answer for call, (answer, _) in found.items() if call in LENT} == {"EPERM"}


def test_nothing_is_lent_to_nested_user_namespaces(box: whole.Box) -> None:
    for options in ("-Ur", "-Urm"):
        found = answers(box.exec("unshare", options, box.probe("limits"), "64"))
        assert {answer for call, (answer, _) in found.items() if call in LENT} == {"EPERM"}
    events = box.trace("--syscall", "prlimit64", "--last", "10")
    assert {(event["how"], event["errno"]) for event in events} == {("continued", None), ("emulated", "EFAULT")}


def test_a_process_of_the_hosts_is_not_touched(box: whole.Box) -> None:
    """Somebody entered the container's pid namespace: its root's uid is none of the container's."""
    enter = ["nsenter", "--target", str(box.init), "--pid", "--", "sh", "-c", "ulimit -n 64; echo started; read line"]
    with subprocess.Popen(enter, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as guest:
        assert guest.stdout is not None
        assert guest.stdout.readline() == "started\n"
        listed = box.sh("cd /proc; for p in [0-9]*; do grep -qs 'sh.-c.ulimit' $p/cmdline && echo $p; done; true").split()
        assert listed
        done = box.exec(box.probe("limits"), "64", listed[0])
        assert done.stdout == "prlimit64 of a process: EPERM\n"
        [event] = box.trace("--syscall", "prlimit64", "--last", "1")
        assert "not the container's" in event["why"]
        children = Path(f"/proc/{guest.pid}/task/{guest.pid}/children").read_text().split()
        assert " 64 " in Path(f"/proc/{children[0]}/limits").read_text().partition("Max open files")[2].splitlines()[0]
        guest.communicate("\n", timeout=10)


def test_a_process_of_an_inner_pid_namespace_is_the_containers(box: whole.Box) -> None:
    """As inner engines set the limits of what they start: from outside of its pid namespace."""
    script = f"""
        mkfifo /tmp/ready
        unshare -p -f -m sh -c 'ulimit -n 64; echo >/tmp/ready; exec sleep 50' & started=$!
        cat /tmp/ready
        inner=$(grep -l "^PPid:.$started$" /proc/[0-9]*/status | cut -d/ -f3)
        {box.probe("limits")} 64 $inner
        grep 'open files' /proc/$inner/limits
        kill -9 $inner"""
    said, after = box.sh(script).split("\n")[1:3]
    if may_raise_limits():
        assert said == "prlimit64 of a process: ok"
        assert after.split()[3:5] == ["100", "65536"]
    else:
        assert said == "prlimit64 of a process: EPERM"
        assert LACK in box.trace("--syscall", "prlimit64", "--last", "1")[0]["why"]
        assert after.split()[3:5] == ["64", "64"]


def test_by_default_they_never_leave_the_kernel(host: whole.Host) -> None:
    box = host.box()
    assert {answer for call, (answer, _) in answers(box.exec(box.probe("limits"), "64")).items() if call in LENT} == {"EPERM"}
    assert not box.trace("--syscall", "prlimit64,setrlimit")
