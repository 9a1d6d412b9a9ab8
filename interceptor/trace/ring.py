"""Records, kept in memory: the newest of each container, and live copies for those who follow.

Written by session threads after they answered, read by the control plane. Three promises to the writers:

* `Ring.publish` takes one uncontended lock for an append and two additions, well under a microsecond;
* it never waits for a reader: a follower that is behind loses records and is told how many;
* what a reader does with a record (decoding, formatting) happens on the reader's thread.

Weighed against a file or a syslog: at twenty thousand calls a second either would cost more than the calls themselves,
and a trace is wanted of the last minutes, when something has just failed. Rings of containers that ended are kept for
a while for the same reason: `docker run --rm` removes the container before anybody can ask why it failed.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from threading import Lock

from interceptor.errors import ConfigError
from interceptor.trace.record import REFUSED, How, Record

HISTORY = 4096
"""Records kept per container."""
QUEUE = 4096
"""Records that may wait for one follower."""
RETIRED = 16
"""Containers that ended and whose records are still kept."""

Wake = Callable[[], object]
"""Called from a session thread, without locks held, when a follower's queue stops being empty. Must return at once
(``trio_token.run_sync_soon(event.set, idempotent=True)``); RuntimeError says that the reader's event loop has ended."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which records a reader wants; the empty selection is all of them."""

    calls: frozenset[str] = frozenset()
    """Names of system calls; empty for all."""
    hows: frozenset[str] = frozenset()
    """Who answered (`How`); empty for all."""

    def __contains__(self, record: object) -> bool:
        return (
            isinstance(record, Record)
            and (not self.calls or record.call in self.calls)
            and (not self.hows or record.how in self.hows)
        )


class Follower:
    """The reading end of a subscription: a bounded queue between session threads and one reader."""

    def __init__(self, selection: Selection, wake: Wake, limit: int = QUEUE) -> None:
        self._selection = selection
        self._wake = wake
        self._limit = limit
        self._queue: deque[Record] = deque()
        self._lost = 0
        self._awake = False
        self._lock = Lock()
        self.closed = False
        """Takes no more."""
        self.ended = False
        """Nothing more will come: the one container that it follows has ended."""

    def offer(self, record: Record) -> None:
        """Queues `record` if it is wanted and there is room; wakes the reader if it is not awake yet."""
        if self.closed or record not in self._selection:
            return
        with self._lock:
            if len(self._queue) >= self._limit:
                self._lost += 1
                return
            self._queue.append(record)
            awake, self._awake = self._awake, True
        if not awake:
            self._call()

    def take(self) -> tuple[list[Record], int]:
        """What has come since the last time, and how many records after it were lost for want of room."""
        with self._lock:
            records, self._queue = list(self._queue), deque()
            lost, self._lost = self._lost, 0
            self._awake = False
        return records, lost

    def close(self) -> None:
        """Takes no more; idempotent. `Hub.unfollow` also removes it from the rings."""
        self.closed = True

    def end(self) -> None:
        """Tells the reader that nothing more will come."""
        self.ended = True
        self._call()

    def _call(self) -> None:
        try:
            self._wake()
        except RuntimeError:
            self.close()


class Ring:
    """The newest records of one container."""

    def __init__(self, container: str, name: str | None = None, limit: int = HISTORY) -> None:
        self.container = container
        self.name = name
        self.calls = 0
        """Records ever published, and those that were skipped."""
        self.denied = 0
        """Those among them that a rule refused."""
        self._records: deque[Record] = deque(maxlen=limit)
        self._followers: tuple[Follower, ...] = ()
        self._lock = Lock()

    @property
    def title(self) -> str:
        """What people call the container: its name, else the short form of its id that engines print."""
        return self.name or self.container[:12]

    @property
    def followers(self) -> tuple[Follower, ...]:
        return self._followers

    def publish(self, record: Record) -> None:
        """Keeps `record` and hands it to the followers; from any thread, best after the tracee was answered."""
        with self._lock:
            self._records.append(record)
            self.calls += record.how is not How.RELOADED
            if record.how in REFUSED:
                self.denied += 1
            followers = self._followers
        for follower in followers:
            follower.offer(record)

    def skipped(self, count: int) -> None:
        """So many calls were answered of which no record could be kept."""
        with self._lock:
            self.calls += count

    def history(self) -> list[Record]:
        """The records kept, oldest first."""
        with self._lock:
            return list(self._records)

    def subscribe(self, follower: Follower) -> list[Record]:
        """The history, and from there on every record to `follower`: none twice, none missing."""
        with self._lock:
            self._followers = (*self._followers, follower)
            return list(self._records)

    def unsubscribe(self, follower: Follower) -> None:
        with self._lock:
            self._followers = tuple(f for f in self._followers if f is not follower)


