"""interceptor.client against a supervisor of the tests' own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support.fake_supervisor import FakeSupervisor, fake_supervisor, refusal, script

from interceptor import client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSupervisor]:
    monkeypatch.setenv("INTERCEPTOR_RUN", str(tmp_path))
    with fake_supervisor(tmp_path) as running:
        yield running


def test_a_call_and_its_answer(supervisor: FakeSupervisor) -> None:
    supervisor.answers["ping"] = {"pid": 7, "version": "0"}
    with client.connect() as connection:
        assert connection.call("ping", container="c1") == {"v": 1, "ok": True, "pid": 7, "version": "0"}
    assert supervisor.seen == [{"v": 1, "op": "ping", "container": "c1"}]


def test_descriptors_go_along(supervisor: FakeSupervisor, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, client.connect() as connection:
        connection.call("create", [file.fileno()])
    assert supervisor.fd_links == [[f"{tmp_path}/file"]]


def test_a_refusal_is_the_supervisor_s_own_words(supervisor: FakeSupervisor) -> None:
    supervisor.answers["shutdown"] = refusal("2 containers are registered")
    with client.connect() as connection, pytest.raises(client.RefusedError, match=r"^2 containers are registered$"):
        connection.call("shutdown")


def test_a_stream_ends_when_its_end_is_announced(supervisor: FakeSupervisor) -> None:
    messages = [{"events": [1, 2]}, {"events": [3]}, {"end": True}]
    supervisor.answers["trace"] = [json.dumps({"v": 1, "ok": True, **message}).encode() for message in messages]
    with client.connect() as connection:
        assert [event for message in connection.stream("trace", last=3) for event in message["events"]] == [1, 2, 3]


def test_a_supervisor_that_hangs_up(supervisor: FakeSupervisor) -> None:
    supervisor.answers["ps"] = None
    with client.connect() as connection, pytest.raises(client.ControlError, match="the supervisor went away"):
        connection.call("ps")


def test_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERCEPTOR_RUN", str(tmp_path))
    with pytest.raises(client.NoSupervisorError, match=rf"nobody listens on {tmp_path}/control.sock"):
        client.connect(spawn=False)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as left:
        left.bind(str(tmp_path / "control.sock"))
    with pytest.raises(client.NoSupervisorError):
        client.connect(spawn=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may connect to anything")
@pytest.mark.usefixtures("supervisor")
def test_others_are_told_that_only_root_may(tmp_path: Path) -> None:
    (tmp_path / "control.sock").chmod(0)
    with pytest.raises(client.ControlError, match="only root may ask"):
        client.connect()


def test_a_supervisor_that_cannot_be_started_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path / "interceptor-runc", "echo interceptor-runc supervise: no disk >&2; exit 1")
    monkeypatch.setenv("INTERCEPTOR_RUN", str(tmp_path / "run"))
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "interceptor")])
    with pytest.raises(client.ControlError, match=r"^interceptor-runc supervise: no disk$"):
        client.connect()


def test_one_that_can_be_started_is_then_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listens = "import socket; s = socket.socket(1, 5); s.bind('{run}/control.sock'); s.listen(); s.accept()[0].recv(9)"
    background = f'{sys.executable} -c "{listens.format(run=tmp_path)}" >/dev/null 2>&1 &'
    await_socket = f"while [ ! -e {tmp_path}/control.sock ]; do sleep 0.02; done"
    script(tmp_path / "interceptor-runc", f"{background}\n{await_socket}")
    monkeypatch.setenv("INTERCEPTOR_RUN", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "interceptor")])
    client.connect().close()


def test_the_import_takes_little() -> None:
    code = "import sys; before = {*sys.modules}; import interceptor.client; print(*({*sys.modules} - before))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"trio", "structlog", "cffi", "yaml", "asyncio", "pyroute2", "argparse"} & {*loaded}
