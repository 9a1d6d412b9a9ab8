"""Globs as policies write them, over bytes and over text.

``*`` is any run (also of ``/``), ``?`` one byte, ``[a-z]`` and ``[!a-z]`` one byte of (not of) a set; everything else
stands for itself, as UTF-8.
"""

from __future__ import annotations

import fnmatch
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def is_glob(pattern: str | None) -> bool:
    """Whether `pattern` has a wildcard."""
    return pattern is not None and any(c in pattern for c in "*?[")


def bytes_test(patterns: Iterable[str | None]) -> Callable[[bytes | None], bool]:
    """Whether a value matches one of `patterns`; None among them is None itself."""
    given = tuple(patterns)
    literal = frozenset(p if p is None else p.encode() for p in given if not is_glob(p))
    globs = "|".join(_regex(p) for p in given if p is not None and is_glob(p))
    if not globs:
        return literal.__contains__
    match = re.compile(globs.encode("latin-1"), re.DOTALL).match
    return lambda value: value in literal or (value is not None and match(value) is not None)


def glob_test(pattern: str) -> Callable[[str], bool]:
    """A test of text (image names, labels) against a pattern."""
    holds = bytes_test((pattern,))
    return lambda text: holds(text.encode(errors="surrogateescape"))


def _regex(pattern: str) -> str:
    """A regular expression over bytes, written as Latin-1 text; fnmatch keeps it free of exponential backtracking."""
    return fnmatch.translate(pattern.encode().decode("latin-1"))
