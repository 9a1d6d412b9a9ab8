from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.policy_rows import ROWS

from interceptor.errors import PolicyError
from interceptor.policy_grammar import read_policy
from interceptor.strict_yaml import Map, Problems, Scalar, parse, whole_number

PIECES = st.sampled_from(
    [
        "default", "native", "deny", "calls", "mount", "when", "do", "flags", "has", "not", "MS_BIND", "caller", "uid",
        "match", "image", "limits", "filesystems", "extends", "EPERM", "null", "1..2", "-1", "0x", "~", "<<", "*a", "&a",
        "!!int", "%YAML", "---", "...", "#", "'", '"', "\\", ":", ": ", "- ", "? ", ", ", "{", "}", "[", "]", "|", ">",
        "\n", "\n  ", "\n    ", "\t", " ", "\x00", "\ufeff", "\x85", "é",
    ]
)  # fmt: skip


def read(data: bytes) -> None:
    """Whatever is in a file, it is a policy or a PolicyError with a place."""
    problems = Problems()
    with problems:
        read_policy(data, "x.yaml", ROWS, problems, name="x")
    for error in problems.errors:
        assert error.where.startswith("x.yaml:")


@settings(deadline=None)
@given(st.binary(max_size=64))
def test_no_bytes_surprise_the_reader(data: bytes) -> None:
    read(data)


@settings(deadline=None)
@given(st.lists(PIECES, max_size=40).map("".join))
def test_no_yaml_surprises_the_reader(text: str) -> None:
    read(text.encode())


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_depth_is_bounded_before_it_costs_anything(opening: str) -> None:
    with pytest.raises(PolicyError, match="nested more than"):
        parse(opening.encode() * 20_000, "x.yaml", Problems())


@pytest.mark.parametrize("text", ["no", "yes", "1:30", "0644", "1e3", "2001-01-01", "~", ".inf", "0b11", "=", "<<"])
def test_a_scalar_is_its_text(text: str) -> None:
    document = parse(f"key: {text}\n".encode(), "x.yaml", Problems())
    assert isinstance(document, Map)
    value = document.entries["key"][1]
    assert isinstance(value, Scalar)
    assert (value.text, value.plain, str(value.place)) == (text, True, "x.yaml:1:6")


@pytest.mark.parametrize(
    ("digits", "number"),
    [("0", 0), ("-7", -7), ("0x1F", 31), ("0o17", 15), ("017", None), ("1_0", None), ("", None), ("1.0", None),
     (" 1", None), ("٣", None), ("0x", None)],
)  # fmt: skip
def test_numbers_are_read_in_one_way(digits: str, number: int | None) -> None:
    assert whole_number(digits) == number
