"""The fuzz targets for seconds: what is in their corpora, and simple changes of it. `make fuzz` goes by coverage, for hours."""

from __future__ import annotations

import os
import subprocess

import pytest
from support import fuzz_targets, fuzzing

RUNS = {"agent": 40_000, "notify": 40_000, "json": 30_000}
CHANGES = 400


@pytest.mark.parametrize("target", fuzzing.TARGETS, ids=lambda target: target.name)
def test_in_c(target, tmp_path):
    program = fuzzing.build(target, tmp_path / target.name)
    last = tmp_path / "last"
    done = subprocess.run(
        [program, f"-runs={RUNS.get(target.name, 20_000)}", f"-last={last}", target.corpus], env=os.environ | fuzzing.OPTIONS,
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stderr[-6000:]}\nthe input: {_input(last)}"


def _input(last):
    content = last.read_bytes()
    return content[8 : 8 + int.from_bytes(content[:8], "little")].hex()


@pytest.mark.parametrize("name", fuzzing.python_targets())
def test_in_python(name):
    corpus = [path.read_bytes() for path in sorted((fuzzing.CORPUS / name).iterdir())]
    for data in [*corpus, *fuzz_targets.changed(corpus, CHANGES, seed=1)]:
        try:
            fuzz_targets.TARGETS[name](data)
        except Exception as error:
            raise AssertionError(f"the input: {data!r}") from error


def test_all_in_python_are_run():
    assert set(fuzzing.python_targets()) == set(fuzz_targets.TARGETS)
