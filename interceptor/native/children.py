"""The programs that a supervisor starts beside its agents: subprocess, whose children nobody has to fear while they are young
(forks.h says why one would).
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any, AnyStr

from interceptor.native._native import lib as _lib

if TYPE_CHECKING:
    from collections.abc import Sequence


class Popen(subprocess.Popen[AnyStr]):
    """subprocess.Popen, which returns when the child has executed its program."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        _lib.ic_fork_begin()
        try:
            super().__init__(*arguments, **more)
        finally:
            _lib.ic_fork_end()


def run(command: Sequence[str], *, timeout: float | None = None, **more: Any) -> subprocess.CompletedProcess[str]:
    """subprocess.run without input, as text, that keeps what the program says."""
    with Popen[str](
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", **more
    ) as process:
        try:
            said, complaints = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()  # and is reaped
            raise
    return subprocess.CompletedProcess(command, process.returncode, said, complaints)
