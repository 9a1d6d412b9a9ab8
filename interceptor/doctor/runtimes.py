"""The OCI runtimes that work underneath: which are there, which one is taken, what it can.

Asked by `features` (OCI runtime-spec, features.md) where a runtime has that command.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from interceptor.doctor import cgroups
from interceptor.doctor.finding import Finding, Host, failure, ok, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

KNOWN = ("runc", "crun", "youki")
DEFAULTS = ("runc", "crun")
"""Looked for in PATH, in this order, when nothing else is said."""
CONFIGURATION = "/etc/interceptor/interceptor.yaml"
WAIT_KILLABLE = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"


class Runtime(NamedTuple):
    """One installed runtime."""

    path: str
    version: str
    """Its first line of --version."""
    features: dict[str, Any] | None
    """None where it has no such command."""

    @property
    def seccomp(self) -> dict[str, Any]:
        linux = (self.features or {}).get("linux") or {}
        return linux.get("seccomp") or {}

    @property
    def notifies(self) -> bool | None:
        """Whether it knows SCMP_ACT_NOTIFY; None where it does not say."""
        actions = self.seccomp.get("actions")
        return None if actions is None else "SCMP_ACT_NOTIFY" in actions

    @property
    def wait_killable(self) -> bool | None:
        """Whether it can set the filter flag; None where it does not say."""
        if self.features is None:
            return None
        return WAIT_KILLABLE in self.seccomp.get("supportedFlags", self.seccomp.get("knownFlags", ()))


def installed(host: Host) -> Iterator[Finding]:
    chosen, origin = choice(host)
    path = shutil.which(chosen, path=host.environment.get("PATH")) if chosen else None
    if path is None:
        said = f"{chosen} ({origin}) is not there" if chosen else f"none of {', '.join(DEFAULTS)} is in PATH"
        yield failure("OCI runtime", said, "apt-get install runc   (or crun), or correct the setting")
    else:
        yield from _describe(host, "OCI runtime", path, f" ({origin})")
    for other in KNOWN:
        found = shutil.which(other, path=host.environment.get("PATH"))
        if found and found != path:
            yield from _describe(host, other, found, "", chosen=False)


def choice(host: Host) -> tuple[str | None, str]:
    """The runtime that containers get when their engine does not say, and what says so."""
    named = host.environment.get("INTERCEPTOR_RUNTIME")
    if named:
        return named, "$INTERCEPTOR_RUNTIME"
    place = host.environment.get("INTERCEPTOR_CONFIG") or CONFIGURATION
    try:
        configured = yaml.safe_load(host.text(place) or "{}")
    except yaml.YAMLError:
        configured = None
    if isinstance(configured, dict) and configured.get("runtime"):
        return str(configured["runtime"]), place
    found = (name for name in DEFAULTS if shutil.which(name, path=host.environment.get("PATH")))
    return next(found, None), "the first in PATH"


def ask(path: str) -> Runtime:
    """Runs the runtime for its version and features."""
    version = _output(path, "--version").splitlines()
    try:
        features = json.loads(_output(path, "features"))
    except ValueError:
        features = None
    return Runtime(path, version[0] if version else "", features if isinstance(features, dict) else None)


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False, errors="replace")
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _describe(host: Host, what: str, path: str, note: str, *, chosen: bool = True) -> Iterator[Finding]:
    runtime = ask(path)
    said = f"{path}: {runtime.version}{note}"
    if not runtime.version:
        yield (failure if chosen else warning)(what, f"{path} does not run", f"Look at: {path} --version")
        return
    if runtime.notifies is False:
        advice = "It must know SCMP_ACT_NOTIFY and listenerPath: runc 1.1, crun 0.19, youki, built with libseccomp 2.5."
        yield (failure if chosen else warning)(what, f"{said}; no seccomp notification", advice)
        return
    yield ok(what, said)
    if not chosen:
        return
    if Path(path).name == "crun" and cgroups.is_hybrid(host):
        advice = "crun refuses it (seen up to 1.28): use runc, or boot with systemd.unified_cgroup_hierarchy=1."
        yield warning("  … cgroups", "crun on cgroup v1, hybrid", advice)
    yield from _killable(runtime)


def _killable(runtime: Runtime) -> Iterator[Finding]:
    what = "  … WAIT_KILLABLE_RECV"
    advice = (
        "Programs with many signals (Go) have intercepted calls interrupted and made again, which costs time.\n"
        "runc 1.5, crun 1.6 and youki 0.6 with libseccomp 2.6 set it."
    )
    match runtime.wait_killable:
        case True:
            yield ok(what, "set on containers' filters")
        case False:
            yield warning(what, "not known to this runtime", advice)
        case _:
            yield ok(what, f"{Path(runtime.path).name} has no command that tells; crun sets it from 1.6 on")
