"""oom_score_adj in containers, by the kernel's own rule: between the floor and 1000, and reported as it was written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import cgroups, whole

from runtime import process

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.skipif("memory" not in cgroups.controllers(), reason="memory cannot be limited here"),
]

POLICIES = {
    "protected": "extends: [default]\nselectable: true\nlimits: {oom-score-adj: -900}\n",
}
SET = "echo %d > /proc/self/oom_score_adj && cat /proc/self/oom_score_adj"


@pytest.fixture(scope="module", params=["runc", "crun"])
def host(request: pytest.FixtureRequest) -> Iterator[whole.Host]:
    with whole.host(request.param, POLICIES) as found:
        yield found


def box(host: whole.Host, *, limited: bool) -> whole.Box:
    made = whole.Box(host, "protected", ())

    def edit(values: dict) -> None:  # type: ignore[type-arg]
        values["process"]["oomScoreAdj"] = 300
        if limited:
            values["linux"].setdefault("resources", {})["memory"] = {"limit": 64 << 20}

    made.change(edit)
    host.undo.callback(made.remove)
    made.start()
    return made


needs_capability = pytest.mark.skipif(
    not process.may_raise_limits(), reason="this host's root has no CAP_SYS_RESOURCE: nobody can lower anything"
)


def test_it_begins_as_its_engine_said_and_can_be_raised(host: whole.Host) -> None:
    for limited in (True, False):
        made = box(host, limited=limited)
        assert Path(f"/proc/{made.init}/oom_score_adj").read_text().strip() == "300"
        assert made.sh(SET % 1000).strip() == "1000"
        assert "Permission denied" in made.exec("sh", "-euc", SET % -901).stderr


@needs_capability
def test_a_limited_container_moves_between_its_floor_and_1000(host: whole.Host) -> None:
    made = box(host, limited=True)
    for score in (299, 0, -900):
        assert made.sh(SET % score).strip() == str(score)
    script = "echo -900 > /proc/self/oom_score_adj; sh -c 'cat /proc/self/oom_score_adj; echo 10 > /proc/$PPID/oom_score_adj'"
    assert made.sh(f"{script}; cat /proc/self/oom_score_adj").split() == ["-900", "10"]


@needs_capability
def test_one_without_a_limit_goes_no_lower_than_its_engine_said(host: whole.Host) -> None:
    """Its init and that one's children; what crun's exec starts has the score of crun itself when nothing is said of it."""
    lowered = box(host, limited=False).exec("sh", "-euc", "echo 299 > /proc/1/oom_score_adj")
    assert "Permission denied" in lowered.stderr
