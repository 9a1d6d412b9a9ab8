"""Every intercepted call with arguments as no program should give them: what it hears is what the kernel alone would say.

The oracle is the same program in the same namespaces of the same container, without the filter; for what policy lends, the
program as root of the host, in namespaces and a directory of its own. Every difference is a row of tests/data/poison.txt, with
its reason. The cases follow from the registry (support/poison.py): a call that is new there is tried here.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from support import poison, whole
from support.both_abis import MARKS
from support.probes import probe

from interceptor import registry
from interceptor.args import Arch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from interceptor.registry import Syscall

pytestmark = [*MARKS, pytest.mark.slow]

ROWS = registry.load()
CEILINGS = "limits: {nice: -5, realtime-priority: 10, io-realtime: 4, rlimits: {nofile: 2097152}, loop-devices: 2}\n"
BY_US = "{caller: {executable: /probe/*}}"
HANDLED, SHIPPED, REFUSED = "handled", "shipped", "refused"
POLICIES = {
    # Every call at its handler.
    HANDLED: f"extends: [default]\nselectable: true\n{CEILINGS}calls:\n"
    + "".join(f"  {name}: [{{do: emulate}}]\n" for name in ROWS),
    # What filter and table decide, too.
    SHIPPED: "extends: [xattr, chown]\nselectable: true\n",
    # A rule that neither of them can decide, and that runc's own calls do not meet.
    REFUSED: "extends: [default]\nselectable: true\ncalls:\n"
    + "".join(f"  {name}: [{{when: {BY_US}, do: {{deny: EXDEV}}}}, {{do: native}}]\n" for name in ROWS),
}
WIDE, NARROW, OTHER = "x86-64", "i386", "i386's calls by a 64-bit program"
WAYS = {WIDE: (Arch.X86_64, Arch.X86_64), NARROW: (Arch.I386, Arch.I386), OTHER: (Arch.I386, Arch.X86_64)}
"""The ABI of the calls, and of the program."""
OPTIONS = (
    "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-pie", "-no-pie", "-mno-red-zone",
    "-fno-tree-loop-distribute-patterns", "-I/usr/include/x86_64-linux-gnu",
)  # fmt: skip
"""No C library: it is built for i386 without one."""
TABLE = Path(__file__).parent.parent / "data/poison.txt"
HOST = "host"
UNSHARED = ("unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--fork", "--mount-proc")


class Difference(NamedTuple):
    """A row of the table."""

    call: str
    who: str
    case: str
    kernel: str
    ours: str

    def fits(self, case: poison.Case, who: str, answer: object) -> bool:
        found = (case.call, who, case.what, str(answer))
        return all(_matches(text, cell) for text, cell in zip(found, self[:4], strict=True))


def _matches(text: str, cell: str) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in cell.split(" or "))


def _table() -> list[Difference]:
    lines = (line.split("|") for line in TABLE.read_text().splitlines() if line and not line.startswith("#"))
    return [Difference(*(cell.strip() for cell in line[:5])) for line in lines]


DIFFERENCES = _table()
LENT = " or ".join(difference.call for difference in DIFFERENCES if difference.ours == HOST)
AS_ON_THE_HOST = {name: row for name, row in ROWS.items() if _matches(name, LENT)}


@pytest.fixture(scope="module")
def host() -> Iterator[whole.Host]:
    with whole.host("runc", POLICIES) as host:
        yield host


@pytest.fixture(scope="module")
def boxes(host: whole.Host) -> dict[str, whole.Box]:
    return {name: host.box(name) for name in POLICIES}


def program(own: Arch) -> Path:
    return probe("poison", *OPTIONS, *(("-m32",) if own is Arch.I386 else ()))


def made(box: whole.Box, script: poison.Script, *, filtered: bool) -> Sequence[poison.Report]:
    """What the program reports from a directory of its own in the container."""
    (box.rootfs / "probe/cases").write_bytes(script.text())
    inside = box.add(program(script.own))
    directory = tempfile.mkdtemp(dir=box.rootfs / "data", prefix="poison-")
    Path(directory).chmod(0o755)
    run = f"cd /data/{Path(directory).name} && exec {inside} </probe/cases >/data/reports"
    done = (box.exec if filtered else box.unfiltered)("sh", "-c", run, timeout=120)
    return _reports(script, done, (box.rootfs / "data/reports").read_bytes())


def made_on_the_host(script: poison.Script, near: Path) -> Sequence[poison.Report]:
    """As real root, in namespaces that end with the program, on the filesystem of the containers."""
    with tempfile.TemporaryDirectory(dir=near) as directory:
        shutil.copy2(program(script.own), f"{directory}/program")
        done = subprocess.run(
            [*UNSHARED, "chroot", directory, "/program"], input=script.text(), capture_output=True, check=False, timeout=120
        )
    return _reports(script, done, done.stdout)


def _reports(script: poison.Script, done: subprocess.CompletedProcess[str], output: bytes) -> Sequence[poison.Report]:
    reports = poison.reports(output)
    assert done.returncode == 0, done.stderr
    assert len(reports) == len(script.cases)
    return reports


def on_the_host(who: str, way: str, near: Path) -> dict[poison.Case, poison.Report]:
    script = poison.poisoned(AS_ON_THE_HOST, who, *WAYS[way])
    return dict(zip(script.cases, made_on_the_host(script, near), strict=True))


COMBINATIONS = [
    (poison.ROOT, WIDE, HANDLED),
    (poison.ROOT, OTHER, HANDLED),
    (poison.ROOT, WIDE, SHIPPED),
    (poison.USER, WIDE, HANDLED),
    (poison.NESTED, WIDE, HANDLED),
]


@pytest.mark.parametrize(("who", "way", "policy"), COMBINATIONS)
def test_every_answer_is_the_kernels_own(boxes: dict[str, whole.Box], who: str, way: str, policy: str) -> None:
    box = boxes[policy]
    script = poison.poisoned(ROWS, who, *WAYS[way])
    assert {case.call for case in script.cases} == {row.name for row in ROWS.values() if row.number(script.arch) is not None}
    native = made(box, script, filtered=False)
    host = on_the_host(who, way, box.host.directory) if who == poison.ROOT else {}
    ours = made(box, script, filtered=True)
    wrong = []
    for case, kernels, found in zip(script.cases, native, ours, strict=True):
        if found == kernels:
            continue
        row = next((d for d in DIFFERENCES if d.fits(case, who, kernels)), None)
        wanted = row.ours if row else str(kernels)
        if row and row.ours == HOST:
            if found == host[case]:
                continue
            wanted = f"{host[case]} {host[case]!r}"
        if row is None or not _matches(str(found), wanted):
            wrong.append(f"{case}: {found} {found!r}\n    kernel  {kernels} {kernels!r}\n    wanted  {wanted}")
    assert not wrong, f"{len(wrong)} of {len(ours)}:\n" + "\n".join(wrong[:100])
    assert not [event for event in box.trace() if event["how"] == "failed"]
    assert "handler failed" not in box.host.log.read_text()


@pytest.mark.parametrize("way", [WIDE, NARROW])
def test_no_argument_is_a_way_around_a_refusal(boxes: dict[str, whole.Box], way: str) -> None:
    """What cannot be decoded is an error of the caller's, and all else is refused: nothing reaches the kernel."""
    script = poison.poisoned(ROWS, poison.ROOT, *WAYS[way])
    reports = made(boxes[REFUSED], script, filtered=True)
    told = {"EXDEV", "EFAULT", "ENAMETOOLONG", "ENOENT", "EINVAL", "ERANGE"}
    through = [f"{case}: {found}" for case, found in zip(script.cases, reports, strict=True) if str(found) not in told]
    only_asks = [f"prlimit64: good {number}, new_limit NULL: ok" for number in range(2)]
    assert through == only_asks, "\n".join(through)


