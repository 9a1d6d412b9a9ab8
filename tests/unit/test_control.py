"""The control socket's server: what a peer may do to it, and that nobody else notices."""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
import trio
from support.waiting import wait_for

from interceptor import accepting
from interceptor.control import Control
from interceptor.errors import ConfigError, InterceptorError
from interceptor.native import sockets
from interceptor.wire import CONTROL_MESSAGE_MAX, CONTROL_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from interceptor.control import Send
    from interceptor.ports import Request


@pytest.fixture(autouse=True)
def _root() -> None:
    if os.geteuid() != 0:
        pytest.skip("the control socket serves root only; run the tests as root")


class Peer:
    """One connection to the server under test."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(10)
        self.socket.connect(str(path))

    def send(self, body: object, fds: list[int] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.socket.sendmsg([data], ancillary)

    def receive(self) -> dict[str, Any] | None:
        data = self.socket.recv(2 * CONTROL_MESSAGE_MAX)
        return json.loads(data) if data else None

    def ask(self, operation: object, **fields: object) -> dict[str, Any]:
        self.send({"v": CONTROL_VERSION, "op": operation, **fields})
        reply = self.receive()
        assert reply is not None
        assert reply.pop("v") == CONTROL_VERSION
        return reply

    def close(self) -> None:
        self.socket.close()


class Served:
    """A server on a thread of its own, with what the operations below remember."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.undone = threading.Event()
        self.fds: list[int] = []
        self.control = Control(
            {"echo": self._echo, "fail": self._fail, "hold": self._hold, "large": self._large},
            {"count": self._count, "broken": self._broken},
        )
        self._started = threading.Event()
        self._scope = trio.CancelScope()
        self._thread = threading.Thread(target=trio.run, args=(self._serve,))
        self.peers: list[Peer] = []

    def peer(self) -> Peer:
        self.peers.append(Peer(self.path))
        return self.peers[-1]

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(5)
        return self

    def __exit__(self, *_: object) -> None:
        for peer in self.peers:
            peer.close()
        alive = self._thread.is_alive()
        if alive:
            trio.from_thread.run_sync(self._scope.cancel, trio_token=self._token)
        self._thread.join(5)
        assert alive, "the server did not outlive its peers"

    async def _serve(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        with sockets.bind(self.path, socket.SOCK_SEQPACKET) as listening:
            with self._scope:
                self._started.set()
                await self.control.serve(listening)
            listening.shutdown(socket.SHUT_RDWR)

    def _echo(self, request: Request) -> Mapping[str, Any]:
        self.fds = list(request.fds)
        return {
            "told": request.body.get("say"),
            "links": [str(Path(f"/proc/self/fd/{fd}").readlink()) for fd in request.fds],
        }

    def _fail(self, request: Request) -> Mapping[str, Any]:
        kind = {"ours": InterceptorError("it is 5; it must be 6"), "os": FileNotFoundError(2, "No such file", "/x")}
        raise kind.get(str(request.body["how"]), ZeroDivisionError("a secret"))

    def _hold(self, request: Request) -> Mapping[str, Any]:
        request.on_disconnect.callback(self.undone.set)
        if request.body.get("undo") == "fails":
            request.on_disconnect.callback(lambda: 1 // 0)
        return {}

    def _large(self, _request: Request) -> Mapping[str, Any]:
        return {"text": "x" * CONTROL_MESSAGE_MAX}

    async def _count(self, body: Mapping[str, Any], send: Send) -> None:
        for number in range(int(body["until"])):
            await send({"ok": True, "number": number})

    async def _broken(self, _body: Mapping[str, Any], _send: Send) -> None:
        raise ConfigError("no such thing")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path / "control.sock") as server:
        yield server


def test_an_operation_answers_and_the_connection_goes_on(served: Served) -> None:
    peer = served.peer()
    assert peer.ask("echo", say=5) == {"ok": True, "told": 5, "links": []}
    assert peer.ask("echo", say="é") == {"ok": True, "told": "é", "links": []}


def test_descriptors_come_along_and_are_closed_afterwards(served: Served, tmp_path: Path) -> None:
    peer = served.peer()
    with (tmp_path / "file").open("w") as file:
        peer.send({"v": 1, "op": "echo"}, [file.fileno()] * 3)
        reply = peer.receive()
        assert reply is not None
        assert reply["links"] == [file.name] * 3
    wait_for(lambda: file.name not in open_paths(), "they are closed", within=5)


def open_paths() -> set[str]:
    return {os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}


def test_too_many_descriptors_are_refused_and_none_stays(served: Served, tmp_path: Path) -> None:
    peer = served.peer()
    with (tmp_path / "file").open("w") as file:
        peer.send({"v": 1, "op": "echo"}, [file.fileno()] * (sockets.MAX_FDS + 5))
        reply = peer.receive()
    assert reply is not None
    assert f"{sockets.MAX_FDS} descriptors" in reply["error"]
    wait_for(lambda: file.name not in open_paths(), "they are closed", within=5)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[]", "list"),
        (b'{"op":"echo"}', "version None"),
        (b'{"v":2,"op":"echo"}', "version 2"),
        (b'{"v":1}', "unknown operation None; there are broken, count, echo, fail, hold, large"),
        (b'{"v":1,"op":["echo"]}', "unknown operation"),
        (b'{"v":1,"op":{}}', "unknown operation"),
        (b"x" * (CONTROL_MESSAGE_MAX + 1), f"at most {CONTROL_MESSAGE_MAX} bytes"),
    ],
)
def test_garbage_is_refused_with_the_reason_and_the_connection_goes_on(
    served: Served, message: bytes, error: str
) -> None:
    peer = served.peer()
    peer.send(message)
    reply = peer.receive()
    assert reply is not None
    assert reply["ok"] is False
    assert error in reply["error"]
    assert peer.ask("echo")["ok"]


