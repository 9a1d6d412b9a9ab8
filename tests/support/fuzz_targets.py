"""Fuzz targets in Python: each takes any bytes, and returns unless a promise is broken.

Run with atheris by `make fuzz`, which goes by coverage; in tests with their corpora and with simple changes of these.
"""

from __future__ import annotations

import errno
import os
import random
import socket
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio
from structlog.testing import capture_logs

from interceptor import registry
from interceptor.args import Arch, Buffer
from interceptor.calltext import parse
from interceptor.control import Control
from interceptor.errors import ConfigError, PolicyError, WireError
from interceptor.listener import serve_one
from interceptor.policy_file import SHIPPED, check
from interceptor.wire import decode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from interceptor.args import Want
    from interceptor.listener import ProcessState
    from interceptor.ports import Request
    from interceptor.registry import Syscall


class Input:
    """Bytes, taken from the front. Beyond the end there are zeros."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def left(self) -> int:
        return max(0, len(self._data) - self._at)

    def take(self, size: int) -> bytes:
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, size: int = 1) -> int:
        return int.from_bytes(self.take(size), "little")


# ---- the decoders of arguments ----


@cache
def _rows() -> tuple[Syscall, ...]:
    return tuple(registry.load().values())


def args(data: bytes) -> None:
    """Registers and memory of one call: values, or an errno that the kernel has for such memory. What is rendered can be read
    again.
    """
    source = Input(data)
    row = _rows()[source.number() % len(_rows())]
    arch = tuple(Arch)[source.number() % len(Arch)]
    registers = [source.number(source.number() % 9) for _ in range(6)]

    def read(wants: Sequence[Want]) -> list[bytes | None]:
        return [_memory(source, *want) for want in wants]

    try:
        decoded = row.signature.decode(registers, arch, read)
    except OSError as error:
        kinds = [field.kind for field in row.signature.pointers]
        declared = {getattr(kind, name, None) for kind in kinds for name in ("empty", "too_long")}
        assert error.errno in declared | {errno.EFAULT, errno.EINVAL}, error
        return
    text = row.signature.render(decoded)
    assert text.isprintable()
    if arch is Arch.X86_64 and "..." not in text and _is_whole(row, decoded):
        again = parse(f"{row.name}({text})", registry.load())
        assert row.signature.decode(again.registers, arch, again.read) == decoded, text


def _memory(source: Input, _address: int, limit: int, terminated: bool) -> bytes | None:
    """As interceptor.native.pin copies it."""
    size = source.number(2)
    if size == 0xFFFF:
        return None
    piece = source.take(min(size & 0x1FFF, limit)) + bytes(min(size >> 13, max(0, limit - size)))
    if terminated and b"\0" in piece:
        return piece[: piece.index(0) + 1]
    return piece or None


def _is_whole(row: Syscall, decoded: Any) -> bool:
    """Whether all of its memory was read: what was not is ``?``, and of a buffer that is too long nothing is read."""
    fields = {field.name: field.kind for field in row.signature.fields}
    lengths = {name: kind.length for name, kind in fields.items() if isinstance(kind, Buffer)}
    return all(kind.render(getattr(decoded, name)) != "?" for name, kind in fields.items()) and all(
        len(getattr(decoded, name)) == getattr(decoded, length) for name, length in lengths.items()
    )


def calltext(data: bytes) -> None:
    """A call as text, as `interceptor explain` takes it: registers and memory, or the column of the mistake."""
    try:
        parsed = parse(data.decode("utf-8", "replace"), registry.load())
    except ConfigError as error:
        assert str(error)
        return
    assert all(0 <= register < 1 << 64 for register in parsed.registers)


# ---- the control socket ----


def control(data: bytes) -> None:
    """Messages from root's side of the control socket: each that is one gets one answer, and no descriptor stays."""
    source = Input(data)
    messages = []
    while source.left and len(messages) < 8:
        fds = source.number() % 4
        messages.append((fds, source.take(source.number(2) % 4096)))
    before = _open_descriptors()
    with capture_logs() as logged:
        _converse(messages)
    assert not [event for event in logged if event.get("exc_info")], "a fault of ours"
    assert _open_descriptors() == before


