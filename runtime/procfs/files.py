"""The files of one FUSE mount: which leaf of whose view an inode is, and what was written to it.

Source: fuse.h for when these are called.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import structlog

from interceptor.native.fuse import FIRST_NODE, WATCHED
from runtime import record as records
from runtime.procfs import ceilings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from interceptor.native.fd import Fd
    from runtime.procfs.leaf import Leaf, View

log = structlog.get_logger(__name__)


def name(number: int, leaf: Leaf) -> str:
    """What a leaf is called in its directory; `number` tells views apart, 0 is the container's own."""
    flat = leaf.path.strip("/").replace("/", ".")
    return f"{number}.{flat}" if number else flat


Row = tuple[int, str, int]
"""An inode as native.fuse.Mount.add() wants it."""


class Computed:
    """native.fuse.Source: what leaves show of views, which have numbers; 0 is the container's own."""

    def __init__(self) -> None:
        self._nodes: list[tuple[Leaf, int]] = []
        self._views: dict[int, View] = {}
        self._failed: set[str] = set()

    def show(self, number: int, view: View, leaves: Iterable[Leaf]) -> list[tuple[Leaf, Row]]:
        """Gives view `number` its inodes, and answers them. What had that number before has it no more, and its inodes are the
        new one's: then none are added.
        """
        known = number in self._views
        self._views[number] = view
        rows = []
        for leaf in () if known else leaves:
            mode = leaf.mode | (WATCHED if leaf.watch is not None else 0)
            rows.append((leaf, (FIRST_NODE + len(self._nodes), name(number, leaf), mode)))
            self._nodes.append((leaf, number))
        return rows

    def view(self, number: int) -> View:
        return self._views[number]

    def content(self, node: int) -> bytes:
        leaf, number = self._nodes[node - FIRST_NODE]
        try:
            return leaf.read(self._views[number])
        except (OSError, ValueError) as error:
            if leaf.path not in self._failed:
                self._failed.add(leaf.path)
                log.warning("a leaf cannot be computed; it keeps its last content", leaf=leaf.path, error=str(error))
            raise error if isinstance(error, OSError) else OSError(str(error)) from error

    def written(self, node: int, data: bytes, *, tid: int, uid: int) -> Fd:
        leaf, number = self._nodes[node - FIRST_NODE]
        if leaf.watch is None:
            raise OSError(errno.EROFS, f"thread {tid} of uid {uid} wrote {len(data)} bytes to read-only inode {node}")
        return leaf.watch(self._views[number], data)


@dataclass(frozen=True, slots=True)
class Written:
    """A remembered value, and who left it there when."""

    text: str
    time_ns: int
    """CLOCK_REALTIME."""
    tid: int
    """The writer's thread, by the host's number."""
    uid: int
    """Its file-system user id, the host's number."""
    comm: str


class Remembered:
    """native.fuse.Source: leaves that are written. What was written last is kept in `path`, for the next supervisor."""

    def __init__(self, path: str, view: View, ceilings: Mapping[str, int] | None = None) -> None:
        """`ceilings`: which of the host's may be raised how far (limits.Ceilings.sysctls)."""
        self._path = path
        self.view = view
        self._ceilings = ceilings or {}
        self._nodes: list[Leaf] = []
        self._lock = threading.Lock()
        self._written: dict[str, Written] = _load(path)

    def add(self, leaves: Iterable[Leaf]) -> list[Row]:
        rows = []
        for leaf in leaves:
            rows.append((FIRST_NODE + len(self._nodes), name(0, leaf), leaf.mode))
            self._nodes.append(leaf)
        return rows

    def value(self, leaf: Leaf) -> bytes:
        found = self._written.get(leaf.path)
        return found.text.encode("utf-8", "surrogateescape") if found else leaf.read(self.view)

    def who(self, leaf: Leaf) -> Written | None:
        return self._written.get(leaf.path)

    def content(self, node: int) -> bytes:
        return self.value(self._nodes[node - FIRST_NODE])

    def written(self, node: int, data: bytes, *, tid: int, uid: int) -> None:
        leaf = self._nodes[node - FIRST_NODE]
        if leaf.write is None:
            raise PermissionError(f"{leaf.path} is read-only")
        text = leaf.write(self.view, self.value(leaf), data).decode("utf-8", "surrogateescape")
        with self._lock:
            self._written[leaf.path] = Written(text, time.time_ns(), tid, uid, _comm(tid))
            rows = {path: asdict(written) for path, written in self._written.items()}
            records.write(self._path, json.dumps(rows, separators=(",", ":")))
        ceilings.on_write(leaf.path, text, self._ceilings)


class Opened:
    """native.fuse.Source of the mount whose open(2) is answered: remembered values, and behind their inodes computed ones."""

    def __init__(self, remembered: Remembered, computed: Computed, count: int) -> None:
        """`count`: of the remembered ones."""
        self._remembered = remembered
        self._computed = computed
        self._count = count

    def row(self, row: Row) -> Row:
        """A computed one's inode here."""
        node, name, mode = row
        return node + self._count, name, mode

    def content(self, node: int) -> bytes:
        if node < FIRST_NODE + self._count:
            return self._remembered.content(node)
        return self._computed.content(node - self._count)

    def written(self, node: int, data: bytes, *, tid: int, uid: int) -> Fd | None:
        if node < FIRST_NODE + self._count:
            self._remembered.written(node, data, tid=tid, uid=uid)
            return None
        return self._computed.written(node - self._count, data, tid=tid, uid=uid)


def _load(path: str) -> dict[str, Written]:
    try:
        with open(path, encoding="utf-8") as file:
            return {leaf: Written(**row) for leaf, row in json.load(file).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        log.warning("remembered values cannot be read; the container begins without", path=path, error=str(error))
        return {}


def _comm(tid: int) -> str:
    try:
        with open(f"/proc/{tid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return "?"


def exists(leaf: Leaf) -> bool:
    """Whether this kernel has what the leaf would cover."""
    return os.path.exists(leaf.path)
