"""What the supervisor says of itself and of a container when something is wrong."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import pytest
from support import whole
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


@pytest.fixture(scope="module")
def box() -> Iterator[whole.Box]:
    with whole.host("runc", kept=True) as host:
        yield host.box()


def test_a_dump_has_state_stacks_and_the_newest_calls(box: whole.Box) -> None:
    box.sh("mount -t proc none /mnt && umount /mnt")
    os.kill(box.host.supervisor_pid(), signal.SIGUSR1)
    reports = box.host.directory / "run/reports"
    (path,) = wait_for(lambda: list(reports.glob("dump-*.json")), "a dump", within=10)
    report = wait_for(lambda: path.stat().st_size and json.loads(path.read_text()), "the whole dump", within=10)
    assert [container["id"] for container in report["containers"]] == [box.id]
    assert any("session" in name for name in report["stacks"])
    assert "mount" in {call["call"] for call in report["calls"]}
    assert path.stat().st_mode & 0o777 == 0o644
    assert reports.stat().st_mode & 0o777 == 0o700


def test_a_healthy_container_is_called_so(box: whole.Box) -> None:
    assert "Its calls are answered." in box.host.interceptor("doctor", "--container", box.id)


def test_a_container_whose_init_has_ended_is_not(box: whole.Box) -> None:
    os.kill(box.init, signal.SIGKILL)
    wait_for(lambda: not os.path.exists(f"/proc/{box.init}/exe"), "the end of init", within=10)  # noqa: PTH110
    done = box.host.run(whole.PROGRAM, "doctor", "--container", box.id, "--json")
    judged = {finding["what"]: finding["verdict"] for finding in json.loads(done.stdout)}
    assert judged["init"] == "warning"


def test_an_unknown_container_is_an_error(box: whole.Box) -> None:
    done = box.host.run(whole.PROGRAM, "doctor", "--container", "nothing")
    assert (done.returncode, "nothing" in done.stderr) == (1, True)
