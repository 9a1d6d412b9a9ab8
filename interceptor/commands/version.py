"""Print the version."""

# ruff: noqa: T201 - printing is what a command does
from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def options(_parser: argparse.ArgumentParser) -> None:
    """There are none."""


def run(_arguments: argparse.Namespace) -> int:
    print(f"interceptor {importlib.metadata.version('interceptor')}")
    return 0
