"""Exclusive id ranges: no two containers share a host id, so that a way out of one is no way into another.

Persisted as one symbolic link per container, $state/ids/CONTAINER -> FIRST+SIZE: who has which range survives the
supervisor, and a link is there whole or not at all, without a file that is replaced at each change (on ext4 that waits
for the disk). Containers that share namespaces (pods) share the range, which is free again when the last of them is gone.
Source: user_namespaces(7); subuid(5); symlink(2).
"""

from __future__ import annotations

import os
import re
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from interceptor.container import IdRange
from interceptor.errors import ConfigError, InterceptorError
from interceptor.native import files
from interceptor.native.fd import Fd
from interceptor.native.mounts import lock
from runtime.config import UNIT, Ids

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_SUBORDINATE = ("/etc/subuid", "/etc/subgid")
_RANGE = re.compile(r"(\d{1,10})\+(\d{1,10})")


class Ranges:
    """The ranges of one host. Safe between threads and between processes."""

    def __init__(self, state: str, ids: Ids, origin: str, *, foreign: Iterable[str] = _SUBORDINATE) -> None:
        self._directory = Path(state, "ids")
        self._ids = ids
        self._origin = origin
        self._foreign = tuple(foreign)
        self._threads = threading.Lock()

    def allocate(self, container: str, size: int, *, with_container: str | None = None) -> IdRange:
        """A range for `container`: that of `with_container` if given, else the first free one of `size` ids.

        InterceptorError when none is free: how many there are, where, and what to configure.
        """
        with self._locked():
            table = self._read()
            shared = table.get(with_container) if with_container is not None else None
            taken = [*table.values(), *self._subordinate()]
            found = shared or self._first_free(taken, size, len(set(table.values())))
            if container in table:
                (self._directory / container).unlink()
            (self._directory / container).symlink_to(f"{found.first}+{found.size}")
            return found

    def release(self, container: str) -> None:
        """Gives the container's share back; idempotent."""
        (self._directory / container).unlink(missing_ok=True)

    def retain(self, alive: Iterable[str]) -> list[str]:
        """Drops every entry whose container is not in `alive`; answers the dropped ids."""
        keep = set(alive)
        with self._locked():
            gone = sorted(container for container in self._read() if container not in keep)
            for container in gone:
                self.release(container)
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
            for line in files.read(name).decode(errors="replace").splitlines():
                _, first, size = (*line.split(":"), "", "", "")[:3]
                if first.isdigit() and size.isdigit() and int(size):
                    yield IdRange(int(first), int(size))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """No other thread and no other process allocates meanwhile."""
        with self._threads, self._open() as held:
            lock(held.fileno())
            yield

    def _open(self) -> Fd:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        try:
            return Fd(os.open(self._directory, flags))
        except FileNotFoundError:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            return Fd(os.open(self._directory, flags))

    def _read(self) -> dict[str, IdRange]:
        return {name: self._range_of(name) for name in os.listdir(self._directory)}

    def _range_of(self, name: str) -> IdRange:
        path = self._directory / name
        try:
            text = os.readlink(path)
        except OSError as error:
            raise ConfigError(f"{path} is no symbolic link ({error.strerror}); {_REMOVE}") from error
        found = _RANGE.fullmatch(text)
        if not found:
            raise ConfigError(f"{path} leads to {text!r} instead of FIRST+SIZE; {_REMOVE}")
        return IdRange(int(found[1]), int(found[2]))


_REMOVE = "remove it when no container of that id runs"
