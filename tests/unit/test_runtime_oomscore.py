"""What a container is lent of oom_score_adj; tests/kernel/test_oom_score_adj.py sees what the kernel makes of it."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.oomscore import OomScore, given, lend

LIMITED = {"memory": {"limit": 1 << 29}}


def config(score: int | None = 0, resources: dict[str, Any] | None = None) -> dict[str, Any]:
    process = {} if score is None else {"oomScoreAdj": score}
    return {"process": process, "linux": {"resources": LIMITED if resources is None else resources}}


def test_policy_lends_a_floor_and_the_engine_says_the_value() -> None:
    assert lend(config(100), -999, None) == OomScore(-999, 100)
    assert lend(config(None), -999, None) == OomScore(-999, None)


@pytest.mark.parametrize("resources", [{}, {"memory": {}}, {"memory": {"limit": -1}}, {"memory": {"limit": 0}}])
def test_nothing_where_memory_is_not_limited(resources: dict[str, Any]) -> None:
    assert lend(config(0, resources), -999, None) is None


def test_nothing_where_the_engine_gives_as_much_or_policy_none() -> None:
    assert lend(config(-999), -999, None) is None
    assert lend(config(-1000), -999, None) is None
    assert lend(config(0), None, None) is None


def test_without_the_capability_the_value_is_what_we_can_go_down_to() -> None:
    assert lend(config(-500), -999, 0) == OomScore(-999, 0)


def test_a_further_process_may_begin_with_another() -> None:
    assert OomScore(-900, 0).beginning_with(None) == OomScore(-900, 0)
    assert OomScore(-900, 0).beginning_with(50) == OomScore(-900, 50)
    assert OomScore(-900, 0).beginning_with(-950) == OomScore(-950, -950)


@pytest.mark.parametrize(
    ("score", "ours", "taken"),
    [(None, None, None), (300, None, 300), (-500, None, -500), (-500, 0, 0), (300, 0, 300), (0, 0, 0)],
)
def test_what_an_engine_says_of_a_further_process(score: int | None, ours: int | None, taken: int | None) -> None:
    """Floor and value alike, as where a runtime writes it with all rights."""
    assert given(score, ours) == (None if taken is None else OomScore(taken, taken))
