"""The connection to a supervisor that runs already; looking at things starts none."""

from __future__ import annotations

import importlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from interceptor.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Client(Protocol):
    """What commands need of `interceptor.client`."""

    def call(self, op: str, **fields: Any) -> Mapping[str, Any]:
        """One request, one reply; InterceptorError with the supervisor's words when it refuses."""

    def stream(self, op: str, **fields: Any) -> Iterator[dict[str, Any]]:
        """One request, and replies until the one with "end"."""

    def close(self) -> None: ...


@contextmanager
def if_running() -> Iterator[Client | None]:
    """A connection; None where no supervisor runs."""
    module = importlib.import_module("interceptor.client")
    try:
        client: Client = module.connect(spawn=False)
    except module.NoSupervisorError:
        yield None
        return
    try:
        yield client
    finally:
        client.close()


@contextmanager
def running(otherwise: str) -> Iterator[Client]:
    """A connection; ConfigError that says what follows from no supervisor running."""
    with if_running() as client:
        if client is None:
            raise ConfigError(f"no supervisor runs, so {otherwise}; the first container starts one")
        yield client
