"""The entry point `runtime` of the group `interceptor.plugins`: the OCI runtime's part that lives in the supervisor."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from runtime import config
from runtime.lifecycle import Lifecycle

if TYPE_CHECKING:
    from collections.abc import Mapping

    from interceptor.ports import Core, Operation


class RuntimePlugin:
    """Prepares, registers and forgets containers on behalf of interceptor-runc."""

    name = "runtime"

    def start(self, core: Core) -> Mapping[str, Operation]:
        """Takes over the containers that live, cleans up after those that do not."""
        places = config.Places.from_environment()
        os.makedirs(f"{places.run}/containers", mode=0o711, exist_ok=True)
        os.makedirs(places.state, mode=0o700, exist_ok=True)
        lifecycle = Lifecycle(core, places, config.load())
        lifecycle.recover()
        return {
            "create": lifecycle.create,
            "resume": lifecycle.resume,
            "created": lifecycle.created,
            "exec": lifecycle.exec,
            "deleted": lifecycle.deleted,
            "proc": lifecycle.proc,
        }


def plugin() -> RuntimePlugin:
    return RuntimePlugin()
