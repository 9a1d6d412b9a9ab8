"""The images that images/build.py makes, as tests ask for them."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@functools.cache
def image(name: str) -> Path:
    """The tar of image `name`, built at first use; where that cannot be done, the test is skipped with the reason."""
    command = [sys.executable, str(REPOSITORY / "images" / "build.py"), name]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    if result.returncode != 0:
        pytest.skip(f"image {name!r}: {result.stderr.strip().splitlines()[-1]}")
    return Path(result.stdout.strip())
