"""A supervisor that answers what a test wants it to, and the command line of interceptor-runc beside it."""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

SHIM = Path(sys.executable).parent / "interceptor-runc"

Answer = Mapping[str, Any] | bytes | list[bytes] | None
"""What goes back: an object that becomes {"v":1,"ok":true,…}, bytes as they are, several of them, None to hang up."""


class FakeSupervisor:
    """Listens on `run`/control.sock; `answers` is asked by operation name; `seen` holds the requests in order."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.answers: dict[str, Answer | Callable[[dict[str, Any]], Answer]] = {}
        self.seen: list[dict[str, Any]] = []
        self.fd_links: list[list[str]] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connections: list[socket.socket] = []

    def start(self) -> None:
        self._listener.bind(str(self.run / "control.sock"))
        self._listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        (self.run / "control.sock").unlink(missing_ok=True)

    def drop_connections(self) -> None:
        """Hang up on everybody, as a supervisor that dies does."""
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def operations(self) -> list[str]:
        return [request["op"] for request in self.seen]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(ConnectionError, BrokenPipeError):
            while True:
                data, ancillary, _, _ = connection.recvmsg(256 * 1024, socket.CMSG_SPACE(64))
                if not data:
                    break
                answer = self._answer(json.loads(data), ancillary)
                if answer is None:
                    break
                for message in answer:
                    connection.send(message)

    def _answer(self, request: dict[str, Any], ancillary: list[Any]) -> list[bytes] | None:
        fds = array.array("i")
        for _, _, payload in ancillary:
            fds.frombytes(payload)
        self.fd_links.append([str(Path(f"/proc/self/fd/{fd}").readlink()) for fd in fds])
        for fd in fds:
            os.close(fd)
        self.seen.append(request)
        answer = self.answers.get(request["op"], {})
        if callable(answer):
            answer = answer(request)
        if answer is None or isinstance(answer, list):
            return answer
        return [answer if isinstance(answer, bytes) else json.dumps({"v": 1, "ok": True, **answer}).encode()]


@contextlib.contextmanager
def fake_supervisor(run: Path) -> Iterator[FakeSupervisor]:
    supervisor = FakeSupervisor(run)
    supervisor.start()
    try:
        yield supervisor
    finally:
        supervisor.stop()


def refusal(why: str) -> bytes:
    return json.dumps({"v": 1, "ok": False, "error": why}).encode()


def script(path: Path, text: str) -> Path:
    """An executable shell script."""
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def shim(
    *arguments: str | bytes | Path, run: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """interceptor-runc with the given arguments, its output as text."""
    return subprocess.run(
        [SHIM, *arguments],
        check=False,
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "INTERCEPTOR_RUN": str(run), **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=60,
    )
