"""What runtimes and strangers may send to the seccomp listener."""

from __future__ import annotations

import array
import json
import os
import socket

import pytest
import trio
import trio.testing

from interceptor.errors import InterceptorError, WireError
from interceptor.listener import ProcessState, parse, serve, serve_one
from interceptor.native import sockets

STATE = {
    "ociVersion": "1.0.2",
    "fds": ["other", "seccompFd"],
    "pid": 42,
    "metadata": "hello",
    "state": {"ociVersion": "1.0.2", "id": "c1", "status": "creating", "pid": 7, "bundle": "/b"},
}


@pytest.fixture(autouse=True)
def _root():
    if os.geteuid() != 0:
        pytest.skip("the listener serves root only; run the tests as root")


async def _exchange(tmp_path, conversation, accept):
    """Runs the server, lets `conversation(path)` talk to it from a thread, and ends it."""
    path = tmp_path / "seccomp.sock"
    listening = trio.socket.from_stdlib_socket(sockets.bind(path, socket.SOCK_STREAM))
    with listening:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, listening, accept)
            await trio.to_thread.run_sync(conversation, str(path))
            nursery.cancel_scope.cancel()


def _send(path, pieces, fds=()):
    """Sends `pieces`, the descriptors with the first, and waits until the server has closed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.connect(path)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        for i, piece in enumerate(pieces):
            peer.sendmsg([piece], ancillary if i == 0 else [])
        peer.shutdown(socket.SHUT_WR)
        assert peer.recv(1) == b""


def _open_fds():
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("cut", [1, 40, 1000])
def test_state_arrives_in_any_form_and_any_pieces(tmp_path, indent, cut):
    accepted = []
    text = json.dumps(STATE, indent=indent).encode()
    r, w = os.pipe()

    def accept(state, fd):
        accepted.append((state, os.fstat(fd).st_ino))
        os.close(fd)

    trio.run(
        _exchange,
        tmp_path,
        lambda path: _send(path, [text[:cut], text[cut:]] if cut < len(text) else [text], [w, r]),
        accept,
    )
    assert accepted == [(ProcessState("c1", 42, "hello"), os.fstat(r).st_ino)]
    os.close(r)
    os.close(w)


@pytest.mark.parametrize(
    ("text", "with_fd"),
    [
        (b"", False),
        (b"\x00\xff garbage", True),
        (b'{"fds": []}', True),
        (json.dumps({**STATE, "fds": ["seccompFd"]}).encode(), False),
        (json.dumps({**STATE, "fds": "seccompFd"}).encode(), True),
        (json.dumps({**STATE, "state": None}).encode(), True),
        (b"[" * 100000, True),
    ],
)
def test_garbage_costs_nobody_anything(tmp_path, text, with_fd):
    r, w = os.pipe()
    before = _open_fds()
    accepted = []

    def accept(state, fd):
        accepted.append(state)
        os.close(fd)

    def talk(path):
        _send(path, [text], [r] if with_fd else ())
        _send(path, [json.dumps({**STATE, "fds": ["seccompFd"]}).encode()], [r])

    trio.run(_exchange, tmp_path, talk, accept)
    assert [state.container for state in accepted] == ["c1"]
    assert _open_fds() == before
    os.close(r)
    os.close(w)


def test_a_notifier_that_nobody_wants_is_closed(tmp_path):
    r, w = os.pipe()

    def accept(_state, _fd):
        raise InterceptorError("unknown container")

    trio.run(
        _exchange,
        tmp_path,
        lambda path: _send(path, [json.dumps({**STATE, "fds": ["seccompFd"]}).encode()], [w]),
        accept,
    )
    os.close(w)
    assert os.read(r, 1) == b""  # end of file: the server's copy of the write end is gone too
    os.close(r)


def test_a_runtime_may_connect_two_minutes_before_it_has_something_to_send():
    """Crun makes the container in between."""
    accepted = []
    r, w = os.pipe()

    def accept(state, fd):
        accepted.append(state.container)
        os.close(fd)

    async def talk():
        ours, theirs = trio.socket.socketpair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_one, ours, accept)
            await trio.sleep(120)
            with theirs:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [r, w]))]
                await theirs.sendmsg([json.dumps(STATE).encode()], rights)

    trio.run(talk, clock=trio.testing.MockClock(autojump_threshold=0.05))
    assert accepted == ["c1"]
    os.close(r)
    os.close(w)


def test_parse_says_what_is_missing():
    for change, message in (
        ({"fds": ["x"]}, "seccompFd"),
        ({"fds": None}, "'fds'"),
        ({"state": {}}, "'id'"),
    ):
        with pytest.raises(WireError, match=message):
            parse(json.dumps({**STATE, **change}).encode(), 2)
    with pytest.raises(WireError, match="promises 2 descriptors; 1 came"):
        parse(json.dumps(STATE).encode(), 1)
