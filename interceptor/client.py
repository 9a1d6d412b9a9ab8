"""Asks the supervisor over its control socket: what `interceptor ps`, `trace` and the like are made of.

Standard library only, and quick to import: a command that prints five lines should not take a supervisor's start-up.
Starting a supervisor where none answers is left to ``interceptor-runc supervise``, so that the lock, the detaching and
the waiting for readiness are written once.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from interceptor.errors import InterceptorError
from interceptor.wire import CONTROL_MESSAGE_MAX, decode, encode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

ANSWER_SECONDS = 120.0
"""How long a call waits: preparing a root filesystem may wait for a slow disk."""


class ControlError(InterceptorError):
    """The supervisor could not be asked."""


class NoSupervisorError(ControlError):
    """Nobody listens on the control socket."""


class RefusedError(ControlError):
    """The supervisor's answer is no; the message is its own."""


def run_directory() -> Path:
    """$INTERCEPTOR_RUN or /run/interceptor."""
    directory = os.environ.get("INTERCEPTOR_RUN") or "/run/interceptor"
    if not directory.startswith("/"):
        raise ControlError(f'INTERCEPTOR_RUN is "{directory}"; it must be an absolute path')
    return Path(directory)


def program(name: str) -> str:
    """One of our other programs: beside this one, beside the interpreter, or in PATH."""
    for directory in (Path(sys.argv[0]).parent, Path(sys.executable).parent):
        if os.access(directory / name, os.X_OK):
            return str((directory / name).absolute())
    for directory in map(Path, os.get_exec_path()):
        if os.access(directory / name, os.X_OK):
            return str(directory / name)
    raise ControlError(f"there is no {name} beside {sys.argv[0]} or in PATH; is the installation complete?")


class Client:
    """One connection to the supervisor; a context manager. Not for several threads."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection: the supervisor undoes whatever was not completed on it."""
        self._connection.close()

    def call(self, op: str, fds: Sequence[int] = (), **body: Any) -> dict[str, Any]:
        """The answer to one operation; RefusedError with the supervisor's words when it is no."""
        self._connection.settimeout(ANSWER_SECONDS)
        self._send(op, fds, body)
        return self._receive()

    def stream(self, op: str, **body: Any) -> Iterator[dict[str, Any]]:
        """The answers to an operation that has several, without the one that says "end"."""
        self._connection.settimeout(ANSWER_SECONDS)
        self._send(op, (), body)
        self._connection.settimeout(None)
        while not (answer := self._receive()).get("end"):
            yield answer

    def _send(self, op: str, fds: Sequence[int], body: dict[str, Any]) -> None:
        message = encode({"op": op, **body})
        try:
            if fds:
                socket.send_fds(self._connection, [message], fds)
            else:
                self._connection.send(message)
        except OSError as error:
            raise ControlError(f"cannot send to the supervisor: {error.strerror or error}") from error

    def _receive(self) -> dict[str, Any]:
        try:
            data = self._connection.recv(CONTROL_MESSAGE_MAX)
        except TimeoutError:
            raise ControlError(f"the supervisor does not answer within {ANSWER_SECONDS:g} s") from None
        except ConnectionResetError:
            data = b""
        except OSError as error:
            raise ControlError(f"cannot receive from the supervisor: {error.strerror}") from error
        if not data:
            raise ControlError("the supervisor went away")
        answer = decode(data)
        if answer.get("ok") is not True:
            raise RefusedError(str(answer.get("error") or "the supervisor refused and did not say why"))
        return answer


def _open() -> Client:
    path = run_directory() / "control.sock"
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        connection.connect(str(path))
    except OSError as error:
        connection.close()
        if isinstance(error, FileNotFoundError | ConnectionRefusedError):
            raise NoSupervisorError(f"no supervisor runs (nobody listens on {path})") from None
        if isinstance(error, PermissionError):
            raise ControlError(f"only root may ask the supervisor: {path}: {error.strerror}") from None
        raise ControlError(f"cannot connect to the supervisor on {path}: {error.strerror or error}") from error
    return Client(connection)


def _spawn() -> None:
    """Make sure that a supervisor listens."""
    command = [program("interceptor-runc"), "supervise"]
    result = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if result.returncode != 0:
        raise ControlError(result.stderr.strip() or f"{command[0]} supervise: exit status {result.returncode}")


def connect(*, spawn: bool = True) -> Client:
    """A connection to the supervisor; without one, start it, or raise NoSupervisorError when not to `spawn`."""
    try:
        return _open()
    except NoSupervisorError:
        if not spawn:
            raise
    _spawn()
    return _open()