class Hub:
    """Every container's ring, those of the last few that ended included."""

    def __init__(self, *, history: int = HISTORY, retired: int = RETIRED) -> None:
        self._history = history
        self._limit = retired
        self._live: dict[str, Ring] = {}
        self._retired: dict[str, Ring] = {}
        self._everything: list[Follower] = []
        self._lock = Lock()

    def open(self, container: str, name: str | None = None) -> Ring:
        """The ring of a container that starts now; the same one for a container that is known already."""
        with self._lock:
            ring = self._live.get(container)
            if ring is None:
                self._retired.pop(container, None)
                ring = self._live[container] = Ring(container, name, self._history)
                for follower in self._everything:
                    ring.subscribe(follower)
            return ring

    def retire(self, container: str) -> None:
        """The container has ended; its records stay readable until enough others have ended too. Idempotent."""
        with self._lock:
            ring = self._live.pop(container, None)
            if ring is None:
                return
            self._retired[container] = ring
            while len(self._retired) > self._limit:
                del self._retired[next(iter(self._retired))]
            orphans = [f for f in ring.followers if f not in self._everything]
        for follower in orphans:
            follower.end()

    def find(self, wanted: str | None) -> list[Ring]:
        """The rings that `wanted` means: a container's name, its id, or the beginning of its id; all of them for None.

        A running container is preferred to one that has ended. Raises ConfigError when none or several are meant.
        """
        live, retired = self._rings()
        if wanted is None:
            return retired + live
        for rings in (live, retired[::-1]):
            exact = [r for r in rings if wanted in (r.name, r.container)]
            found = exact[:1] or [r for r in rings if wanted and r.container.startswith(wanted)]
            if len(found) > 1:
                raise ConfigError(f"container {wanted!r} is ambiguous: it may be {_names(found)}")
            if found:
                return found
        known = f"there are {_names(live + retired)}" if live or retired else "no container is known"
        raise ConfigError(f"no container {wanted!r}: {known}")

    def history(self, wanted: str | None, selection: Selection, last: int | None = None) -> list[Record]:
        """The records kept, in order of time: those of `find(wanted)` that are selected, the `last` of them."""
        return _merge((ring.history() for ring in self.find(wanted)), selection, last)

    def follow(
        self, wanted: str | None, selection: Selection, wake: Wake, last: int | None = None
    ) -> tuple[list[Record], Follower]:
        """`history`, and a follower of what comes after it; for None, of containers that are yet to start too."""
        follower = Follower(selection, wake)
        rings = self.find(wanted) if wanted is not None else self._join(follower)
        records = _merge([ring.subscribe(follower) for ring in rings], selection, last)
        if wanted is not None and all(ring.container not in self._live for ring in rings):
            follower.end()
        return records, follower

    def unfollow(self, follower: Follower) -> None:
        """Ends a subscription; idempotent."""
        follower.close()
        with self._lock:
            self._everything = [f for f in self._everything if f is not follower]
            rings = [*self._retired.values(), *self._live.values()]
        for ring in rings:
            ring.unsubscribe(follower)

    def titles(self) -> Mapping[str, str]:
        """Container id → what people call it."""
        return {ring.container: ring.title for ring in self.find(None)}

    def _rings(self) -> tuple[list[Ring], list[Ring]]:
        with self._lock:
            return list(self._live.values()), list(self._retired.values())

    def _join(self, follower: Follower) -> list[Ring]:
        """Takes `follower` for every ring opened from now on; the rings that were opened before."""
        with self._lock:
            self._everything.append(follower)
            return [*self._retired.values(), *self._live.values()]


_TIME = attrgetter("time_ns")


def _merge(histories: Iterable[list[Record]], selection: Selection, last: int | None) -> list[Record]:
    """The `last` selected records by time; a ring is nearly in order, as sessions publish after they answered."""
    merged = heapq.merge(*(sorted(history, key=_TIME) for history in histories), key=_TIME)
    return list(deque((record for record in merged if record in selection), maxlen=last))


def _names(rings: Iterable[Ring]) -> str:
    return ", ".join(sorted(f"{r.title} ({r.container[:12]})" if r.name else r.title for r in rings))
