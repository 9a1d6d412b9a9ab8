"""`interceptor run` with the real supervisor and stock runc and crun, in mount and network namespaces of its own."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.bundles import busybox_rootfs, world_readable_directory
from support.terminal import Terminal
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.root, pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

INTERCEPTOR = Path(sys.executable).parent / "interceptor"
INTERFACES = "import socket; print(*(name for _, name in socket.if_nameindex()))"
SHUTDOWN = "from interceptor.client import connect; connect(spawn=False).call('shutdown', force=True)"


class Host:
    """Namespaces with a run and a state directory in which one runtime is used."""

    def __init__(self, directory: Path, runtime: str) -> None:
        self.directory = directory
        self.run_directory = directory / "run"
        self.state = directory / "state"
        self.rootfs = busybox_rootfs(directory / "rootfs")
        self.environment = {
            "PATH": os.environ["PATH"],
            "INTERCEPTOR_RUN": str(self.run_directory),
            "INTERCEPTOR_STATE": str(self.state),
            "INTERCEPTOR_RUNTIME": runtime,
        }
        # crun before 1.29 refuses the hybrid cgroup layout.
        layout = "umount --lazy /sys/fs/cgroup/unified 2>/dev/null; " if runtime == "crun" else ""
        ready = f"{layout}echo ready; exec sleep infinity"
        self._holder = subprocess.Popen(["unshare", "--mount", "--net", "sh", "-c", ready], stdout=subprocess.PIPE)
        assert self._holder.stdout
        with self._holder.stdout:
            assert self._holder.stdout.readline() == b"ready\n"

    def close(self) -> None:
        self.inside(sys.executable, "-c", SHUTDOWN)
        wait_for(lambda: not self.processes(), "the supervisor has ended", within=20)
        self._holder.kill()
        self._holder.wait()

    def processes(self) -> list[str]:
        """Command lines of all that run for us."""
        mark = f"INTERCEPTOR_RUN={self.run_directory}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        found.append((entry / "cmdline").read_text(errors="replace").replace("\0", " "))
                except OSError:
                    continue
        return found

    def command(self, *words: str | Path) -> list[str]:
        return ["nsenter", f"--target={self._holder.pid}", "--mount", "--net", *map(str, words)]

    def inside(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            check=False,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def interceptor(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return self.inside(INTERCEPTOR, *arguments)

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(INTERCEPTOR, *arguments),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def left(self) -> list[str]:
        """What containers leave if they are not cleaned up after."""
        names = self.inside(sys.executable, "-c", INTERFACES).stdout.split()
        interfaces = [f"interface {name}" for name in names if name.startswith(("icpt", "interceptor"))]
        mounts = [
            line for line in self.inside("cat", "/proc/self/mountinfo").stdout.splitlines() if str(self.state) in line
        ]
        places = [f"place {path.name}" for path in self.state.glob("run/*") if not path.name.endswith(".lock")]
        records = [f"record {path.name}" for path in self.run_directory.glob("containers/*")]
        network = [str(path) for path in self.run_directory.glob("network.json")]
        return [*interfaces, *mounts, *places, *records, *network]

    def expect_nothing_left(self) -> None:
        # The kernel takes network namespaces and their interfaces away a moment after their last process.
        wait_for(lambda: not self.left(), f"nothing is left: {self.left()}", within=10)


@pytest.fixture(scope="module", params=["runc", "crun"])
def module_host(request: pytest.FixtureRequest) -> Iterator[Host]:
    if not shutil.which(request.param):
        pytest.skip(f"no {request.param} on this host")
    with world_readable_directory() as directory:
        host = Host(directory, request.param)
        try:
            yield host
        finally:
            host.close()


@pytest.fixture
def host(module_host: Host) -> Iterator[Host]:
    yield module_host
    for name in (path.name for path in module_host.state.glob("run/*") if not path.name.startswith(".")):
        module_host.interceptor("rm", "--force", name)
    module_host.expect_nothing_left()


def test_output_and_status_are_the_container_s(host: Host) -> None:
    script = "id -u; echo err >&2; cat /etc/hostname; exit 6"
    result = host.interceptor("run", "--rootfs", host.rootfs, "--name", "c1", "--", "sh", "-c", script)
    assert (result.returncode, result.stdout, result.stderr) == (6, "0\nc1\n", "err\n")
    host.expect_nothing_left()


def test_the_root_filesystem_is_not_written_to_unless_asked(host: Host) -> None:
    write = ["--net", "none", "--", "sh", "-c", "echo hello > /tmp/written; ls -ln /tmp/written"]
    result = host.interceptor("run", "--rootfs", host.rootfs, *write)
    assert result.stdout.split()[2:4] == ["0", "0"]
    assert not (host.rootfs / "tmp" / "written").exists()
    assert host.interceptor("run", "--rootfs-rw", host.rootfs, *write).returncode == 0
    written = host.rootfs / "tmp" / "written"
    assert (written.read_text(encoding="utf-8"), written.stat().st_uid) == ("hello\n", 0)


def test_what_the_command_line_asks_for_is_there(host: Host, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)  # user 7 shall look into it
    (tmp_path / "file").write_text("volume\n", encoding="utf-8")
    script = "echo $A; id -u; id -g; hostname; cat /vol/file; ls -ln /vol/file; echo x > /vol/file"
    result = host.interceptor(
        "run", "--net", "none", "--rootfs", host.rootfs, "-e", "A=b=c", "-u", "7:8", "--hostname", "h1", "-w", "/etc",
        "-v", f"{tmp_path}:/vol:ro", "--memory", "64m", "--cpus", "0.5", "--", "sh", "-c", script,
    )  # fmt: skip
    *lines, listing = result.stdout.splitlines()
    assert lines == ["b=c", "7", "8", "h1", "volume"]
    assert listing.split()[2:4] == ["0", "0"]
    assert "Read-only file system" in result.stderr


def test_containers_at_once_have_addresses_of_their_own(host: Host) -> None:
    gate = host.directory / "gate"
    gate.mkdir()
    script = "cat /etc/hosts; ls /sys/class/net; echo ready; while ! test -e /gate/open; do sleep 0.05; done"
    more = ["-v", f"{gate}:/gate", "--rootfs", host.rootfs, "--", "sh", "-c", script]
    running = [host.start("run", "--name", f"n{number}", *more) for number in range(5)]
    seen = [_until(process, "ready") for process in running]
    (gate / "open").touch()
    assert [(process.communicate(timeout=60), process.returncode) for process in running] == [(("", ""), 0)] * 5
    addresses = [
        line.split()[0] for number, lines in enumerate(seen) for line in lines if line.endswith(f"\tn{number}\n")
    ]
    assert len({*addresses}) == 5
    assert all(address.startswith("10.213.") for address in addresses)
    assert all("eth0\n" in lines for lines in seen)
    host.expect_nothing_left()


def _until(process: subprocess.Popen[str], last: str) -> list[str]:
    """The lines of its output up to `last`."""
    assert process.stdout
    lines: list[str] = []
    while not lines or lines[-1] not in ("", f"{last}\n"):
        lines.append(process.stdout.readline())
    return lines


OUTSIDE = """
import socket
from pyroute2 import IPRoute, NetNS
import os, subprocess, sys
server = '''
import socket
s = socket.socket()
s.bind(("0.0.0.0", 80))
s.listen()
s.settimeout(30)
print("up", flush=True)
c, (address, _) = s.accept()
c.sendall(address.encode())
c.close()
'''
child = subprocess.Popen(["unshare", "--net", sys.executable, "-c", server], stdout=subprocess.PIPE)
child.stdout.readline()
with IPRoute() as route, NetNS(f"/proc/{child.pid}/ns/net", flags=0) as outside:
    route.link("add", ifname="up0", kind="veth", peer={"ifname": "eth0", "net_ns_pid": child.pid})
    for where, name, address in ((route, "up0", "192.0.2.1"), (outside, "eth0", "192.0.2.2")):
        (index,) = [link["index"] for link in where.get_links() if link.get_attr("IFLA_IFNAME") == name]
        where.addr("add", index=index, address=address, prefixlen=24)
        where.link("set", index=index, state="up")
