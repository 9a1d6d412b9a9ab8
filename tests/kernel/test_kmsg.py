"""/dev/kmsg inside: an empty kernel log, in agreement with syslog(2)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from support import whole

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

EMPTY = "extends: [default]\nselectable: true\nkmsg: empty\n"


@pytest.fixture(params=["runc", "crun"], scope="module")
def host(request: pytest.FixtureRequest) -> Iterator[whole.Host]:
    with whole.host(request.param, {"empty": EMPTY}) as host:
        yield host


def test_it_is_empty_and_takes_what_is_written(host: whole.Host) -> None:
    box = host.box("empty")
    assert box.sh("stat -c '%F %a %u:%g' /dev/kmsg") == "character special file 644 0:0\n"
    assert box.sh("echo '<6>a line' >/dev/kmsg; cat /dev/kmsg; busybox dmesg") == ""
    assert box.exec("sh", "-c", "echo x >/dev/kmsg", user="1000:1000").returncode != 0


def test_it_is_there_when_a_policy_says_so_and_the_engines_own_stays(host: whole.Host) -> None:
    assert host.box().sh("ls /dev/kmsg 2>/dev/null || echo none") == "none\n"
    zero = {"destination": "/dev/kmsg", "type": "bind", "source": "/dev/zero", "options": ["bind", "rw"]}
    assert host.box("empty", mounts=[zero]).sh("busybox head -c 3 /dev/kmsg | busybox od -An -tx1") == " 00 00 00\n"
