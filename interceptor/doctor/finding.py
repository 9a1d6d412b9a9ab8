"""What a probe found, and the host as far as probes may choose what they look at."""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass, field
from pathlib import Path


class Verdict(enum.StrEnum):
    """How a finding bears on running system containers."""

    OK = "ok"
    WARNING = "warning"
    """Containers run, but something is slower, missing or near a limit."""
    FAILURE = "failure"
    """Containers will not start, or not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's report."""

    what: str
    verdict: Verdict
    found: str
    """What was tried and what came of it."""
    advice: str = ""
    """What to do about it; may have several lines. Empty when all is well."""


def ok(what: str, found: str) -> Finding:
    return Finding(what, Verdict.OK, found)


def warning(what: str, found: str, advice: str) -> Finding:
    return Finding(what, Verdict.WARNING, found, advice)


def failure(what: str, found: str, advice: str) -> Finding:
    return Finding(what, Verdict.FAILURE, found, advice)


@dataclass(frozen=True, slots=True)
class Host:
    """Where things are on this host; tests put a directory of their own in the place of `/`."""

    root: Path = Path("/")
    data: Path | None = None
    """Where images and containers are stored, if not where Docker says."""
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))

    def path(self, absolute: str) -> Path:
        """The host's file of that name."""
        return self.root / absolute.lstrip("/")

    def text(self, absolute: str) -> str | None:
        """The stripped contents of a small file such as one below /proc/sys; None where there is none."""
        try:
            return self.path(absolute).read_text().strip()
        except OSError:
            return None

    def number(self, absolute: str) -> int | None:
        text = self.text(absolute)
        return int(text) if text and text.isdecimal() else None

    def chosen(self, variable: str, default: str) -> Path:
        """A directory or file that an environment variable may move."""
        return self.path(self.environment.get(variable) or default)
