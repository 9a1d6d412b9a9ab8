"""What of ours comes near a container: helpers in its pid namespace, descriptors, and the sockets on the host."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import tracees, whole
from support.mounts import mounts
from support.waiting import wait_for

from interceptor.client import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

CALLS = 500
SETHOSTNAME = 170
WORKS = "mount -t proc p /mnt && umount /mnt && echo works"


def test_helpers_in_the_containers_own_pid_namespace(lent: whole.Box) -> None:
    """Limits and nice values are set by a child there: root may see it, and do nothing to it."""
    said = lent.exec(lent.probe("attack"), "strangers", str(CALLS)).stdout.splitlines()
    assert [line for line in said if not line.startswith("seen ")] == []
    assert int(said[-1].split()[1]) > 0


def test_the_same_is_done_to_a_process_of_ones_own(lent: whole.Box) -> None:
    said = lent.exec(lent.probe("attack"), "own").stdout.splitlines()
    assert {"read", "read environ", "read fd", "read root/etc", "traced", "limited", "got descriptor 0", "killed"} <= set(said)


OURS = re.compile("seccomp|journal|memfd|interceptor|pidfd|mnt:|user:")


@contextlib.contextmanager
def looking(box: whole.Box, said: list[str]) -> Iterator[None]:
    """What every descriptor that is seen inside meanwhile is; each once."""
    enough = box.rootfs / "data/enough"
    watch = subprocess.Popen(
        box.host.command(
            whole.ENTRY, "--root", box.host.directory / "oci", "exec", box.id, box.probe("attack"), "descriptors",
            "/data/enough",
        ),
        env=box.host.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, cwd="/",
    )  # fmt: skip
    try:
        yield
    finally:
        enough.touch()
        said += watch.communicate(timeout=60)[0].splitlines()
        enough.unlink()


def test_no_descriptor_of_ours_is_seen_inside(lent: whole.Box) -> None:
    """Neither notifier, journal, namespace nor socket, in any process there, while calls are made and commands start."""
    supervisors = {str(path.readlink()) for path in Path(f"/proc/{lent.host.supervisor.pid}/fd").iterdir()}
    assert [link for link in supervisors if "seccomp" in link], "nothing to be found"
    said: list[str] = []
    with looking(lent, said):
        for _ in range(15):
            assert lent.sh(WORKS) == "works\n"
    assert "/proc" in said
    assert [link for link in said if OURS.search(link) and "output" not in link] == []


def test_such_a_descriptor_would_be_seen(lent: whole.Box) -> None:
    """Of a command that has one for as long as one of the others takes."""
    said: list[str] = []
    with looking(lent, said):
        for _ in range(5):
            assert lent.sh(f"exec 9</proc/self/ns/mnt; {WORKS}") == "works\n"
    assert [link for link in said if link.startswith("mnt:")]


# -- the sockets -----------------------------------------------------------------------------------------------------------

Claim = tuple[object, bool]
"""What is sent, and whether it is taken: where only the descriptor is not what it should be."""

POISON: dict[str, Claim] = {
    "the truth": ({"state": {"id": "BOX", "pid": 1}}, True),
    "not even JSON": ("{", False),
    "no name for the descriptor": ({"fds": ["pidfd"], "state": {"id": "BOX"}}, False),
    "another's pid": ({"pid": "SUPERVISOR", "state": {"id": "BOX", "pid": "SUPERVISOR"}}, True),
    "a negative pid": ({"pid": -1, "state": {"id": "BOX", "pid": -1}}, True),
    "nobody's id": ({"state": {"id": "BOX-2", "pid": 1}}, False),
    "a path for an id": ({"state": {"id": "../../etc", "pid": 1}}, False),
    "a path to the id": ({"state": {"id": "./BOX", "pid": 1}}, False),
    "a list for an id": ({"state": {"id": ["BOX"], "pid": 1}}, False),
    "a number for a name": ({"fds": [7], "state": {"id": "BOX"}}, False),
    "more names than descriptors": ({"fds": ["a", "b", "c", "seccompFd"], "state": {"id": "BOX"}}, False),
    "long metadata": ({"state": {"id": "BOX", "pid": 1}, "metadata": "x" * 500_000}, True),
    "too long": ({"state": {"id": "BOX", "pid": 1}, "metadata": "x" * 2_000_000}, False),
    "a nest": ("[" * 200_000, False),
}


def claim(box: whole.Box, value: object) -> bytes:
    """What is written for it. The pid is a number: runtimes know no other."""
    state = {"ociVersion": "1.0.2", "fds": ["seccompFd"], **value} if isinstance(value, dict) else value
    text = state if isinstance(state, str) else json.dumps(state)
    return text.replace('"SUPERVISOR"', str(box.host.supervisor.pid)).replace("BOX", box.id).encode()


def send_claim(box: whole.Box, data: bytes, descriptor: int) -> None:
    """As a runtime sends a ContainerProcessState; who does not like it may end the connection at any time."""
    with socket.socket(socket.AF_UNIX) as sender, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        sender.connect(str(box.host.directory / "run/seccomp.sock"))
        socket.send_fds(sender, [data[:1000]], [descriptor])
        sender.sendall(data[1000:])


@pytest.mark.parametrize("what", POISON)
def test_a_poisoned_process_state(box: whole.Box, what: str) -> None:
    """Runtimes send them. Whatever stands in one: a descriptor that is no notifier changes nothing."""
    data = claim(box, POISON[what][0])
    for name in ("/dev/null", "/dev/zero", "/proc/self/ns/user"):
        with Path(name).open("rb") as file:
            send_claim(box, data, file.fileno())
    assert box.sh(WORKS) == "works\n"


@pytest.mark.parametrize("what", POISON)
def test_a_notifier_comes_with_a_poisoned_process_state(box: whole.Box, what: str) -> None:
    """The same with a real one: it is closed, so that its process hears ENOSYS, but where the claim is as good as the truth."""
    value, taken = POISON[what]
    with tracees.watched("u", SETHOSTNAME) as tracee:
        send_claim(box, claim(box, value), tracee.fd)
        os.close(tracee.fd)
        tracee.fd = -1
        assert tracee.set_name() == (0 if taken else -errno.ENOSYS)
    assert box.sh(WORKS) == "works\n"


@pytest.mark.parametrize("whose", ["the host's", "another container's"])
def test_an_init_that_is_somebody_elses(host: whole.Host, box: whole.Box, whose: str) -> None:
    """While a container is being created, a process of somebody else's is said to be its init: by a runtime with the notifier,
    by the entry in the end. That one's mounts stay as they are, over which the container's devices and leaves would lie.
    """
    made = whole.Box(host, whole.ALL, ())
    argv = ["--root", str(host.directory / "oci"), "create", "--bundle", str(made.bundle), made.id]
    body = {"id": made.id, "bundle": str(made.bundle), "argv": argv, "runtime": host.runtime, "stdio_null": False}
    with stranger() as pid_of_stranger:
        pid = pid_of_stranger if whose == "the host's" else box.init
        before = mounts(pid)
        with host.client() as entry, Path("/dev/null").open("rb") as file:
            with host.mount_namespace.open("rb") as namespace:
                entry.call("create", [namespace.fileno()], **body)
            send_claim(box, json.dumps({"fds": ["seccompFd"], "pid": pid, "state": {"id": made.id}}).encode(), file.fileno())
            wait_for(lambda: f"container={made.id} pid={pid}" in host.log.read_text(), "that it was heard", within=20)
            with pytest.raises(RefusedError, match="does not live in its user namespace"):
                entry.call("created", id=made.id, status=0, pid=pid)
        made.remove()  # and what was begun has ended
        assert mounts(pid) == before
    assert box.sh(WORKS) == "works\n"


@contextlib.contextmanager
def stranger() -> Iterator[int]:
    """A process of the host's in a mount namespace of its own."""
    with subprocess.Popen(["unshare", "-m", "--propagation", "private", "sleep", "infinity"]) as process:
        try:
            own = Path("/proc/self/ns/mnt").stat().st_ino
            wait_for(lambda: Path(f"/proc/{process.pid}/ns/mnt").stat().st_ino != own, "a mount namespace", within=10)
            yield process.pid
        finally:
            process.kill()


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
