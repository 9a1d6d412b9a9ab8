"""Another process goes on with what the supervisor serves."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from interceptor import client
from interceptor.commands import _supervisor
from interceptor.errors import InterceptorError

if TYPE_CHECKING:
    from collections.abc import Mapping

PATIENCE = 60.0
"""Seconds until some supervisor must serve again."""


def restart(program: str | None) -> tuple[Mapping[str, Any], Mapping[str, Any], float]:
    """What the supervisor before and the one after say of themselves, and how many seconds nobody served."""
    with _supervisor.running("there is nothing to go on with") as supervisor:
        before = supervisor.call("ping")
        supervisor.call("restart", program=program)
    begin = time.monotonic()
    return before, _following(before["pid"], begin + PATIENCE), time.monotonic() - begin


def _following(old: int, until: float) -> Mapping[str, Any]:
    while True:
        try:
            with client.connect(spawn=False) as connection:
                after = connection.call("ping")
            if after["pid"] != old:
                return after
        except client.RefusedError:
            raise
        except InterceptorError:  # the one that was about to end took the connection
            if time.monotonic() > until:
                raise
        time.sleep(0.02)
