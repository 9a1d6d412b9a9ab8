"""The keeper process with a supervisor of the test's: what it holds, hands over and stores, and when it ends."""

from __future__ import annotations

import array
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.fake_supervisor import SHIM, script
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

SUPERVISOR = r"""#!{python}
import json, os, signal, socket, sys
run = os.environ["INTERCEPTOR_RUN"]
link = socket.socket(fileno=int(sys.argv[sys.argv.index("--keeper-fd") + 1]))
held = []
while True:
    data, fds, _, _ = socket.recv_fds(link, 8192, 1)
    if data[:1] != b"E":
        break
    held.append([part.decode() for part in data[1:].split(b"\0")[:3]] + [os.readlink(f"/proc/self/fd/{{fds[0]}}")])
with open(f"{{run}}/starts", "a") as starts:
    print(json.dumps({{"pid": os.getpid(), "held": held, "argv": sys.argv[1:]}}), file=starts)
if os.path.exists(f"{{run}}/fail"):
    sys.exit(3)
if not held:
    ours, _ = os.pipe()
    socket.send_fds(link, [b"Knotifier\0c1/7\0pid 5\0"], [ours])
link.send(b"R")
signal.pause()
"""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Path]:
    shutil.copy(SHIM, tmp_path / "interceptor-runc")
    script(tmp_path / "interceptor", "").write_text(SUPERVISOR.format(python=sys.executable), encoding="utf-8")
    (tmp_path / "run").mkdir()
    yield tmp_path
    for start in starts(tmp_path):
        with contextlib.suppress(ProcessLookupError):
            os.kill(start["pid"], signal.SIGKILL)


def starts(bench: Path) -> list[dict[str, Any]]:
    path = bench / "run/starts"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def keeper(bench: Path, *prefix: str, pass_fds: tuple[int, ...] = (), **environment: str) -> subprocess.Popen[bytes]:
    with (bench / "log").open("ab") as log:
        return subprocess.Popen(
            [*prefix, bench / "interceptor-runc", "keep", "--service"], pass_fds=pass_fds, stdin=subprocess.DEVNULL,
            stderr=log, env={"PATH": os.environ["PATH"], "INTERCEPTOR_RUN": f"{bench}/run", **environment},
        )  # fmt: skip


def await_pipe(process: subprocess.Popen[bytes]) -> None:
    """Until the keeper holds it."""

    def held() -> bool:
        return any("pipe" in str(fd.readlink()) for fd in Path(f"/proc/{process.pid}/fd").iterdir())

    wait_for(held, "what it is to hold", within=10)


def started(bench: Path, count: int) -> dict[str, Any]:
    wait_for(lambda: len(starts(bench)) >= count, f"start {count}", within=20)
    return starts(bench)[count - 1]


def test_what_is_held_is_handed_to_the_next(bench: Path) -> None:
    process = keeper(bench)
    first = started(bench, 1)
    assert (first["held"], first["argv"][:2]) == ([], ["supervise", "--keeper-fd"])
    await_pipe(process)
    os.kill(first["pid"], signal.SIGKILL)
    ((kind, key, note, target),) = started(bench, 2)["held"]
    assert (kind, key, note) == ("notifier", "c1/7", "pid 5")
    assert target.startswith("pipe:")
    process.terminate()
    assert process.wait(20) == 0


def test_starts_that_fail_are_tried_again_more_and_more_slowly(bench: Path) -> None:
    process = keeper(bench)
    first = started(bench, 1)
    await_pipe(process)
    (bench / "run/fail").touch()
    os.kill(first["pid"], signal.SIGKILL)
    started(bench, 4)
    (bench / "run/fail").unlink()
    count = len(starts(bench))
    assert started(bench, count + 1)["held"], "nothing is lost"
    process.terminate()
    assert process.wait(20) == 0


def test_one_that_never_came_up_and_holds_nothing_is_not_tried_again(bench: Path) -> None:
    (bench / "run/fail").touch()
    process = keeper(bench)
    assert process.wait(20) == 0
    assert len(starts(bench)) == 1


def received(manager: socket.socket) -> tuple[str, list[int]]:
    data, ancillary, _, _ = manager.recvmsg(4096, socket.CMSG_SPACE(64))
    fds = array.array("i")
    for _, _, payload in ancillary:
        fds.frombytes(payload)
    return data.decode(), list(fds)


def test_a_service_manager_stores_it_for_the_next_keeper(bench: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"{bench}/notify")
        manager.settimeout(20)
        process = keeper(bench, NOTIFY_SOCKET=f"{bench}/notify")
        text, (stored,) = received(manager)
        assert text == "FDSTORE=1\nFDNAME=notifier.c1/7\nFDPOLL=0\n"
        assert received(manager) == ("READY=1\n", [])
    process.kill()
    process.wait()
    os.kill(started(bench, 1)["pid"], signal.SIGKILL)
    again = keeper(
        bench, "bash", "-c", f'LISTEN_PID=$$ exec "$@" 3<&{stored}', "bash",
        pass_fds=(stored,), LISTEN_FDS="1", LISTEN_FDNAMES="notifier.c1/7",
    )  # fmt: skip
    os.close(stored)
    ((kind, key, _, target),) = started(bench, 2)["held"]
    assert (kind, key, target.startswith("pipe:")) == ("notifier", "c1/7", True)
    again.terminate()
    assert again.wait(20) == 0
