"""A storm of signals over a tracee that mounts in a loop: nothing happens twice, nothing fails.

With crun the filter has SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV where the kernel knows it; runc before 1.5 cannot set it,
and there every signal restarts the call under a new notification.
"""

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
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


@pytest.fixture(params=["crun", "runc"], scope="module")
def box(request: pytest.FixtureRequest) -> Iterator[whole.Box]:
    with whole.host(request.param) as host:
        yield host.box()


@pytest.mark.parametrize("interval", [1000, 100, 0], ids=["every ms", "every 100 µs", "without a pause"])
@pytest.mark.parametrize("fstype", ["proc", "debugfs", "sysfs"])
def test_no_mount_is_doubled_lost_or_refused(box: whole.Box, fstype: str, interval: int) -> None:
    storm = box.probe("signal_storm")
    rounds = 1500 if interval else 100  # without a pause the tracee hardly gets to anything but its handler
    done = box.exec(storm, str(rounds), str(interval), fstype, "/mnt", timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    words = done.stdout.split()
    seen = dict(zip(words[::2], map(int, words[1::2]), strict=True))
    assert seen["signals"] > 100, "there was no storm"