def test_what_is_nested_deeply_fits_on_a_threads_stack() -> None:
    """In a process of its own, which a stack that is too small would end."""
    program = (
        "import threading; from interceptor.supervisor import STACK_SIZE; from interceptor.wire import parse\n"
        "def read():\n"
        "    try: parse(b'[{\"a\":' * 50_000)\n"
        "    except Exception as error: print(error)\n"
        "threading.stack_size(STACK_SIZE // 2); thread = threading.Thread(target=read); thread.start(); thread.join()"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "JSON nested too deeply\n", done


def test_an_error_that_quotes_much_still_arrives(served: Served) -> None:
    peer = served.peer()
    reply = peer.ask("\x01" * 20_000)
    assert "unknown operation" in reply["error"]


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("ours", "it is 5; it must be 6"),
        ("os", "fail: [Errno 2] No such file: '/x'"),
        ("bug", "fail: a fault of the supervisor's; see its log"),
    ],
)
def test_a_failed_operation_says_why_and_no_more(served: Served, how: str, error: str) -> None:
    peer = served.peer()
    assert peer.ask("fail", how=how) == {"ok": False, "error": error}
    assert peer.ask("echo")["ok"]


def test_an_answer_that_is_too_long_is_an_error(served: Served) -> None:
    peer = served.peer()
    reply = peer.ask("large")
    assert reply["ok"] is False
    assert str(CONTROL_MESSAGE_MAX) in reply["error"]
    assert peer.ask("echo")["ok"]


@pytest.mark.parametrize("undo", ["works", "fails"])
def test_what_was_not_finished_is_undone_when_the_peer_goes(served: Served, undo: str) -> None:
    peer = served.peer()
    assert peer.ask("hold", undo=undo)["ok"]
    assert not served.undone.is_set()
    peer.close()
    assert served.undone.wait(5)
    wait_for(lambda: served.control.busy == 0, "the connection is forgotten", within=5)


def test_a_stream_sends_several_and_the_connection_goes_on(served: Served) -> None:
    peer = served.peer()
    assert peer.ask("count", until=2) == {"ok": True, "number": 0}
    second = peer.receive()
    assert second is not None
    assert second["number"] == 1
    assert peer.ask("echo")["ok"]


def leave_at_once(peer: Peer) -> None:
    peer.send({"v": 1, "op": "count", "until": 1_000_000})
    peer.close()


def leave_after_one(peer: Peer) -> None:
    peer.ask("count", until=1_000_000)
    peer.close()


def fail_in_stream(peer: Peer) -> None:
    peer.send({"v": 1, "op": "broken"})


def fail_badly_in_stream(peer: Peer) -> None:
    peer.send({"v": 1, "op": "count", "until": "x"})


def leave_before_the_answer(peer: Peer) -> None:
    """Until the server's answers fill the peer's buffer, and its own requests the server's."""
    peer.socket.settimeout(0.2)
    with suppress(TimeoutError):
        while True:
            peer.send({"v": 1, "op": "echo", "say": "x" * 60_000})
    peer.close()


@pytest.mark.parametrize(
    "rude", [leave_at_once, leave_after_one, fail_in_stream, fail_badly_in_stream, leave_before_the_answer]
)
def test_a_rude_peer_ends_its_own_connection_only(served: Served, rude: Callable[[Peer], None]) -> None:
    rude(served.peer())
    wait_for(lambda: served.control.busy in {0, 1}, "its connection is over", within=5)
    assert served.peer().ask("echo", say=1)["told"] == 1


def test_a_connection_that_comes_at_the_end_is_left_to_who_listens_next(tmp_path: Path) -> None:
    with sockets.bind(tmp_path / "control.sock", socket.SOCK_SEQPACKET) as listening:
        listening.setblocking(False)
        taken: list[socket.socket | None] = []
        thread = threading.Thread(target=lambda: taken.append(accepting.take(listening, lambda: False)))
        thread.start()
        with contextlib.closing(Peer(tmp_path / "control.sock")) as peer:
            thread.join(10)
            assert taken == [None]
            with listening.accept()[0] as connection:
                connection.send(b"{}")
            assert peer.receive() == {}


def test_a_connection_waits_while_there_are_no_descriptors(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "PAUSE", 0.01)
    import resource  # noqa: PLC0415 - only here

    peers = [served.peer() for _ in range(2)]
    assert all(peer.ask("echo")["ok"] for peer in peers)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    late = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    late.settimeout(10)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, hard))
    filling = []
    try:
        with contextlib.suppress(OSError):
            while True:
                filling.append(os.dup(late.fileno()))
        late.connect(str(served.path))
        late.send(b'{"v":1,"op":"echo"}')
        late.settimeout(0.2)
        with pytest.raises(TimeoutError):
            late.recv(1000)
    finally:
        for fd in filling:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    late.settimeout(10)
    assert json.loads(late.recv(1000))["ok"]
    late.close()
