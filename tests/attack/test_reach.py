"""What of ours comes near a container: helpers in its pid namespace, descriptors, and the sockets on the host."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support import whole

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

CALLS = 500
WORKS = "mount -t proc p /mnt && umount /mnt && echo works"


def test_helpers_in_the_containers_own_pid_namespace(lent: whole.Box) -> None:
    """Limits and nice values are set by a child there: root may see it, and do nothing to it."""
    said = lent.exec(lent.probe("attack"), "strangers", str(CALLS)).stdout.splitlines()
    assert [line for line in said if not line.startswith("seen ")] == []
    assert int(said[-1].split()[1]) > 0


OURS = re.compile("seccomp|journal|memfd|interceptor|pidfd|mnt:|user:")


def test_no_descriptor_of_ours_is_seen_inside(lent: whole.Box) -> None:
    """Neither notifier, journal, namespace nor socket, in any process there, while calls are made and commands start."""
    supervisors = {str(path.readlink()) for path in Path(f"/proc/{lent.host.supervisor.pid}/fd").iterdir()}
    assert [link for link in supervisors if "seccomp" in link], "nothing to be found"
    enough = lent.rootfs / "data/enough"
    watch = subprocess.Popen(
        lent.host.command(
            whole.ENTRY, "--root", lent.host.directory / "oci", "exec", lent.id, lent.probe("attack"), "descriptors",
            "/data/enough",
        ),
        env=lent.host.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, cwd="/",
    )  # fmt: skip
    try:
        for _ in range(15):
            assert lent.sh(WORKS) == "works\n"
    finally:
        enough.touch()
        said, _ = watch.communicate(timeout=60)
    enough.unlink()
    assert "/proc" in said.splitlines()
    assert [link for link in said.splitlines() if OURS.search(link) and "output" not in link] == []


# -- the sockets -----------------------------------------------------------------------------------------------------------

POISON: dict[str, object] = {
    "not even JSON": "{",
    "another's id, and no notifier": {"state": {"id": "BOX", "pid": 1, "status": "running"}},
    "another's id, and the supervisor's pid": {"state": {"id": "BOX", "pid": "SUPERVISOR"}},
    "a negative pid": {"state": {"id": "BOX", "pid": -1}},
    "a path for an id": {"state": {"id": "../../etc", "pid": 1}},
    "a list for an id": {"state": {"id": ["BOX"], "pid": 1}},
    "a number for a name": {"fds": [7], "state": {"id": "BOX"}},
    "more names than descriptors": {"fds": ["a", "b", "c", "seccompFd"], "state": {"id": "BOX"}},
    "long metadata": {"state": {"id": "BOX", "pid": 1}, "metadata": "x" * 500_000},
    "a nest": "[" * 200_000,
}


@pytest.mark.parametrize("what", POISON)
def test_a_poisoned_process_state(box: whole.Box, what: str) -> None:
    """Runtimes send them. Whatever stands in one: a descriptor that is no notifier of the container's changes nothing."""
    supervisor = box.host.supervisor.pid
    value = POISON[what]
    text = value if isinstance(value, str) else json.dumps({"ociVersion": "1.0.2", "fds": ["seccompFd"], **dict(value)})  # type: ignore[call-overload]
    data = text.replace('"SUPERVISOR"', str(supervisor)).replace("BOX", box.id).encode()
    for name in ("/dev/null", "/dev/zero", "/proc/self/ns/user"):
        with socket.socket(socket.AF_UNIX) as sender, Path(name).open("rb") as file, contextlib.suppress(BrokenPipeError):
            sender.connect(str(box.host.directory / "run/seccomp.sock"))
            socket.send_fds(sender, [data[:1000]], [file.fileno()])
            sender.sendall(data[1000:])
    assert box.sh(WORKS) == "works\n"


CONNECT = """\
import os, socket, sys
os.setgid({uid}); os.setuid({uid})
with socket.socket(socket.AF_UNIX, socket.{kind}) as s:
    s.connect(sys.argv[1])
    s.send(b'{{"id": 1, "method": "ping"}}')
    s.settimeout(20)
    print(s.recv(100))
"""


@pytest.mark.parametrize(("name", "kind"), [("seccomp", "SOCK_STREAM"), ("control", "SOCK_SEQPACKET")])
@pytest.mark.parametrize("opened", [False, True], ids=["as it is", "with the mode of anybody's"])
def test_a_container_that_got_out_cannot_speak_to_us(box: whole.Box, name: str, kind: str, opened: bool) -> None:
    """Its root on the host's side of the wall: neither may it connect, nor is it heard when it could."""
    at = box.host.directory / f"run/{name}.sock"
    uid = int(Path(f"/proc/{box.init}/uid_map").read_text().split()[1])
    before = at.stat().st_mode
    at.chmod(0o666 if opened else before)
    try:
        done = subprocess.run(
            [sys.executable, "-c", CONNECT.format(uid=uid, kind=kind), at], check=False, capture_output=True, text=True,
            timeout=60,
        )  # fmt: skip
    finally:
        at.chmod(before)
    if opened:
        refused = ("only root may", "b''", "ConnectionResetError", "BrokenPipeError")
        assert any(word in done.stdout + done.stderr for word in refused), done
    else:
        assert "PermissionError" in done.stderr
