"""What a device cgroup lets be opened, and what policy adds to it."""

from __future__ import annotations

from typing import Any

import pytest

from interceptor.limits import Device
from runtime.devices import lend, openable

DENY_ALL = {"allow": False, "access": "rwm"}


def rule(kind: str, major: int | None, minor: int | None, access: str = "rwm", *, allow: bool = True) -> dict[str, Any]:
    return {"allow": allow, "type": kind, "major": major, "minor": minor, "access": access}


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        ([], []),
        ([DENY_ALL, rule("c", 10, 229)], ["c 10:229"]),
        ([DENY_ALL, rule("c", 10, 229, "r"), rule("b", 8, None, "rw")], ["b 8:*", "c 10:229"]),
        ([DENY_ALL, rule("c", None, None, "m"), rule("c", 10, 229, "m")], []),
        ([rule("c", 10, 229), DENY_ALL], []),
        ([rule("c", 10, 229), rule("c", 10, 229, allow=False)], []),
        ([rule("c", 10, 229), rule("c", 10, None, allow=False)], []),
        ([rule("c", 10, None), rule("c", 10, 229, allow=False)], []),
        ([rule("c", 10, 229), rule("b", None, None, allow=False)], ["c 10:229"]),
        ([{"allow": True, "access": "rwm"}], []),
    ],
)
def test_what_may_be_opened(rules: list[dict[str, Any]], found: list[str]) -> None:
    assert openable(rules) == found


def test_what_policy_lends_can_be_opened() -> None:
    lent = (Device("c", 10, 229, "x"), Device("c", 116, None, "x"), Device("c", None, None, "x"))
    fuse, sound = {"allow": True, "type": "c", "access": "rwm", "major": 10, "minor": 229}, {
        "allow": True, "type": "c", "access": "rwm", "major": 116,
    }  # fmt: skip
    assert lend([DENY_ALL], lent) == [DENY_ALL, fuse, sound]
