"""Exclusive id ranges: no two containers share a host id, so that a way out of one is no way into another.

Persisted in $state/ids.json: who has which range survives the supervisor. Containers that share namespaces (pods)
share the range, which is free again when the last of them is gone.
Source: user_namespaces(7); subuid(5).
"""

from __future__ import annotations

import json
import os
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from interceptor.container import IdRange
from interceptor.errors import ConfigError, InterceptorError
from interceptor.native.fd import Fd
from interceptor.native.mounts import lock
from runtime.config import UNIT, Ids

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_SUBORDINATE = ("/etc/subuid", "/etc/subgid")


class Ranges:
    """The ranges of one host. Safe between threads and between processes."""

    def __init__(self, state: str, ids: Ids, origin: str, *, foreign: Iterable[str] = _SUBORDINATE) -> None:
        self._file = Path(state, "ids.json")
        self._ids = ids
        self._origin = origin
        self._foreign = tuple(foreign)
        self._threads = threading.Lock()

    def allocate(self, container: str, size: int, *, with_container: str | None = None) -> IdRange:
        """A range for `container`: that of `with_container` if given, else the first free one of `size` ids.

        InterceptorError when none is free: how many there are, where, and what to configure.
        """
        with self._table() as table:
            if with_container is not None and with_container in table:
                table[container] = table[with_container]
                return table[container]
            taken = [*table.values(), *self._subordinate()]
            table[container] = self._first_free(taken, size, len(set(table.values())))
            return table[container]

    def release(self, container: str) -> None:
        """Gives the container's share back; idempotent."""
        with self._table() as table:
            table.pop(container, None)

    def retain(self, alive: Iterable[str]) -> list[str]:
        """Drops every entry whose container is not in `alive`; answers the dropped ids."""
        keep = set(alive)
        with self._table() as table:
            gone = [container for container in table if container not in keep]
            for container in gone:
                del table[container]
        return gone

    def _first_free(self, taken: Iterable[IdRange], size: int, used: int) -> IdRange:
        at = self._ids.first
        for other in sorted(taken, key=lambda one: one.first):
            if other.first + other.size <= at:
                continue
            if at + size <= other.first:
                break
            used_units = -(-(other.first + other.size - self._ids.first) // UNIT)
            at = self._ids.first + used_units * UNIT
        if at + size > self._ids.end:
            raise InterceptorError(
                f"no id range of {size} is free: {used} are in use in {self._ids.first} … {self._ids.end - 1} "
                f"({self._origin}); raise ids.count in /etc/interceptor/interceptor.yaml, or remove containers"
            )
        return IdRange(at, size)

    def _subordinate(self) -> Iterator[IdRange]:
        """What subuid(5) and subgid(5) promise to users of this host."""
        for name in self._foreign:
            try:
                text = Path(name).read_text(errors="replace")
            except OSError:
                continue
            for line in text.splitlines():
                _, first, size = (*line.split(":"), "", "", "")[:3]
                if first.isdigit() and size.isdigit() and int(size):
                    yield IdRange(int(first), int(size))

    @contextmanager
    def _table(self) -> Iterator[dict[str, IdRange]]:
        """The table, locked; written back when it was changed."""
        with (
            self._threads,
            Fd(os.open(self._file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)) as held,
        ):
            lock(held.fileno())
            table = self._read()
            before = dict(table)
            yield table
            if table != before:
                self._write(table)

    def _read(self) -> dict[str, IdRange]:
        try:
            text = self._file.read_text()
        except FileNotFoundError:
            return {}
        if not text.strip():
            return {}  # a crash of the host between rename and write-back; nothing of ours outlived it
        try:
            return {name: IdRange(int(first), int(size)) for name, (first, size) in json.loads(text)["ranges"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{self._file} is damaged ({error}); remove it when no container of interceptor runs"
            ) from error

    def _write(self, table: Mapping[str, IdRange]) -> None:
        text = json.dumps({"ranges": {name: [ids.first, ids.size] for name, ids in table.items()}}, indent=1)
        draft = self._file.with_suffix(".new")
        draft.write_text(text + "\n")
        draft.chmod(0o600)
        draft.replace(self._file)
