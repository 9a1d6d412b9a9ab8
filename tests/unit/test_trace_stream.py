"""The control operation `trace`."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import trio

from interceptor import wire
from interceptor.args import Arch, OptionalData, Path, Signature
from interceptor.errors import WireError
from interceptor.trace import How, Hub, Record
from interceptor.trace.stream import Query, serve
from interceptor.verdict import Fail, Return

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class TwoArgs:
    path: Path
    data: OptionalData


ROWS: Any = {"mount": SimpleNamespace(signature=Signature.of(TwoArgs))}


def record(number: int, how: How = How.EMULATED, args: Any = None) -> Record:
    verdict = Fail(errno.EPERM) if how is How.DENIED else Return()
    return Record(number, "c1", 7, "sh", "mount", args, (0,) * 6, Arch.X86_64, verdict, how, "default.yaml:1", 3.0)


class Sink:
    """Collects what is sent, and refuses what would not fit into a message."""

    def __init__(self) -> None:
        self.messages: list[Mapping[str, Any]] = []
        self.arrived = trio.Event()

    async def send(self, message: Mapping[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        wire.encode(message)
        self.messages.append(message)
        self.arrived.set()

    @property
    def times(self) -> list[int]:
        return [e["time_ns"] for m in self.messages for e in m.get("events", ())]

    async def until(self, count: int) -> None:
        """Waits until `count` events have arrived."""
        while len(self.times) < count:
            self.arrived = trio.Event()
            await self.arrived.wait()


def test_history_is_sent_and_ended() -> None:
    async def main() -> None:
        hub, sink = Hub(), Sink()
        ring = hub.open("c1", "web")
        for number in range(5):
            ring.publish(record(number, How.DENIED if number == 2 else How.EMULATED))
        await serve(hub, ROWS, {"container": "web", "last": 3}, sink.send)
        assert sink.times == [2, 3, 4]
        assert sink.messages[-1] == {"ok": True, "end": True}
        assert sink.messages[0]["events"][0]["name"] == "web"
        sink = Sink()
        await serve(hub, ROWS, {"how": ["denied"], "calls": ["mount"]}, sink.send)
        assert sink.times == [2]

    trio.run(main)


def test_messages_stay_within_their_size() -> None:
    async def main() -> None:
        hub, sink = Hub(), Sink()
        ring = hub.open("c1")
        worst = TwoArgs(b"\x01" * 4095, b"\x01" * 4096)
        for number in range(50):
            ring.publish(record(number, args=worst))
        await serve(hub, ROWS, {}, sink.send)
        assert sink.times == list(range(50))
        assert len(sink.messages) > 2

    trio.run(main)


def test_following_passes_on_what_threads_publish_and_ends_with_the_container() -> None:
    async def main() -> None:
        hub, sink = Hub(), Sink()
        ring = hub.open("c1")
        ring.publish(record(1))
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve, hub, ROWS, {"container": "c1", "follow": True}, sink.send)
                await sink.until(1)
                await trio.to_thread.run_sync(ring.publish, record(2))
                await sink.until(2)
                await trio.to_thread.run_sync(ring.publish, record(3))
                await trio.to_thread.run_sync(hub.retire, "c1")
        assert sink.times == [1, 2, 3]
        assert sink.messages[-1] == {"ok": True, "end": True}
        assert ring.followers == ()

    trio.run(main)


def test_a_cancelled_follower_leaves_nothing_behind() -> None:
    async def main() -> None:
        hub, sink = Hub(), Sink()
        ring = hub.open("c1")
        ring.publish(record(1))
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve, hub, ROWS, {"follow": True}, sink.send)
                await sink.until(1)
                nursery.cancel_scope.cancel()
        assert ring.followers == ()

    trio.run(main)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ({"container": 5}, '"container" is 5'),
        ({"last": -1}, '"last" is -1'),
        ({"last": "x"}, "\"last\" is 'x'"),
        ({"calls": "mount"}, "\"calls\" is 'mount'"),
        ({"follow": 1}, '"follow" is 1'),
        ({"how": [5]}, '"how" is'),
        ({"how": ["emulatd"]}, '"how" has emulatd; there are emulated, continued'),
    ],
)
def test_a_malformed_request_is_explained(body: Mapping[str, Any], complaint: str) -> None:
    with pytest.raises(WireError, match=complaint):
        Query.of(body)


def test_an_unknown_container_is_explained() -> None:
    async def main() -> None:
        for body in ({"container": "x", "follow": True}, {"container": "x"}, {"last": "x"}):
            sink = Sink()
            await serve(Hub(), ROWS, body, sink.send)
            assert [m["ok"] for m in sink.messages] == [False]
            assert "'x'" in sink.messages[0]["error"]

    trio.run(main)
