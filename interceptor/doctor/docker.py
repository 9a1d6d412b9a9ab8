"""Docker's knowledge of our runtime.

Source: dockerd(8), "Alternative runtimes"; daemon.json's key `runtimes`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interceptor.doctor.finding import Finding, Host, failure, ok, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

DAEMON_JSON = "/etc/docker/daemon.json"
ENTRY = "interceptor-runc"
WHAT = "Docker's runtimes"


def registration(host: Host) -> Iterator[Finding]:
    if not shutil.which("dockerd", path=host.environment.get("PATH")):
        yield ok("Docker", "no dockerd in PATH: nothing to register")
        return
    place = host.path(DAEMON_JSON)
    try:
        runtimes = _runtimes(host.text(DAEMON_JSON))
    except ValueError as error:
        yield failure(WHAT, f"{place}: {error}", "Correct the file; dockerd does not start with it either.")
        return
    ours = {name: path for name, path in runtimes.items() if Path(path).name == ENTRY}
    if not ours:
        yield warning(WHAT, f"interceptor is not among them in {place}", snippet(entry(host)))
    for name, path in ours.items():
        yield _registered(host, name, path)


def entry(host: Host) -> str:
    """Where `interceptor-runc` was installed: beside this program, by the name that PATH has for it if it has one."""
    beside = Path(sys.executable).parent / ENTRY
    found = shutil.which(ENTRY, path=host.environment.get("PATH"))
    if found and (not beside.exists() or Path(found).samefile(beside)):
        return found
    return str(beside) if beside.exists() else f"/usr/local/bin/{ENTRY}"


def snippet(path: str) -> str:
    """What to put into daemon.json."""
    block = json.dumps({"runtimes": {"interceptor": {"path": path}}}, indent=2)
    return f"Add to {DAEMON_JSON}, then systemctl reload docker:\n{block}"


def _registered(host: Host, name: str, path: str) -> Finding:
    target = host.path(path)
    if not os.access(target, os.X_OK):
        return failure(WHAT, f"{name}: {path} is not there or not executable", snippet(entry(host)))
    return ok(WHAT, f"{name}: {path}; use it with docker run --runtime={name}")


def _runtimes(text: str | None) -> dict[str, str]:
    """Name → path of every runtime with one; ValueError that says what is wrong with daemon.json."""
    try:
        daemon: Any = json.loads(text or "{}")
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
    runtimes = daemon.get("runtimes", {}) if isinstance(daemon, dict) else None
    if not isinstance(runtimes, dict):
        raise ValueError('"runtimes" must be an object')  # noqa: TRY004 - about a file's contents, not an argument
    named = {name: runtime.get("path") for name, runtime in runtimes.items() if isinstance(runtime, dict)}
    return {name: path for name, path in named.items() if isinstance(path, str)}
