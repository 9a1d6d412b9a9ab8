"""The native matrix: what host root gets, what a container's root gets from the kernel alone, and what with us.

A family of probes is a program, tests/support/matrix_FAMILY.c (see matrix.h), and a table,
tests/data/matrix/FAMILY.txt, with one row for each probe:

    what               | host root | container root | with interceptor | why

Every cell is compared, on runc and crun; "EPERM or ok" is what differs between hosts. A kernel that lacks what a probe
asks for says so to host root; such a row is left out, aloud.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from support import whole
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
POLICIES = {"xattr": "xattr", "chown": "chown"}
"""Family → the policy under which its last column was written; else the shipped default."""
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
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        command = ["unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--fork", "--mount-proc"]
        done = subprocess.run(
            [*command, probe(f"matrix_{family}"), directory], capture_output=True, text=True, check=False, timeout=60
        )
    assert done.returncode == 0, done.stderr
    return answers(done.stdout)


@pytest.fixture(scope="module", params=["runc", "crun"])
def host(request: pytest.FixtureRequest) -> Iterator[whole.Host]:
    with whole.host(request.param) as host:
        yield host


@pytest.fixture(scope="module")
def boxes(host: whole.Host) -> dict[str, whole.Box]:
    """By policy."""
    return {policy: host.box(policy) for policy in {whole.ALL, NATIVE, *POLICIES.values()}}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_cell(boxes: dict[str, whole.Box], family: str, record_property: pytest.RecordProperty) -> None:
    box = boxes[POLICIES.get(family, whole.ALL)]
    program, bare = box.probe(f"matrix_{family}"), boxes[NATIVE]
    bare.probe(f"matrix_{family}")
    native = bare.unfiltered("sh", "-c", f"mkdir -p /data/native-{family} && exec {program} /data/native-{family}")
    ours = box.exec("sh", "-c", f"mkdir -p /data/ours-{family} && exec {program} /data/ours-{family}")
    assert native.returncode == ours.returncode == 0, native.stderr + ours.stderr
    found = [on_the_host(family), answers(native.stdout), answers(ours.stdout)]
    rows = table(family)
    assert [row.what for row in rows] == list(found[2]), "the table's rows are the program's probes, in their order"
    absent = [row.what for row in rows if found[0][row.what] in ABSENT and row.host not in ABSENT]
    record_property("absent", absent)
    different = [
        f"{row.what} ({column}): {answer}, the table has {cell}"
        for row in rows
        if row.what not in absent
        for column, answer, cell in zip(Row._fields[1:], (f[row.what] for f in found), row[1:], strict=True)
        if answer not in cell.split(" or ")
    ]
    assert not different, "\n".join(different)
    assert not [event for event in box.trace() if event["how"] == "failed"]
    if absent:
        pytest.skip(f"checked, but for what this kernel lacks: {', '.join(absent)}")
