"""Small C programs of the tests, compiled once per run: static, so that they run in any root filesystem."""

from __future__ import annotations

import atexit
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@functools.cache
def _directory() -> Path:
    path = Path(tempfile.mkdtemp(prefix="interceptor-test-probes-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@functools.cache
def probe(name: str, *options: str) -> Path:
    """The program of tests/support/NAME.c; where there is no compiler, the test is skipped."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler: apt-get install gcc")
    made = _directory() / "-".join([name, *options]).replace("/", "_")
    how = () if "-shared" in options else ("-static",)
    command = [compiler, *how, "-O1", "-Wall", "-Werror", "-o", str(made), *options, str(HERE / f"{name}.c")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode and "-m32" in options:
        pytest.skip(f"no 32-bit programs can be built: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return made
