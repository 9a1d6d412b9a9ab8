"""The OCI runtime underneath: which one, and what it can do. Asked once per executable, not per container.

Source: OCI runtime-spec, features.md; runc and crun, their `features` and `--version` output.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from interceptor.errors import ConfigError
from interceptor.native import children

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WAIT_KILLABLE = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"
_CANDIDATES = ("runc", "crun")
_CRUN_WAIT_KILLABLE = (1, 6)
_CRUN_JOINS_EARLY = (1, 9)
"""1.8.7: containers/crun, 88441d9c, "linux: simplify setns with pidfd"."""
_YOUNG_LIBSECCOMP = (2, 6)
_SECONDS = 60
_VERSION = re.compile(r"(\w[\w-]*) version (\d+)\.(\d+)")


@dataclass(frozen=True, slots=True)
class Underneath:
    """One runtime executable."""

    path: str
    kind: str
    """What its `--version` calls it: "runc", "crun", "youki"…"""
    version: tuple[int, int]
    wait_killable: bool
    """It can set SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV on a container's filter."""
    knows_young: bool
    """Its libseccomp knows the calls of `registry.YOUNG`, as far as ours does."""
    chown_stdio: bool
    """It gives its standard streams to the container's root (crun does, to the host's own /dev/null too)."""
    exec_scores: bool
    """Its `exec` gives a process the oom_score_adj that is said of it (crun's does not)."""
    exec_awaits_program: bool
    """Its `exec` joins a container only when init has executed its program, and `start` does not wait for that (crun before
    1.8.7)."""


class Runtimes:
    """Finds and knows runtimes; the answers are kept by (path, mtime, size)."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int], Underneath] = {}

    def choose(self, asked: str | None, configured: str | None, origin: str) -> Underneath:
        """$INTERCEPTOR_RUNTIME of the caller, else the configuration's, else the first of runc and crun in PATH."""
        if asked:
            return self.know(find(asked, "$INTERCEPTOR_RUNTIME"))
        if configured:
            return self.know(find(configured, f"`runtime` in {origin}"))
        for name in _CANDIDATES:
            if found := shutil.which(name):
                return self.know(os.path.realpath(found))
        raise ConfigError(
            f"neither {' nor '.join(_CANDIDATES)} is in PATH ({os.environ.get('PATH')}); install one, or set "
            "$INTERCEPTOR_RUNTIME"
        )

    def know(self, path: str) -> Underneath:
        """What the executable at `path` can do."""
        status = os.stat(path)
        key = (path, status.st_mtime_ns, status.st_size)
        if key not in self._known:
            self._known[key] = _ask(path)
        return self._known[key]


def find(name: str, origin: str) -> str:
    """The absolute path of a runtime that somebody named; ConfigError when it is not executable, or is ourselves."""
    found = shutil.which(name)
    if found is None:
        raise ConfigError(f"{origin} names the runtime {name!r}, which is neither in PATH nor an executable file")
    if os.path.basename(os.path.realpath(found)) == "interceptor-runc":
        raise ConfigError(f"{origin} names {name!r}, which is this runtime itself; name runc or crun")
    return os.path.realpath(found)


def _ask(path: str) -> Underneath:
    banner = _run(path, "--version")
    match = _VERSION.search(banner or "")
    if match is None:
        raise ConfigError(
            f"{path} --version answers {(banner or '').strip()[:80]!r}; no OCI runtime that can be used says that"
        )
    kind, version = match[1], (int(match[2]), int(match[3]))
    return Underneath(
        path,
        kind,
        version,
        _wait_killable(path, kind, version),
        _knows_young(path),
        chown_stdio=kind == "crun",
        exec_scores=kind != "crun",
        exec_awaits_program=kind == "crun" and version < _CRUN_JOINS_EARLY,
    )


def _wait_killable(path: str, kind: str, version: tuple[int, int]) -> bool:
    features = _features(path)
    flags: Sequence[str] | None = ((features.get("linux") or {}).get("seccomp") or {}).get("supportedFlags")
    if flags is not None:
        return WAIT_KILLABLE in flags
    return kind == "crun" and version >= _CRUN_WAIT_KILLABLE


def _knows_young(path: str) -> bool:
    """False only where it says that it has an older one: mostly it has the one that we have, too."""
    said = (_features(path).get("annotations") or {}).get("io.github.seccomp.libseccomp.version")
    found = re.match(r"(\d+)\.(\d+)", said) if isinstance(said, str) else None
    return found is None or (int(found[1]), int(found[2])) >= _YOUNG_LIBSECCOMP


def _features(path: str) -> Mapping[str, Any]:
    text = _run(path, "features")
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _run(path: str, argument: str) -> str | None:
    try:
        done = children.run([path, argument], timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{path} {argument}: {error}") from error
    return done.stdout if done.returncode == 0 else None
