"""Who goes on when this supervisor ends: another process of the same program, or of another, asked before it must.

The keeper starts it, and the former program should it not serve (native/keeper.c); here is what is checked before.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from interceptor.errors import InterceptorError
from interceptor.native import children
from interceptor.native.journal import VERSION as JOURNAL_VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping

PATIENCE = 30.0
"""Seconds that a program may take to say whether it could."""


def own_program() -> str:
    """Absolute path of the program that runs. A link stays one: it is what an upgrade replaces."""
    return os.path.abspath(sys.argv[0])  # noqa: PTH100 - see above


def about() -> Mapping[str, Any]:
    """What ``interceptor supervise --check`` prints, as JSON."""
    return {"version": version("interceptor"), "journal": JOURNAL_VERSION}


def wanted(value: object) -> str:
    """The program that a request asks for, "" for the same; InterceptorError when it could not go on here."""
    if value is not None and not (isinstance(value, str) and value.startswith("/")):
        raise InterceptorError(f'"program" must be an absolute path or null, not {value!r}')
    program = value or own_program()
    journal = _ask(program).get("journal")
    if journal != JOURNAL_VERSION:
        raise InterceptorError(
            f"{program} reads journals of version {journal}, this supervisor writes {JOURNAL_VERSION}: stop the "
            "containers, and start the other one afterwards"
        )
    return value or ""


def _ask(program: str) -> Mapping[str, Any]:
    command = [program, "supervise", "--check"]
    try:
        done = children.run(command, timeout=PATIENCE)
        said: Mapping[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise InterceptorError(f"{' '.join(command)}: {error}") from error
    if done.returncode != 0:
        raise InterceptorError(done.stderr.strip() or f"{' '.join(command)}: exit status {done.returncode}")
    return said
