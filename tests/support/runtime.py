"""The runtime under test: the checkout's own, or another one named in $INTERCEPTOR_RUNC."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from support import cgroups
from support.engine import Runtime, search_path, why_no_engine
from support.images import REPOSITORY

if TYPE_CHECKING:
    from support.engine import Cgroups, Engine

RUNTIME = Path(os.environ.get("INTERCEPTOR_RUNC") or REPOSITORY / ".venv" / "bin" / "interceptor-runc")

COMMAND = RUNTIME.parent / "interceptor"
"""The command line that belongs to it."""

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


def over(underneath: str, **environment: str) -> dict[str, Runtime]:
    """Our runtime with `underneath` below it, as an engine's table of runtimes."""
    return {NAME: Runtime(RUNTIME, env={"INTERCEPTOR_RUNTIME": underneath, **environment})}


def view_for(underneath: str) -> Cgroups:
    """The cgroup layout nearest to the host's that `underneath` can work with: crun refuses the hybrid one."""
    return "v1" if underneath == "crun" and not cgroups.is_unified() else "host"


def interceptor(engine: Engine, *arguments: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
    """Run `interceptor` with the supervisor of this engine's containers; its failure is an AssertionError."""
    environment = {**os.environ, "INTERCEPTOR_RUN": str(engine.run / "interceptor")}
    result = subprocess.run(
        [COMMAND, *arguments], check=False, capture_output=True, text=True, env=environment, timeout=timeout
    )
    assert result.returncode == 0, f"interceptor {' '.join(arguments)}: {result.stderr}"
    return result
