"""A keeper and its supervisor are started where none answers: once, however many ask, and free of all that the engine's
were.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
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
import json, os, socket, sys, threading
run = os.environ["INTERCEPTOR_RUN"]
own = "/proc/self/fd"
fds = {{fd: os.readlink(f"{{own}}/{{fd}}") for fd in os.listdir(own) if os.path.exists(f"{{own}}/{{fd}}")}}
with open(f"{{run}}/starts", "a") as starts:
    print(json.dumps({{"pid": os.getpid(), "sid": os.getsid(0), "cwd": os.getcwd(), "argv": sys.argv[1:], "fds": fds,
                      "notify": os.environ.get("NOTIFY_SOCKET"), "umask": os.umask(0)}}), file=starts)
listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listener.bind(f"{{run}}/control.sock")
listener.listen(64)
os.write(int(sys.argv[sys.argv.index("--ready-fd") + 1]), b"1")
def serve(connection):
    while connection.recv(1 << 17):
        connection.send(json.dumps({{"v": 1, "ok": True, "exec": ["/bin/true"]}}).encode())
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Path]:
    """A directory with a copy of the shim and, beside it, a supervisor of ours, which is ended afterwards."""
    shutil.copy(SHIM, tmp_path / "interceptor-runc")
    program = tmp_path / "interceptor"
    program.write_text(SUPERVISOR.format(python=sys.executable), encoding="utf-8")
    program.chmod(0o755)
    yield tmp_path
    for start in starts(tmp_path):
        os.kill(start["pid"], signal.SIGKILL)


def starts(bench: Path) -> list[dict[str, Any]]:
    path = bench / "run" / "starts"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def ask(bench: Path, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [bench / "interceptor-runc", "exec", "c1", "true"],
        env={"PATH": os.environ["PATH"], "INTERCEPTOR_RUN": str(bench / "run"), **more},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def answer(process: subprocess.Popen[str]) -> tuple[int, str]:
    """How it ended: status and stderr."""
    _, error = process.communicate(timeout=60)
    return process.returncode, error


def test_twenty_at_once_start_one(bench: Path) -> None:
    asking = [ask(bench) for _ in range(20)]
    assert [answer(process) for process in asking] == [(0, "")] * 20
    assert len(starts(bench)) == 1


def test_what_it_is_started_with(bench: Path) -> None:
    with (bench / "engine's file").open("w") as engine_file:
        os.set_inheritable(engine_file.fileno(), True)
        process = subprocess.Popen(
            [bench / "interceptor-runc", "exec", "c1", "true"],
            env={"PATH": os.environ["PATH"], "INTERCEPTOR_RUN": str(bench / "run"), "NOTIFY_SOCKET": "/x"},
            close_fds=False,
            umask=0o077,
        )
        assert process.wait(timeout=60) == 0
    (start,) = starts(bench)
    ready = start["argv"][-1]
    link = start["argv"][2]
    assert start["argv"] == ["supervise", "--keeper-fd", link, "--spawned", "--ready-fd", ready]
    assert (start["cwd"], start["notify"], start["umask"]) == ("/", None, 0o022)
    assert start["sid"] not in (start["pid"], os.getsid(0))
    log = f"{bench}/run/supervisor.log"
    fds = {fd: target for fd, target in start["fds"].items() if not target.endswith("/starts") and "/fd" not in target}
    assert fds == {"0": "/dev/null", "1": log, "2": log, ready: fds[ready], link: fds[link]}
    assert fds[ready].startswith("pipe:")
    assert fds[link].startswith("socket:")
    assert (bench / "run").stat().st_mode & 0o777 == 0o711
    assert Path(log).stat().st_mode & 0o777 == 0o600


def test_the_death_of_the_engine_s_process_group_does_not_reach_it(bench: Path) -> None:
    engine = subprocess.Popen(
        ["/bin/sh", "-c", f"{bench}/interceptor-runc exec c1 true; echo done; sleep 1000"],
        env={"PATH": os.environ["PATH"], "INTERCEPTOR_RUN": str(bench / "run")},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert engine.stdout
    with engine.stdout:
        assert engine.stdout.readline() == b"done\n"
        os.killpg(engine.pid, signal.SIGKILL)
        engine.wait()
    assert answer(ask(bench)) == (0, "")
    assert len(starts(bench)) == 1


def test_a_socket_that_a_dead_supervisor_left_is_no_hindrance(bench: Path) -> None:
    (bench / "run").mkdir()
    program = bench / "interceptor"
    program.write_text(program.read_text(encoding="utf-8").replace(
        "listener.bind", 'os.path.exists(f"{run}/control.sock") and os.unlink(f"{run}/control.sock"); listener.bind'
    ), encoding="utf-8")  # fmt: skip
    assert answer(ask(bench)) == (0, "")
    os.kill(starts(bench)[0]["pid"], signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{starts(bench)[0]['pid']}/fd/3").exists(), "the supervisor is gone", within=10)
    assert answer(ask(bench)) == (0, "")
    first, second = starts(bench)
    (bench / "run" / "starts").write_text(json.dumps(second) + "\n", encoding="utf-8")
    assert first["pid"] != second["pid"]


def test_one_that_ends_as_it_starts_is_quoted(bench: Path) -> None:
    script(bench / "interceptor", "echo first; echo 'policies/default.yaml:3:1: no such key' >&2; exit 1")
    status, error = answer(ask(bench))
    assert status == 1
    assert "ended as it started" in error
    assert "ends with: policies/default.yaml:3:1: no such key" in error


def test_without_a_program_to_start(bench: Path) -> None:
    (bench / "interceptor").unlink()
    status, error = answer(ask(bench, PATH="/nowhere"))
    assert status == 1
    assert 'no program "interceptor" beside this one or in PATH' in error
