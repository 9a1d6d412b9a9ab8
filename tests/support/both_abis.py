"""Tests whose program makes the calls of x86-64 and of i386 in a container, and prints what each answers."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import subprocess

MARKS = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the program makes x86-64's and i386's calls"),
]


def answers(done: subprocess.CompletedProcess[str]) -> dict[str, tuple[str, str]]:
    """Call → its answer, and what the program saw afterwards: a line each."""
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    heads = [line.rpartition(": ") for line in lines[::2]]
    return {head[0]: (head[2], after) for head, after in zip(heads, lines[1::2], strict=True)}