print("ready", flush=True)
child.wait()
"""


def test_a_container_reaches_the_outside_under_the_host_s_address(host: Host) -> None:
    """The server outside has no route to containers: only masquerading can bring an answer back."""
    forwarding = host.inside("cat", "/proc/sys/net/ipv4/ip_forward").stdout
    outside = subprocess.Popen(
        host.command(sys.executable, "-c", OUTSIDE), env=host.environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert outside.stdout
        assert outside.stdout.readline() == "ready\n"
        result = host.interceptor("run", "--rootfs", host.rootfs, "--", "nc", "192.0.2.2", "80")
        assert (result.returncode, result.stdout, result.stderr) == (0, "192.0.2.1", "")
        outside.communicate(timeout=20)
    finally:
        outside.kill()
        outside.wait()
    host.expect_nothing_left()
    assert host.inside("cat", "/proc/sys/net/ipv4/ip_forward").stdout == forwarding


def test_limits_are_the_container_s(host: Host) -> None:
    if not Path("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists():
        pytest.skip("no cgroup v1 memory controller is mounted here")
    read = ["cat", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
    result = host.interceptor("run", "--net", "none", "--memory", "64m", "--rootfs", host.rootfs, "--", *read)
    assert result.stdout == f"{64 << 20}\n"


def test_without_a_network_there_is_loopback_only(host: Host) -> None:
    result = host.interceptor("run", "--net", "none", "--rootfs", host.rootfs, "--", "ls", "/sys/class/net")
    assert result.stdout == "lo\n"


def test_a_detached_container_s_life(host: Host) -> None:
    script = "trap 'exit 0' TERM; echo out; while :; do sleep 0.1; done"
    started = host.interceptor("run", "-d", "--name", "d1", "--rootfs", host.rootfs, "--", "sh", "-c", script)
    assert (started.returncode, started.stdout, started.stderr) == (0, "d1\n", "")
    more = ["-e", "A=1", "-w", "/etc", "-u", "7"]
    inner = host.interceptor("exec", *more, "d1", "--", "sh", "-c", "echo $A $PWD; id -u; exit 9")
    assert (inner.returncode, inner.stdout) == (9, "1 /etc\n7\n")
    taken = host.interceptor("run", "--name", "d1", "--rootfs", host.rootfs, "--", "true")
    assert taken.returncode == 1
    assert "container d1 exists" in taken.stderr
    refused = host.interceptor("rm", "d1")
    assert refused.returncode == 1
    assert "container d1 is running: interceptor stop d1, or use --force" in refused.stderr
    wait_for(lambda: (host.state / "run" / "d1" / "log").read_text() == "out\n", "the output is in the log", within=10)
    assert host.interceptor("stop", "d1").returncode == 0
    host.expect_nothing_left()
    unknown = host.interceptor("stop", "d1")
    assert unknown.returncode == 1
    assert "no container 'd1' of `interceptor run`; there are: none" in unknown.stderr


def test_a_detached_container_that_ends_is_removed(host: Host) -> None:
    assert host.interceptor("run", "-d", "--rootfs", host.rootfs, "--", "true").returncode == 0
    host.expect_nothing_left()


def test_one_that_does_not_listen_is_killed(host: Host) -> None:
    ignores = "trap '' TERM; while :; do sleep 0.1; done"
    assert (
        host.interceptor("run", "-d", "--name", "d1", "--rootfs", host.rootfs, "--", "sh", "-c", ignores).returncode
        == 0
    )
    assert host.interceptor("stop", "--time", "0.3", "d1").returncode == 0
    host.expect_nothing_left()


def test_sigterm_ends_the_container(host: Host) -> None:
    script = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.1; done"
    running = host.start("run", "--rootfs", host.rootfs, "--", "sh", "-c", script)
    assert running.stdout
    assert running.stdout.readline() == "ready\n"
    running.send_signal(signal.SIGTERM)
    output = running.communicate(timeout=30)
    assert running.returncode == 3, output
    host.expect_nothing_left()


@pytest.mark.parametrize("within", [place / 20 for place in range(1, 10)])
def test_sigterm_while_it_is_made_leaves_nothing(host: Host, within: float) -> None:
    # On a quick machine it runs by then; without a trap the kernel would ignore SIGTERM for a namespace's init.
    script = "trap 'exit 3' TERM; while :; do sleep 0.1; done"
    running = host.start("run", "--rootfs", host.rootfs, "--", "sh", "-c", script)
    try:
        running.wait(within)
    except subprocess.TimeoutExpired:
        running.terminate()
    try:
        running.communicate(timeout=5)
        assert running.returncode != 0
    except subprocess.TimeoutExpired:  # it came when the shell ran already, and had set no trap yet
        running.terminate()
        running.communicate(timeout=30)
        assert running.returncode == 3
    host.expect_nothing_left()


@pytest.mark.parametrize("more", [[], ["-d"]])
def test_a_container_that_cannot_start_leaves_nothing(host: Host, more: list[str]) -> None:
    result = host.interceptor("run", *more, "--rootfs", host.rootfs, "--", "no-such-command")
    assert result.returncode != 0
    assert "no-such-command" in result.stderr
    host.expect_nothing_left()


def test_what_a_killed_run_left_is_swept(host: Host) -> None:
    running = host.start("run", "--name", "k1", "--rootfs", host.rootfs, "--", "sh", "-c", "echo ready; sleep 1000")
    assert running.stdout
    assert running.stdout.readline() == "ready\n"
    running.kill()
    running.wait()
    assert host.interceptor("rm", "--force", "k1").returncode == 0
    running.communicate()
    host.expect_nothing_left()


def test_a_place_that_nobody_holds_is_swept_by_the_next_run(host: Host) -> None:
    (host.state / "run" / "old" / "bundle" / "rootfs").mkdir(parents=True)
    assert host.interceptor("run", "--net", "none", "--rootfs", host.rootfs, "--", "true").returncode == 0
    assert not (host.state / "run" / "old").exists()


def test_a_terminal(host: Host) -> None:
    command = host.command(INTERCEPTOR, "run", "-t", "--net", "none", "--rootfs", str(host.rootfs), "--", "sh")
    with Terminal(command, env=host.environment, rows=31, columns=97) as terminal:
        terminal.expect(r"# $")
        terminal.send("stty size; echo $TERM; exit 5\n")
        terminal.expect("31 97")
        terminal.expect("xterm")
        assert terminal.wait() == 5


def test_ps_shows_name_and_image(host: Host, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "tool-1.2.tar.gz", "w:gz") as archive:
        archive.add(host.rootfs, ".")
    started = host.interceptor(
        "run", "-d", "--name", "d1", "--image", tmp_path / "tool-1.2.tar.gz", "--", "sleep", "1000"
    )
    assert started.returncode == 0, started.stderr
    heading, line = host.interceptor("ps").stdout.splitlines()
    assert heading.split()[:3] == ["CONTAINER", "NAME", "IMAGE"]
    assert line.split()[:3] == ["d1", "d1", "tool-1.2"]
    assert host.interceptor("rm", "--force", "d1").returncode == 0


def test_an_image_of_layers(host: Host, tmp_path: Path) -> None:
    def layer(files: dict[str, bytes]) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, content in files.items():
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(content), 0o755
                archive.addfile(entry, io.BytesIO(content))
        return buffer.getvalue()

    busybox = Path("/bin/busybox").read_bytes()
    layers = {
        "a/layer.tar": layer(
            {"bin/busybox": busybox, "bin/sh": busybox, "etc/passwd": b"www:x:33:34::/:\n", "old": b"old"}
        ),
        "b/layer.tar": layer({".wh.old": b"", "new": b"new\n"}),
    }
    config = {
        "config": {
            "Cmd": ["/bin/sh", "-c", "busybox cat /new; busybox id -u; test -e /old || echo gone"],
            "User": "www",
        }
    }
    manifest = [{"Config": "c.json", "RepoTags": ["tool:1"], "Layers": [*layers]}]
    digest = "0" * 64
    documents = {"c.json": json.dumps(config).encode(), "manifest.json": json.dumps(manifest).encode()}
    (tmp_path / "image.tar").write_bytes(layer({f"{digest}.json": b"{}", **layers, **documents}))
    for _ in range(2):
        result = host.interceptor("run", "--net", "none", "--image", tmp_path / "image.tar")
        assert (result.returncode, result.stdout, result.stderr) == (0, "new\n33\ngone\n", "")
    assert len([entry for entry in (host.state / "layers").iterdir() if not entry.name.startswith(".")]) >= 2
