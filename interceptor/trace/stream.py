"""The control operation `trace`: history, and with "follow" what comes after it, as messages of bounded size.

The only part of the package that needs trio: it is the reader's end, in the control plane's event loop.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from interceptor.errors import InterceptorError, WireError
from interceptor.trace.event import Event, event
from interceptor.trace.record import How
from interceptor.trace.ring import Follower, Hub, Selection
from interceptor.wire import CONTROL_MESSAGE_MAX

if TYPE_CHECKING:
    from interceptor.registry import Syscall
    from interceptor.trace.record import Record

BATCH = CONTROL_MESSAGE_MAX // 4
"""Bytes of events after which a message is sent; the largest event (three strings of 4 KiB, each byte escaped) still
fits into a message beside them."""

Send = Callable[[Mapping[str, Any]], Awaitable[None]]


class Query(NamedTuple):
    """What a `trace` request asks for."""

    container: str | None
    selection: Selection
    last: int | None
    follow: bool

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Query:
        """Reads a request's fields; WireError that names the one which is not as docs/control.md says."""
        container, last, follow = body.get("container"), body.get("last"), body.get("follow", False)
        if not (container is None or isinstance(container, str)):
            raise WireError(f'trace: "container" is {container!r}; it must be a name, an id or null')
        if not (last is None or (isinstance(last, int) and last >= 0)):
            raise WireError(f'trace: "last" is {last!r}; it must be a number of records or null')
        if not isinstance(follow, bool):
            raise WireError(f'trace: "follow" is {follow!r}; it must be true or false')
        calls, hows = _names(body, "calls"), _names(body, "how")
        if unknown := hows - set(How):
            raise WireError(f'trace: "how" has {", ".join(sorted(unknown))}; there are {", ".join(How)}')
        return cls(container, Selection(calls, hows), last, follow)


def _names(body: Mapping[str, Any], key: str) -> frozenset[str]:
    names = body.get(key, [])
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise WireError(f'trace: "{key}" is {names!r}; it must be a list of names')
    return frozenset(names)


async def serve(hub: Hub, rows: Mapping[str, Syscall], body: Mapping[str, Any], send: Send) -> None:
    """Answers one `trace` request by `send`ing messages, the one with "end" last.

    Runs until the history is sent, or with "follow" until the container has ended or `send` fails or is cancelled. A
    malformed request, or a container that is not known, is answered by one message with "error".
    """
    try:
        query = Query.of(body)
        await (_follow if query.follow else _history)(hub, rows, query, send)
    except InterceptorError as error:
        await send({"ok": False, "error": str(error)})
    else:
        await send({"ok": True, "end": True})


async def _history(hub: Hub, rows: Mapping[str, Syscall], query: Query, send: Send) -> None:
    await _send_all(hub, rows, hub.history(query.container, query.selection, query.last), send)


async def _follow(hub: Hub, rows: Mapping[str, Syscall], query: Query, send: Send) -> None:
    news = _News()
    history, follower = hub.follow(query.container, query.selection, news.wake, query.last)
    try:
        await _send_all(hub, rows, history, send)
        await _pass_on(hub, rows, follower, news, send)
    finally:
        hub.unfollow(follower)


class _News:
    """Lets session threads wake one task."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._event = trio.Event()

    def wake(self) -> None:
        """From any thread; RuntimeError (trio.RunFinishedError) once the event loop has ended."""
        self._token.run_sync_soon(self._set, idempotent=True)

    def _set(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
        self._event = trio.Event()


async def _pass_on(hub: Hub, rows: Mapping[str, Syscall], follower: Follower, news: _News, send: Send) -> None:
    while True:
        ended = follower.ended
        records, lost = follower.take()
        await _send_all(hub, rows, records, send)
        if lost:
            await send({"ok": True, "events": [], "lost": lost})
        if ended:
            return
        await news.wait()


async def _send_all(hub: Hub, rows: Mapping[str, Syscall], records: Sequence[Record], send: Send) -> None:
    titles = hub.titles()
    for batch in _batches(event(record, rows, titles.get(record.container)) for record in records):
        await send({"ok": True, "events": batch})


def _batches(events: Iterator[Event]) -> Iterator[list[Event]]:
    """Groups of events that fit into a message."""
    batch: list[Event] = []
    size = 0
    for one in events:
        batch.append(one)
        size += len(json.dumps(one))
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
