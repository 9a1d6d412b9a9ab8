"""Calls that libseccomp does not know, where policy decides about them."""

from __future__ import annotations

import errno

import pytest
from support.sources import REPOSITORY

from interceptor import registry
from interceptor.args import Arch
from interceptor.calltext import parse
from interceptor.explain import Rung, explain
from interceptor.policy_file import load_all
from interceptor.registry import YOUNG
from interceptor.stanza import absent, rules, unwritten
from interceptor.verdict import Fail

ROWS = registry.load()
SHIPPED = load_all([REPOSITORY / "policies"])
XATTRS = sorted(number for name, number in YOUNG.items() if "xattr" in name)
known = ROWS["setxattrat"].number(Arch.X86_64) is not None


def test_by_default_nothing_is_absent() -> None:
    assert absent(ROWS, SHIPPED.get("default"), knows_young=True) == []
    assert absent(ROWS, SHIPPED.get("default"), knows_young=False) == []


def test_what_a_policy_decides_about_is_absent_where_nobody_could_write_it() -> None:
    policy = SHIPPED.get("xattr")
    assert absent(ROWS, policy, knows_young=False) == XATTRS
    assert absent(ROWS, policy, knows_young=True) == ([] if known else XATTRS)


def test_it_is_written_or_absent() -> None:
    policy = SHIPPED.get("xattr")
    written = {name for rule in rules(ROWS, policy) for name in rule["names"]}
    for name in YOUNG:
        assert unwritten(ROWS[name], policy) == ("xattr" in name and name not in written)


@pytest.mark.skipif(known, reason="libseccomp knows them all")
def test_an_explanation_says_so() -> None:
    found = explain(parse('removexattrat(AT_FDCWD, "/x", 0, "trusted.a")', ROWS), SHIPPED.get("xattr"))
    assert (found.rung, found.verdict) == (Rung.FILTER, Fail(errno.ENOSYS))
    assert "libseccomp" in found.why