def same(row: Syscall) -> str:
    """What a call of i386 only is called on x86-64."""
    return {"stime": "settimeofday"}.get(row.name, row.name.removesuffix("32").removesuffix("64"))


@pytest.mark.parametrize("policy", [HANDLED, SHIPPED])
def test_a_program_of_i386_gets_what_one_of_x86_64_gets(boxes: dict[str, whole.Box], policy: str) -> None:
    """Every intercepted call, with good arguments."""
    found = {}
    for way in (WIDE, NARROW):
        script = poison.poisoned(ROWS, poison.ROOT, *WAYS[way], bad=False)
        reports = made(boxes[policy], script, filtered=True)
        found[way] = {(same(ROWS[case.call]), case.what): r for case, r in zip(script.cases, reports, strict=True)}
        del found[way]["setrlimit", "good 1"]  # of longs: it says something else there
    assert found[NARROW] == found[WIDE]


def test_options_are_cut_where_a_page_ends(boxes: dict[str, whole.Box]) -> None:
    """mount(2)'s data: the last option that fits is "gid=5", and "gid=55" would be another."""
    box, found = boxes[HANDLED], {}
    for filtered in (False, True):
        script = poison.Script(Arch.X86_64, Arch.X86_64)
        for commas in range(4088, 4093):
            script.do("mkdir", f"/mnt/{commas}", 0o755)
            script.do("mount", "source", f"/mnt/{commas}", "proc", 0, "," * commas + "gid=5555")
        made(box, script, filtered=filtered)
        rows = [line for line in box.sh("cat /proc/self/mountinfo").splitlines() if " /mnt/4" in line]
        found[filtered] = {line.split()[4]: line.rpartition(" ")[2] for line in rows}
        box.sh("umount " + " ".join(found[filtered]))
    assert len(found[True]) > 2
    assert found[True] == found[False]
