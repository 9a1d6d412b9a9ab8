"""Ten system containers at once, and then none: no range shared, one supervisor, nothing left."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.leaks import Scope, expect_none, snapshot
from support.system_container import SystemContainer
from support.variants import MAIN, Variant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from support.engine import Engine
    from support.process import Process

pytestmark = [pytest.mark.root, pytest.mark.engine, pytest.mark.slow]

SMALL = Variant("small", underneath=MAIN.underneath, cgroup_view=MAIN.cgroup_view, image="systemd")
TEN = 10


@pytest.fixture(scope="module")
def engine(start_engine: Callable[[Variant], AbstractContextManager[Engine]]) -> Iterator[Engine]:
    with start_engine(SMALL) as started:
        yield started


def supervisors(engine: Engine) -> list[Process]:
    """The processes that run `interceptor supervise`, apart from children that they forked."""
    running = [found for found in engine.owned_processes() if "supervise" in found.text("cmdline").split("\n")]
    return [found for found in running if found.parent not in {other.pid for other in running}]


def start(engine: Engine, number: int) -> SystemContainer:
    return SystemContainer(engine, SMALL.image, f"small-{number}")


def test_ten_at_once_and_nothing_left(engine: Engine) -> None:
    # The first container brings the supervisor and what that does once; leftovers are what comes on top.
    first = start(engine, 0)
    first.wait_booted(within=30)
    first.remove()
    (supervisor,) = supervisors(engine)
    scope = Scope(
        marks=(engine.name, str(engine.directory)),
        cgroups=(engine.name,),
        namespaces_of=(*Scope().namespaces_of, engine.pid, supervisor.pid),
        directories=(engine.run, engine.state, engine.data_root / "containers"),
        id_directory=engine.state / "ids",
        fds_of=supervisor.pid,
    )
    before = snapshot(scope)
    with ThreadPoolExecutor(TEN) as pool:
        containers = list(pool.map(start, itertools.repeat(engine), range(1, TEN + 1)))
        booted = dict(
            zip(containers, pool.map(lambda container: container.wait_booted(within=90), containers), strict=True)
        )
    failed = {
        container.name: container.failed_units() for container, (state, _) in booted.items() if state != "running"
    }
    assert not failed
    ranges = sorted(id_range(container) for container in containers)
    assert all(first + length <= after for (first, length), (after, _) in itertools.pairwise(ranges)), ranges
    assert [found.identity for found in supervisors(engine)] == [supervisor.identity]
    engine.docker("rm", "--force", *(container.name for container in containers), timeout=120)
    expect_none(before, scope)


def id_range(container: SystemContainer) -> tuple[int, int]:
    """Where the container's ids lie on the host: first and number; the same for users and groups."""
    maps = {Path(f"/proc/{container.pid}/{kind}_map").read_text(encoding="ascii") for kind in ("uid", "gid")}
    (only,) = maps
    _, first, length = only.split()
    return int(first), int(length)


def test_the_supervisor_ends_when_told(engine: Engine) -> None:
    """The engine's end is the machine's shutdown as a supervisor sees it: nothing may have to be killed."""
    container = start(engine, 99)
    container.wait_booted(within=30)
    assert engine.close() == []