def _converse(messages: list[tuple[int, bytes]]) -> None:
    def echo(request: Request) -> dict[str, Any]:
        return {"fds": len(request.fds), "keys": sorted(request.body)}

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    served = Control({"echo": echo}, {})
    server = threading.Thread(target=served.serve_one, args=[ours])
    server.start()
    with theirs:
        for fds, message in messages:
            if not message:
                continue  # the end of the conversation
            theirs.sendmsg([message], _gift(fds))
            answer = decode(theirs.recv(1 << 17))
            assert isinstance(answer["ok"], bool)
            assert answer["ok"] or isinstance(answer["error"], str)
            if answer["ok"]:
                assert answer["fds"] == fds
        theirs.shutdown(socket.SHUT_WR)
        server.join()
    assert not served.busy


@cache
def _null() -> int:
    return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)


def _gift(count: int) -> list[tuple[int, int, bytes]]:
    numbers = b"".join(_null().to_bytes(4, "little") for _ in range(count))
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)] if count else []


def _open_descriptors() -> int:
    _null()
    return len(os.listdir("/proc/self/fd"))


# ---- the listener of runtimes ----


def listener(data: bytes) -> None:
    """What a runtime may send, in pieces, short or long: a notifier is accepted or closed."""
    source = Input(data)
    pieces = []
    while source.left and len(pieces) < 6:
        fds = source.number() % 5
        pieces.append((fds, source.take(source.number(2))))
    before = _open_descriptors()
    accepted: list[tuple[ProcessState, int]] = []
    with capture_logs() as logged:
        trio.run(_send_state, pieces, accepted)
    assert accepted or logged or not any(piece for _, piece in pieces), "what is refused is said"
    for state, fd in accepted:
        assert isinstance(state.container, str)
        assert isinstance(state.pid, int)
        assert isinstance(state.metadata, str)
        os.close(fd)
    assert len(accepted) <= 1
    assert _open_descriptors() == before


async def _send_state(pieces: list[tuple[int, bytes]], accepted: list[tuple[ProcessState, int]]) -> None:
    ours, theirs = trio.socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_one, ours, lambda state, fd: accepted.append((state, fd)))
        with theirs:
            try:
                for fds, piece in pieces:
                    if piece:
                        await theirs.sendmsg([piece], _gift(fds))
            except (BrokenPipeError, ConnectionResetError):  # it had heard enough
                pass


# ---- policy files ----


@cache
def _directory() -> Path:
    directory = tempfile.TemporaryDirectory(prefix="interceptor-fuzz-")
    _kept.append(directory)
    return Path(directory.name)


_kept: list[Any] = []


def policy(data: bytes) -> None:
    """A policy file among the shipped ones: a policy, or mistakes that all say where they are."""
    path = _directory() / "fuzz.yaml"
    path.write_bytes(data)
    try:
        found = check(path, [SHIPPED])
    except PolicyError as error:
        assert error.where.startswith(str(path)), error.where
        assert error.what
        str(error)
        return
    assert found.name == "fuzz"


def wire(data: bytes) -> None:
    """One message: an object of our version, or WireError."""
    try:
        assert isinstance(decode(data), dict)
    except WireError as error:
        assert str(error)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "args": args, "calltext": calltext, "control": control, "listener": listener, "policy": policy, "wire": wire,
}  # fmt: skip


# ---- without atheris ----


def changed(corpus: Sequence[bytes], count: int, seed: int) -> list[bytes]:
    """Inputs made of those of a corpus by simple changes, as tests/fuzz/engine.c makes them."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    return [_change(bytearray(chance.choice(corpus)), corpus, chance) for _ in range(count)]


def _change(data: bytearray, corpus: Sequence[bytes], chance: random.Random) -> bytes:
    for _ in range(chance.randint(1, 6)):
        at, length = chance.randint(0, len(data)), chance.randint(1, 8)
        match chance.randint(0, 5):
            case 0 if at < len(data):
                data[at] ^= 1 << chance.randint(0, 7)
            case 1 if at < len(data):
                data[at] = chance.randint(0, 255)
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = chance.randbytes(length)
            case 4:
                start = chance.randint(0, len(data))
                data[at:at] = data[start : start + length]
            case _:
                other = chance.choice(corpus)
                data[at:] = other[chance.randint(0, len(other)) :]
    return bytes(data)
