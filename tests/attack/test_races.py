"""What changes while an intercepted call is decided changes nothing that was decided: no way past policy, no act outside
the container, every mount accounted for.

The programs (tests/support/races.c, deaths.c) keep the books: after each 64 calls they compare the mounts that there are with
the calls that succeeded. Here it is asked what the outcomes were, and that the host is as it was. Whatever a path may lead to
inside is there outside as well, by the same name, so that who resolves one in the wrong root finds something to act on.

The rounds are few here; `make attack` makes a million of each.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from runtime.process import may_raise_limits

if TYPE_CHECKING:
    from support import whole

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

ROUNDS = int(os.environ.get("INTERCEPTOR_ATTACK_ROUNDS", "1500"))
FEWER = (ROUNDS + 9) // 10
"""For what takes several calls, or is no way to act elsewhere than where a path leads."""
SLICE = 50_000
"""Rounds of one process in the container."""
SECONDS = 600 + ROUNDS / 50
DIRECTORIES = ("flip/in", "directory/in", "link/in", "trap/in", "jail/in", "in", "target")
SOMEBODY = 70_000
"""An owner on disk who is nobody in a container of 65,536 ids."""


@pytest.fixture
def place(lent: whole.Box, request: pytest.FixtureRequest) -> Path:
    """A directory of the test's own, of the same name in the container and on the host."""
    at = lent.host.directory / re.sub(r"\W", "-", request.node.name)
    for name in DIRECTORIES:
        (at / name).mkdir(parents=True)
    inside = below(lent, at)
    inside.mkdir(parents=True)
    (lent.rootfs / "in").unlink(missing_ok=True)
    (lent.rootfs / "in").symlink_to(at / "in")
    for name in ("own", "theirs"):
        (inside / name).touch()
    os.chown(inside / "theirs", SOMEBODY, SOMEBODY)
    return at


def below(box: whole.Box, place: Path) -> Path:
    """Where the host finds the container's directory of that name."""
    return box.rootfs / place.relative_to("/")


def mounts_of_others(box: whole.Box, place: Path) -> list[str]:
    """What is mounted in the place, where the engine lives and where the supervisor does."""
    supervisors = Path(f"/proc/{box.host.supervisor.pid}/mountinfo").read_text()
    engines = box.host.run("cat", "/proc/self/mountinfo").stdout
    points = [line.split()[4] for line in (supervisors + engines).splitlines()]
    return [point for point in points if Path(point).is_relative_to(place)]


def of_the_host(box: whole.Box, place: Path) -> list[str]:
    """What there is in the place, outside."""
    return [*mounts_of_others(box, place), *sorted(str(path) for path in place.rglob("*"))]


def race(box: whole.Box, place: Path, mode: str, program: str = "races", rounds: int = ROUNDS) -> Counter[str]:
    """Runs one, slice by slice, and says what came of it."""
    before, begin = of_the_host(box, place), time.monotonic()
    found: Counter[str] = Counter()
    for first in range(0, rounds, SLICE):
        found += _slice(box, place, [box.probe(program, "-pthread", "-static"), mode, str(min(SLICE, rounds - first))])
        assert of_the_host(box, place) == before
    print(_summary(f"{mode} on {box.host.runtime}", found, time.monotonic() - begin))
    assert (found["calls"], found["wrong"]) == (rounds, 0)
    assert found["raced"] > 0
    assert box.host.supervisor.poll() is None
    assert box.sh("echo alive; cat /kept") == "alive\nfrom the engine\n"
    return found


def _slice(box: whole.Box, place: Path, words: list[str]) -> Counter[str]:
    said = box.exec(*words, str(place), timeout=300 + SLICE / 50)
    if (said.returncode, said.stderr) != (0, ""):
        trace = "\n".join(box.lines()[-20:])
        pytest.fail(f"{said.stdout}{said.stderr}{trace}\n{box.host.log.read_text()[-2000:]}")
    pairs = said.stdout.split()
    return Counter({key: int(value) for key, value in zip(pairs[::2], pairs[1::2], strict=True)})


def _summary(what: str, found: Counter[str], seconds: float) -> str:
    outcomes = ", ".join(f"{key} {value:,}" for key, value in found.items() if key not in ("calls", "raced", "flips"))
    raced = f"{found['raced']:,} while something changed ({found['flips']:,} times)"
    return f"\nrace {what}: {found['calls']:,} calls in {seconds:.0f} s, {raced}; {outcomes}"


def where(found: Counter[str]) -> set[str]:
    """PATH:TYPE of the mounts."""
    return {key for key in found if ":" in key}


