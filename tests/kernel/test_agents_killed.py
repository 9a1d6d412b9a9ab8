"""Somebody kills agents in the middle of what they do: another one goes on, nothing is done twice, and nothing fails."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import whole
from support.under_fire import agents, killing_agents
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

SECONDS = 4
NAMES = """
i=0
while [ $i -lt 200 ]; do
    hostname web-$i && [ "$(hostname)" = web-$i ] || exit 1
    i=$((i + 1))
done
"""


@pytest.fixture(scope="module")
def host() -> Iterator[whole.Host]:
    with whole.host("crun") as host:
        yield host


@pytest.fixture
def box(host: whole.Host) -> Iterator[whole.Box]:
    box = host.box("names")
    yield box
    box.remove()


def test_nothing_fails(host: whole.Host, box: whole.Box) -> None:
    other = host.box()
    with killing_agents(host) as killed:
        mounts = (("proc", "/mnt"), ("sysfs", "/data"))
        load = [other.begin(other.probe("steady"), str(SECONDS), fstype, place) for fstype, place in mounts]
        load.append(box.begin("sh", "-c", NAMES))
        ended = [(process, *process.communicate(timeout=SECONDS + 60)) for process in load]
    assert not [(out, error) for process, out, error in ended if process.returncode], host.log.read_text()[-3000:]
    assert len(killed) > 4
    other.remove()


@pytest.mark.parametrize("command", [("mount", "-t", "proc", "none", "/mnt"), ("hostname", "web-7")], ids=["mount", "hostname"])
def test_one_that_had_not_begun(host: whole.Host, command: tuple[str, ...]) -> None:
    box = host.box()
    box.sh("mount -t proc none /mnt && umount /mnt")  # so that there is an agent
    stopped = agents(host)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    inside = box.begin(*command)
    with host.client() as client:
        wait_for(
            lambda: client.call("examine", container=box.id)["containers"][0]["handling_ms"] > 20, "the call", within=20
        )
    for pid in stopped:
        os.kill(pid, signal.SIGKILL)
    _, error = inside.communicate(timeout=60)
    assert (inside.returncode, error) == (0, "")
    lines = Path(f"/proc/{box.init}/mounts").read_text().splitlines()
    assert sum(line.split()[1] == "/mnt" for line in lines) == (command[0] == "mount")
