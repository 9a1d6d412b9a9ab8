"""Several processes detach one loop device at the same time: whoever comes second must not take away the node itself.

For a few seconds here; ten times as long found it lost before detaching went by descriptor.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support import whole

SECONDS = int(os.environ.get("INTERCEPTOR_LOOP_RACE_SECONDS", "3"))

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


def mounts(box: whole.Box) -> set[str]:
    return {" ".join(line.split()[:5:4]) for line in Path(f"/proc/{box.init}/mountinfo").read_text().splitlines()}


def test_the_node_of_a_loop_device_stays() -> None:
    with whole.host("runc", {"loops": "extends: [loop]\nselectable: true\nlimits: {loop-devices: 1}\n"}) as host:
        box = host.box("loops")
        race = box.probe("loop_race")
        before = mounts(box)
        assert any(mount.endswith(" /dev/loop0") for mount in before)
        running = [
            subprocess.Popen(
                host.command(whole.ENTRY, "--root", host.directory / "oci", "exec", box.id, race, str(SECONDS), *file),
                env=host.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, cwd="/",
            )
            for file in ([], [], [], ["/data/file"])
        ]  # fmt: skip
        said = [process.communicate(timeout=60 + SECONDS)[0] for process in running]
        assert all(int(words) > 0 for words in said), said
        assert before <= mounts(box)
