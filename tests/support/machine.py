"""What only a machine of the tests' own may be put through: its kernel loads modules, and serves files."""

from __future__ import annotations

import os

import pytest

only = pytest.mark.skipif(
    "INTERCEPTOR_TEST_MACHINE" not in os.environ, reason="changes the kernel that it runs on: make machine"
)
