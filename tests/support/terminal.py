"""A command on a terminal of its own, and what its screen shows: for `docker exec -it` and `docker run -it`.

The master side stays open until close(): a process whose console hangs up behaves differently (systemd retries
/dev/console with sleeps of a second, docker detaches).
"""

from __future__ import annotations

import os
import re
import select
import subprocess
import termios
import time
from typing import TYPE_CHECKING, Self

from support.waiting import DeadlineError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_=>])")
"""ECMA-48 control sequences and operating-system commands: how the screen looks, not what it says."""


class Terminal:
    """A running command; to be used as a context manager."""

    def __init__(
        self, command: Sequence[str], *, env: Mapping[str, str] | None = None, rows: int = 24, columns: int = 120
    ) -> None:
        environment = {**(env if env is not None else os.environ), "TERM": "xterm"}
        self._master, slave = os.openpty()
        termios.tcsetwinsize(slave, (rows, columns))
        # setsid(1) makes the terminal the controlling one, as a login shell's is; fork is subprocess's business.
        command = ["setsid", "--ctty", *command]
        self._process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment)
        os.close(slave)
        self._raw = ""

    @property
    def screen(self) -> str:
        """Everything shown so far, without control sequences and carriage returns."""
        return ESCAPES.sub("", self._raw).replace("\r", "")

    def send(self, text: str) -> None:
        """Type `text`."""
        os.write(self._master, text.encode())

    def expect(self, pattern: str, *, within: float = 10.0) -> re.Match[str]:
        """Wait until the screen matches."""
        deadline = time.monotonic() + within
        while not (match := re.search(pattern, self.screen)):
            if not self._read(deadline - time.monotonic()):
                raise DeadlineError(f"terminal: {pattern!r} not within {within:g} s; the screen:\n{self.screen}")
        return match

    def wait(self, *, within: float = 10.0) -> int:
        """The exit status, with the screen read to its end; negative for a signal."""
        deadline = time.monotonic() + within
        while self._read(deadline - time.monotonic()):
            pass
        try:
            return self._process.wait(timeout=max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            raise DeadlineError(
                f"terminal: the command did not end within {within:g} s; the screen:\n{self.screen}"
            ) from None

    def close(self) -> None:
        """Hang up, and end the command if that did not."""
        if self._master < 0:
            return
        os.close(self._master)
        self._master = -1
        self._process.kill()
        self._process.wait()

    def _read(self, seconds: float) -> bool:
        """Read what comes within `seconds`; False at the deadline and at the end of the output (EIO on a pty)."""
        readable, _, _ = select.select([self._master], [], [], max(seconds, 0))
        if not readable:
            return False
        try:
            piece = os.read(self._master, 65536)
        except OSError:
            return False
        self._raw += piece.decode(errors="replace")
        return bool(piece)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