def beneath(*places: str) -> set[str]:
    """A proc, or the stand-in for a debugfs, in any of them."""
    return {f"{name}:{fstype}" for name in places for fstype in ("proc", "tmpfs")}


@pytest.mark.timeout(SECONDS)
def test_a_type_that_changes(lent: whole.Box, place: Path) -> None:
    found = race(lent, place, "type")
    assert where(found) == beneath("target")
    assert found["mounted"] == found["succeeded"]
    assert set(found) >= {"ENODEV"}  # the type that is none


@pytest.mark.timeout(SECONDS)
def test_options_that_change(lent: whole.Box, place: Path) -> None:
    found = race(lent, place, "flags")
    assert where(found) == {"target:proc:hidepid=noaccess", "target:proc:hidepid=invisible"}
    assert found["mounted"] == found["noexec"] == found["succeeded"]
    assert found["EINVAL"] == ROUNDS - found["succeeded"]


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize(
    ("mode", "places"),
    [("target", ("flip/in", "trap/in")), ("exchange", ("flip/in", "link/in", "trap/in")), ("root", ("in", "jail/in"))],
)
def test_paths_that_change(lent: whole.Box, place: Path, mode: str, places: tuple[str, ...]) -> None:
    """Wherever the mount ends up, it is in the container and it is what was asked for."""
    found = race(lent, place, mode)
    assert where(found) <= beneath(*places)
    assert {key.partition(":")[0] for key in where(found)} >= {places[0], places[-1]}
    assert found["mounted"] == found["succeeded"]


@pytest.mark.timeout(SECONDS)
def test_a_mount_from_the_start_stays(lent: whole.Box, place: Path) -> None:
    """EBUSY is our answer; EINVAL the kernel's, which read another string than we did and has that mount locked."""
    found = race(lent, place, "umount")
    assert found["succeeded"] + found["EBUSY"] + found["EINVAL"] == ROUNDS
    assert found["succeeded"] > 0
    assert found["EBUSY"] > 0


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("mode", ["nice", "limit"])
def test_numbers_in_memory_that_change(lent: whole.Box, place: Path, mode: str) -> None:
    """What is set is what was found to be within the ceiling."""
    found = race(lent, place, mode)
    assert found["EPERM"] > 0
    if mode == "nice" or may_raise_limits():
        assert found["succeeded"] > 0


@pytest.mark.timeout(SECONDS)
def test_descriptors_that_change(lent: whole.Box, place: Path) -> None:
    """What is mounted is one of the two contexts, and each only once."""
    found = race(lent, place, "descriptor", rounds=FEWER)
    assert where(found) <= beneath("flip/in", "link/in", "trap/in")
    assert found["mounted"] == found["succeeded"] > 0


@pytest.mark.timeout(SECONDS)
def test_nodes_whose_path_changes(lent: whole.Box, place: Path) -> None:
    found = race(lent, place, "node", rounds=FEWER)
    assert found["flip"] + found["link"] + found["trap"] == found["succeeded"]
    assert found["trap"] > 0


@pytest.mark.timeout(SECONDS)
def test_attributes_of_files_that_change(lent: whole.Box, place: Path) -> None:
    """One file is the container's, the other somebody else's."""
    found = race(lent, place, "attribute", rounds=FEWER)
    assert found["succeeded"] > 0
    assert found["EPERM"] > 0
    inside = below(lent, place)
    assert os.listxattr(inside / "own") == ["trusted.race"]
    assert os.listxattr(inside / "theirs") == []


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("mode", ["exit", "exec"])
def test_callers_that_die(lent: whole.Box, place: Path, mode: str) -> None:
    """Each mount that was made is one of a call, and nothing is written to a program that did not ask."""
    found = race(lent, place, mode, "deaths")
    assert where(found) == beneath("target")
    assert found["mounted"] >= found["succeeded"]
    status = Path(f"/proc/{lent.host.supervisor.pid}/status").read_text()
    assert int(re.findall(r"Threads:\t(\d+)", status)[0]) < 40


def test_a_mount_outside_would_be_seen(lent: whole.Box, place: Path) -> None:
    """What the races look for, done on purpose."""
    before = of_the_host(lent, place)
    for name in ("flip/in", "trap/in", "jail/in"):
        assert lent.host.run("mount", "-t", "tmpfs", "none", place / name).returncode == 0
        seen = of_the_host(lent, place)
        lent.host.run("umount", place / name)
        assert seen != before
    assert of_the_host(lent, place) == before
