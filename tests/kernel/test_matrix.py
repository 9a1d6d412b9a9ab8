"""The native matrix: what host root gets, what a container's root gets from the kernel alone, and what with us.

A family of probes is a program, tests/support/matrix_FAMILY.c (see matrix.h), and a table,
tests/data/matrix/FAMILY.txt, with one row for each probe:

    what               | host root | container root | with interceptor | why

Every cell is compared, on runc and crun; "EPERM or ok" is what differs between hosts, "as host root" and "as container root"
are what was found there. A kernel that lacks what a probe asks for says so to host root; such a row is left out, aloud.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from support import cgroups, whole
from support.probes import probe

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

TABLES = Path(__file__).parent.parent / "data/matrix"
FAMILIES = sorted(path.stem for path in TABLES.glob("*.txt"))
POLICIES = {"xattr": "xattr", "chown": "chown", "ceilings": "ceilings"}
"""Family → the policy under which its last column was written; else the shipped default."""
PROGRAMS = {"ceilings": "limits"}
"""Family → the one whose probes it has, under another policy."""
CEILINGS = """\
extends: [default]
selectable: true
limits:
  rlimits: {nofile: 65536, memlock: unlimited}
  nice: -5
  realtime-priority: 10
  io-realtime: 4
  oom-score-adj: -900
"""
NATIVE = "bare"
"""Whose container shows the kernel's own /proc and /sys; it is entered past the filter."""
ABSENT = ("ENODEV", "ENOSYS", "EOPNOTSUPP")
"""What host root hears of something that this kernel was built without."""


class Row(NamedTuple):
    what: str
    host: str
    native: str
    ours: str


def table(family: str) -> list[Row]:
    lines = (TABLES / f"{family}.txt").read_text().splitlines()
    cells = ([cell.strip() for cell in line.split("|")] for line in lines if line and not line.startswith("#"))
    return [Row(*row[:4]) for row in cells]


def answers(text: str) -> dict[str, str]:
    rows = (line.partition(" | ") for line in text.splitlines())
    return {what: answer for what, _, answer in rows}


def on_the_host(family: str) -> dict[str, str]:
    """As real root, in namespaces that end with the program."""
    program = probe(f"matrix_{PROGRAMS.get(family, family)}")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        command = ["unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--fork", "--mount-proc"]
        done = subprocess.run([*command, program, directory], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return answers(done.stdout)


@pytest.fixture(scope="module", params=["runc", "crun"])
def host(request: pytest.FixtureRequest) -> Iterator[whole.Host]:
    with whole.host(request.param, {"ceilings": CEILINGS}) as host:
        yield host


@pytest.fixture(scope="module")
def boxes(host: whole.Host) -> dict[str, whole.Box]:
    """By policy."""
    return {policy: box(host, policy) for policy in {whole.ALL, NATIVE, *POLICIES.values()}}


def box(host: whole.Host, policy: str) -> whole.Box:
    """With a memory limit, which is the condition for a floor of oom_score_adj, and with real-time, of which a group has none
    with CONFIG_RT_GROUP_SCHED and cgroup v1 until it is given some: EPERM, also for host root.
    """
    made = whole.Box(host, policy, ())
    if "memory" in cgroups.controllers():
        made.change(lambda values: values["linux"].setdefault("resources", {}).update(memory={"limit": 256 << 20}))
    host.undo.callback(made.remove)
    made.start()
    for share in Path("/sys/fs/cgroup").glob(f"cpu{made.cgroup}/cpu.rt_runtime_us"):
        share.write_text("10000")
    return made


def wrong(row: Row, found: list[str]) -> Iterator[tuple[str, str, str]]:
    """(column, what was found, what the table has) of each cell that is otherwise."""
    same = {"as host root": found[0], "as container root": found[1]}
    for column, answer, cell in zip(Row._fields[1:], found, row[1:], strict=True):
        if answer not in [same.get(word, word) for word in cell.split(" or ")]:
            yield column, answer, cell


@pytest.mark.parametrize("family", FAMILIES)
def test_every_cell(boxes: dict[str, whole.Box], family: str, record_property: pytest.RecordProperty) -> None:
    box = boxes[POLICIES.get(family, whole.ALL)]
    name, bare = f"matrix_{PROGRAMS.get(family, family)}", boxes[NATIVE]
    program = box.probe(name)
    bare.probe(name)
    native = bare.unfiltered("sh", "-c", f"mkdir -p /data/native-{family} && exec {program} /data/native-{family}")
    ours = box.exec("sh", "-c", f"mkdir -p /data/ours-{family} && exec {program} /data/ours-{family}")
    assert native.returncode == ours.returncode == 0, native.stderr + ours.stderr
    found = [on_the_host(family), answers(native.stdout), answers(ours.stdout)]
    rows = table(family)
    assert [row.what for row in rows] == list(found[2]), "the table's rows are the program's probes, in their order"
    absent = [
        row.what for row in rows if found[0][row.what] in ABSENT and found[0][row.what] not in row.host.split(" or ")
    ]
    record_property("absent", absent)
    different = [
        f"{row.what} ({column}): {answer}, the table has {cell}"
        for row in rows
        if row.what not in absent
        for column, answer, cell in wrong(row, [one[row.what] for one in found])
    ]
    assert not different, "\n".join(different)
    assert not [event for event in box.trace() if event["how"] == "failed"]
    if absent:
        pytest.skip(f"checked, but for what this kernel lacks: {', '.join(absent)}")
