"""The same bundle without us: by the stock runtime alone, as real root, with no user namespace of the container's.

What an attack is worth is shown there, where nothing of ours stands in its way. To be used for attacks whose effect ends with
the container: its root is the host's.
"""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING

from support.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support import whole


class Stock:
    """One container; it may not have come to life."""

    def __init__(self, box: whole.Box, *options: str | Path) -> None:
        self._box = box
        self._command = [box.host.runtime, "--root", box.host.directory / "stock"]
        said, pid = box.directory / "stock-output", box.directory / "stock-pid"
        run = [*self._command, "run", "--detach", *options, "--pid-file", pid, "--bundle", box.bundle, box.id]
        with said.open("w") as stream:  # no pipe: the container would hold it open
            done = subprocess.run(
                box.host.command(*run),
                stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, check=False, timeout=60 * PATIENCE, cwd="/",
            )  # fmt: skip
        self.said = said.read_text()
        self.init = int(pid.read_text()) if done.returncode == 0 else 0

    def exec(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return self._box.host.run(*self._command, "exec", self._box.id, *command)

    def remove(self) -> None:
        self._box.host.run(*self._command, "delete", "--force", self._box.id)


@contextlib.contextmanager
def stock(box: whole.Box, *options: str | Path) -> Iterator[Stock]:
    """`box`, which was not started, by the runtime alone; `options` of its `run`. Gone in the end."""
    made = Stock(box, *options)
    try:
        yield made
    finally:
        made.remove()
