"""setpriority(2), sched_setscheduler(2) and its like, and ioprio_set(2), with and without the filter, by both ABIs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import whole
from support.both_abis import MARKS, answers
from support.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = MARKS

CEILINGS = """\
extends: [default]
selectable: true
limits: {nice: -5, realtime-priority: 10, io-realtime: 4}
"""
LENT = {
    "setpriority of itself": "  nice -5, child 19",
    "setpriority of the child": "  nice 19, child -4",
    "setpriority back": "  nice 3, child 19",
    "sched_setscheduler of itself": "  policy 0x1/1, child 0/0",
    "sched_setscheduler of the child, up to the end of a page": "  policy 0/0, child 0x40000002/10",
    "sched_setparam of the child, lower": "  policy 0/0, child 0x40000002/1",
    "sched_setparam of the child, higher again": "  policy 0/0, child 0x40000002/10",
    "sched_setattr nice of itself": "  nice -5, child 19,  policy 0/0, child 0x40000002/10",
    "sched_setattr nice of the child, at the end of a page": "  nice 19, child -1,  policy 0/0, child 0x3/0",
    "sched_setattr nice, without a size": "  nice 2, child 19,  policy 0/0, child 0/0",
    "sched_setattr nice, of a later form": "  nice -2, child 19,  policy 0/0, child 0/0",
    "sched_setattr nice, of a form to come": "  nice -2, child 19,  policy 0/0, child 0/0",
    "sched_setattr nice of the child, which resets": "  nice 19, child -3,  policy 0/0, child 0x40000000/0",
    "sched_setattr SCHED_FIFO of itself": "  nice 19, child 19,  policy 0x1/10, child 0x40000000/0",
    "sched_setattr SCHED_RR of the child, which resets": "  nice 19, child 19,  policy 0/0, child 0x40000002/1",
    "ioprio_set of itself": "  io 0x2004, child 0x4004",
    "ioprio_set of the child": "  io 0x4004, child 0x2007",
}
"""What succeeds with the ceilings above, and what the program sees then. (The child keeps SCHED_RESET_ON_FORK.)"""
RIGHTS_FIRST = {"ioprio_set of nobody": "ESRCH"}
"""Where the kernel asks for the capability before it looks for the task: what real root hears."""


@pytest.fixture(scope="module")
def box() -> Iterator[whole.Box]:
    with whole.host("runc", {"ceilings": CEILINGS}) as host:
        box = host.box("ceilings")
        # With CONFIG_RT_GROUP_SCHED and cgroup v1 a group has no real-time until it is given some: EPERM, also for host root.
        for share in Path("/sys/fs/cgroup").glob(f"cpu{box.cgroup}/cpu.rt_runtime_us"):
            share.write_text("10000")
        yield box


@pytest.mark.parametrize("abi", ["64", "32"])
def test_up_to_the_ceilings_it_is_done_and_all_else_is_the_kernels(box: whole.Box, abi: str) -> None:
    program = (box.probe("priorities"), abi)
    kernel, ours = answers(box.unfiltered(*program)), answers(box.exec(*program))
    for call, (answer, after) in ours.items():
        if call in LENT:
            refusal = ("EINVAL",) if call.startswith("sched_setparam") else ("EPERM", "EACCES")  # there it is SCHED_OTHER
            assert kernel[call][0] in refusal, call
            assert (answer, after) == ("ok", LENT[call]), call
        else:
            assert answer == RIGHTS_FIRST.get(call, kernel[call][0]), call


def test_the_trace_says_what_was_beyond(box: whole.Box) -> None:
    assert box.exec("sh", "-c", "busybox renice -n -25 -p $$").returncode == 1
    [event] = box.trace("--syscall", "setpriority", "--last", "1")
    assert "limits: nice:" in event["why"]


def test_others_than_root_get_the_kernels_answer(box: whole.Box) -> None:
    done = box.exec("sh", "-c", "busybox renice -n -3 -p $$", user="1000:1000")
    assert "Permission denied" in done.stderr


def test_tasks_that_end_meanwhile_are_nobody_and_nothing_is_left(box: whole.Box) -> None:
    supervisor = Path(f"/proc/{box.host.supervisor_pid()}")
    before = len(list((supervisor / "fd").iterdir()))
    each = f"busybox sleep {0.005 * PATIENCE:g} & busybox renice -n -2 -p $! 2>/dev/null || true"
    box.sh(f"for j in 1 2 3; do (for i in $(seq 1 60); do {each}; done; wait) & done; wait; true")
    asked = os.getpriority(os.PRIO_PROCESS, 0) - 2  # the container has the nice value of this test
    events = [event for event in box.trace("--syscall", "setpriority") if event["args"]["prio"] == asked]
    assert len(events) >= 90, "all 180, but where renice has asked for the nice value of one that was gone by then"
    assert {event["errno"] for event in events} <= {None, "ESRCH"}
    assert len(list((supervisor / "fd").iterdir())) <= before + 2
    assert not (supervisor / "task" / supervisor.name / "children").read_text().split()


def test_a_process_of_the_hosts_is_not_touched(box: whole.Box) -> None:
    """Somebody entered the container's pid namespace: its root's uid is none of the container's."""
    enter = ["nsenter", "--target", str(box.init), "--pid", "--", "sh", "-c", "echo started; read line"]
    with subprocess.Popen(enter, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as guest:
        assert guest.stdout is not None
        assert guest.stdout.readline() == "started\n"
        listed = box.sh("cd /proc; for p in [0-9]*; do grep -qs 'sh.-c.echo' $p/cmdline && echo $p; done; true").split()
        assert listed
        done = box.exec("busybox", "renice", "-n", "-2", "-p", listed[0])
        assert "Operation not permitted" in done.stderr
        guest.communicate("\n", timeout=10)


def test_by_default_they_never_leave_the_kernel() -> None:
    with whole.host("runc") as host:
        box = host.box()
        assert "Permission denied" in box.exec("sh", "-c", "busybox renice -n -3 -p $$").stderr
        assert not box.trace("--syscall", "setpriority")
