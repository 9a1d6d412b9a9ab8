"""The runtime under test: the checkout's own, or another one named in $INTERCEPTOR_RUNC."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from support import cgroups
from support.engine import Cgroups, Runtime, search_path, why_no_engine
from support.images import REPOSITORY

RUNTIME = Path(os.environ.get("INTERCEPTOR_RUNC") or REPOSITORY / ".venv" / "bin" / "interceptor-runc")

NAME = "interceptor"
"""What it is called in `docker run --runtime=…`."""


def why_not(underneath: str = "runc") -> str | None:
    """The reason why nothing can be tested through Docker here with `underneath` below our runtime, or None."""
    if reason := why_no_engine():
        return reason
    if not os.access(RUNTIME, os.X_OK):
        return f"{RUNTIME} is not built (make build)"
    if shutil.which(underneath, path=search_path()) is None:
        return f"{underneath} is not installed"
    return None


def over(underneath: str) -> dict[str, Runtime]:
    """Our runtime with `underneath` below it, as an engine's table of runtimes."""
    return {NAME: Runtime(RUNTIME, env={"INTERCEPTOR_RUNTIME": underneath})}


def view_for(underneath: str) -> Cgroups:
    """The cgroup layout nearest to the host's that `underneath` can work with: crun refuses the hybrid one."""
    return "v1" if underneath == "crun" and not cgroups.is_unified() else "host"
