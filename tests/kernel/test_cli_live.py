"""`interceptor trace` and `ps` of a real supervisor and a real container: every intercepted call, and the rule for it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import oci
from support.bundles import world_readable_directory
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.root, pytest.mark.kernel]

if os.geteuid() != 0:
    pytest.skip("needs root", allow_module_level=True)
if shutil.which("runc") is None:
    pytest.skip("runc is not installed", allow_module_level=True)

PROGRAM = Path(sys.executable).parent / "interceptor"
ENTRY = Path(sys.executable).parent / "interceptor-runc"

POLICY = """\
extends: [default]
match: {annotations: {org.example.test: live}}
calls:
  sethostname:
    - when: {name: "web-*"}
      do: emulate
    - do: {deny: EPERM}
"""

SCRIPT = """\
mount -t proc proc /tmp; umount /tmp
mount -t debugfs none /tmp; umount /tmp
mount -t cifs -o user=u,password=hunter2 //server/share /tmp
hostname web-1; hostname evil
umount /proc
sleep 1000
"""


class Live:
    """A supervisor, and one container, in a mount namespace of their own."""

    def __init__(self, directory: Path, undo: ExitStack) -> None:
        self.directory = directory
        self.id = f"live-{uuid.uuid4().hex[:8]}"
        (directory / "policies").mkdir()
        (directory / "policies/live.yaml").write_text(POLICY)
        self.environment = os.environ | {
            "INTERCEPTOR_RUN": str(directory / "run"),
            "INTERCEPTOR_STATE": str(directory / "state"),
            "INTERCEPTOR_POLICIES": str(directory / "policies"),
            "INTERCEPTOR_RUNTIME": "runc",
        }
        self._keeper = subprocess.Popen(["unshare", "-m", "--propagation", "private", "sleep", "infinity"])
        undo.callback(_end, self._keeper)
        own = Path("/proc/self/ns/mnt").stat().st_ino
        keepers = Path(f"/proc/{self._keeper.pid}/ns/mnt")
        wait_for(lambda: keepers.stat().st_ino != own, "a mount namespace", within=10)
        self._log = undo.enter_context((directory / "log").open("w"))
        undo.callback(_end, self.start(PROGRAM, "supervise"))
        wait_for((directory / "run/control.sock").exists, "the supervisor's socket", within=20)

    def start(self, *command: str | Path, output: int | None = None) -> subprocess.Popen[str]:
        """A command in the mount namespace, in the background."""
        inside = ["nsenter", f"--mount=/proc/{self._keeper.pid}/ns/mnt", "--", *command]
        stream = self._log if output is None else output
        return subprocess.Popen(inside, env=self.environment, text=True, stdout=stream, stderr=self._log, cwd="/")

    def interceptor(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [PROGRAM, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            cwd="/",
        )

    def events(self, *arguments: str) -> list[dict[str, Any]]:
        done = self.interceptor("trace", "--json", *arguments)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def entry(self, *arguments: str) -> list[str | Path]:
        return [ENTRY, "--root", str(self.directory / "oci"), *arguments]

    def create(self) -> subprocess.Popen[str]:
        """The container, with what it does when it starts."""
        rootfs = oci.busybox_rootfs(self.directory / "rootfs")
        values = oci.config(rootfs, "sh", "-c", SCRIPT, cgroup=f"/interceptor-{self.id}")
        bundle = self.directory / "bundle"
        bundle.mkdir()
        (bundle / "config.json").write_text(json.dumps(values | {"annotations": {"org.example.test": "live"}}))
        return self.start(*self.entry("run", "--bundle", str(bundle), self.id))

    def delete(self) -> None:
        """Idempotent."""
        assert self.start(*self.entry("delete", "--force", self.id)).wait(20) == 0


def _end(process: subprocess.Popen[Any]) -> None:
    process.terminate()
    process.wait(20)


@pytest.fixture
def live() -> Iterator[Live]:
    with world_readable_directory() as directory, ExitStack() as undo:
        live = Live(directory, undo)
        container = live.create()
        try:
            wait_for(lambda: live.events("-s", "umount2", "--denied"), "the container's last call", within=30)
            yield live
        finally:
            live.delete()
            container.wait(20)


def test_the_trace_tells_what_happened(live: Live) -> None:
    events = live.events()
    said = [(e["call"], e["args"].get("fstype"), e["result"], e["errno"], e["how"]) for e in events]
    assert [s for s in said if s[0] == "mount"] == [
        ("mount", "proc", 0, None, "emulated"),
        ("mount", "debugfs", 0, None, "emulated"),
        ("mount", "cifs", None, None, "continued"),
    ]
    assert [s[2:] for s in said if s[0] == "sethostname"][-2:] == [(0, None, "emulated"), (-1, "EPERM", "denied")]
    assert said[-1][2:] == (-1, "EBUSY", "denied")
    assert {e["container"] for e in events} == {live.id}
    assert [e["time_ns"] for e in events] == sorted(e["time_ns"] for e in events)
    assert all(e["rule"] for e in events)
    assert "hunter2" not in json.dumps(events)

    lines = live.interceptor("trace", live.id[:8], "--denied", "-s", "sethostname").stdout.splitlines()
    line, explanation = (line for line in lines if not line.startswith("--"))
    assert 'sethostname("evil", 4)' in line
    assert "= -1 EPERM (Operation not permitted) <denied> live.yaml:7" in line
    assert f"refused by {live.directory}/policies/live.yaml:7" in explanation
    assert len(live.events("-n", "2")) == 2
    assert (
        live.interceptor("trace", "nosuch").stderr == f"interceptor: no container 'nosuch': there are {live.id[:12]}\n"
    )


def test_the_trace_is_followed_until_the_container_ends(live: Live) -> None:
    follower = live.start(PROGRAM, "trace", "-f", "--json", "-n", "1", live.id, output=subprocess.PIPE)
    assert follower.stdout is not None
    assert json.loads(follower.stdout.readline())["args"] == {"target": "/proc", "flags": 0}
    assert live.start(*live.entry("exec", live.id, "hostname", "web-2")).wait(20) == 0
    events = []
    while not events or events[-1]["args"] is None or events[-1]["args"].get("name") != "web-2":
        events.append(json.loads(follower.stdout.readline()))
    assert events[-1]["how"] == "emulated"
    live.delete()
    rest, _ = follower.communicate(timeout=20)
    assert follower.returncode == 0
    assert all(json.loads(line)["container"] == live.id for line in rest.splitlines())
    assert live.interceptor("trace", live.id, "-n", "1").stdout, "a container that ended can still be asked about"
    assert live.interceptor("ps", "-q").stdout == ""


def test_ps_counts(live: Live) -> None:
    [container] = json.loads(live.interceptor("ps", "--json").stdout)
    assert (container["id"], container["policy"], container["ids"][1]) == (live.id, "live", 65536)
    assert container["denied"] == 2
    assert container["calls"] == len(live.events())
    assert Path(f"/proc/{container['pid']}/comm").exists()
    header, row = live.interceptor("ps").stdout.splitlines()
    assert len(header.split()) == len(row.split())
