"""The connection to a supervisor that runs already; looking at things starts none."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from interceptor import client
from interceptor.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Client(Protocol):
    """What commands need of `interceptor.client`."""

    def call(self, op: str, **body: Any) -> Mapping[str, Any]: ...

    def stream(self, op: str, **body: Any) -> Iterator[Mapping[str, Any]]: ...

    def close(self) -> None: ...


@contextmanager
def if_running() -> Iterator[Client | None]:
    """A connection; None where no supervisor runs."""
    try:
        connection = client.connect(spawn=False)
    except client.NoSupervisorError:
        yield None
        return
    with connection:
        yield connection


@contextmanager
def running(otherwise: str) -> Iterator[Client]:
    """A connection; ConfigError that says what follows from no supervisor running."""
    with if_running() as connection:
        if connection is None:
            raise ConfigError(f"no supervisor runs, so {otherwise}; the first container starts one")
        yield connection
