"""Runs a program of a container's own in it, by `interceptor-runc exec`, as an engine would.

It has what its engine and we demand of every process of the container: namespaces, cgroups, capabilities, the seccomp filter
with our listener. Nothing is lent to it, and nothing of ours is in its reach but a pipe.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from interceptor.errors import InterceptorError
from interceptor.native import children
from interceptor.native.namespaces import in_mount_namespace
from runtime import process
from runtime import record as records

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtime.config import Places

ENTRY = str(Path(sys.executable).with_name("interceptor-runc"))
"""Not the runtime itself: in the container's time namespace it would take its init for another process."""
SAID_MAX = 4096
"""Bytes of output that are kept, and read at most."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def launch(places: Places, container_id: str, argv: Sequence[bytes], seconds: float) -> tuple[int, str]:
    """The program's exit status and the end of its output; 255 and 127 as runc and crun say that it does not exist.

    InterceptorError when it has not ended after `seconds`. A daemon may go on: what is waited for is the process itself.
    """
    record = records.load(places.container(container_id))
    namespace = process.mount_namespace(record.namespace)
    if namespace is None:
        raise InterceptorError(f"container {container_id}: the mount namespace that created it is gone")
    command = [ENTRY, *record.options, "exec", "--user", "0:0", "--cwd", "/", "--env", f"PATH={PATH}", container_id]
    with namespace, in_mount_namespace(namespace.fileno()):
        runtime = children.Popen[bytes](
            [*map(os.fsencode, command), *argv],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/", start_new_session=True,
        )  # fmt: skip
    with runtime:
        try:
            said = _output(runtime, time.monotonic() + seconds)
            return runtime.wait(timeout=max(0.1, seconds)), said.decode(errors="replace").strip()
        except (TimeoutError, subprocess.TimeoutExpired):
            os.killpg(runtime.pid, signal.SIGKILL)
            raise InterceptorError(f"{argv[0].decode(errors='replace')} has not ended within {seconds:g} s") from None


def _output(runtime: children.Popen[bytes], until: float) -> bytes:
    """What it says until it closes its output or has said enough. TimeoutError."""
    assert runtime.stdout is not None  # noqa: S101 - a pipe was asked for
    said = b""
    with selectors.DefaultSelector() as selector:
        selector.register(runtime.stdout, selectors.EVENT_READ)
        while len(said) < SAID_MAX:
            if not selector.select(max(0.0, until - time.monotonic())):
                raise TimeoutError
            piece = os.read(runtime.stdout.fileno(), SAID_MAX - len(said))
            if not piece:
                break
            said += piece
    return said
