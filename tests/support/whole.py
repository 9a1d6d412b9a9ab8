"""The whole path with the real thing: a supervisor of the tests' own, interceptor-runc, a stock runtime, busybox.

Everything lies in one temporary directory and in one private mount namespace, and is gone afterwards.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import images, oci
from support.bundles import world_readable_directory
from support.mounts import mounts
from support.probes import probe
from support.waiting import PATIENCE, wait_for

from interceptor.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

PROGRAM = Path(sys.executable).parent / "interceptor"
ENTRY = Path(sys.executable).parent / "interceptor-runc"
APPLETS = (
    "cut",
    "unshare", "chroot", "pivot_root", "su", "env", "true", "false", "ln", "mkfifo", "setpriv", "mknod", "head", "sed", "chmod",
)  # fmt: skip
ALL = "all"
"""Selects the policy below; its name says which capabilities the container's processes get."""

POLICIES = {
    ALL: "extends: [default]\nselectable: true\n",
    "no-new-mount-api": "extends: [default]\nselectable: true\ncalls:\n"
    + "".join(
        f"  {call}: [{{do: {{deny: ENOSYS}}}}]\n"
        for call in ("fsopen", "fsconfig", "fsmount", "fspick", "move_mount", "open_tree", "mount_setattr")
    ),
    # /proc and /sys as the kernel makes them, for comparisons with it.
    "bare": "extends: [default]\nselectable: true\nleaves: none\n",
    "fuse": "extends: [loop]\nselectable: true\nlimits: {devices: [fuse], agent-deadline: 20s, loop-devices: 3}\n"
    "filesystems: {ext3: {fuse: not-there}}\n",
    "everywhere": "extends: [default]\nselectable: true\nleaves: everywhere\n",
    # What Docker gives: no CAP_SYS_ADMIN.
    "engine": "extends: [default]\nselectable: true\ncapabilities: engine\n",
    "names": """\
extends: [default]
selectable: true
capabilities: engine
calls:
  sethostname:
    - when: {name: "web-*", caller: {uid: 0}}
      do: emulate
    - when: {caller: {uid: 0}}
      do: {deny: EPERM}
    - do: native
  setdomainname:
    - when: {name: "*.example", caller: {uid: 0}}
      do: emulate
    - do: {deny: EPERM}
""",
}

DOCKERS = [
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
    "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
]  # fmt: skip
"""moby, oci/caps/defaults.go."""


def end(process: subprocess.Popen[Any]) -> None:
    process.terminate()
    process.wait(20)


class Host:
    """A supervisor with `runtime` underneath, and a place for containers."""

    def __init__(
        self,
        directory: Path,
        runtime: str,
        undo: ExitStack,
        policies: Mapping[str, str],
        *,
        kept: bool = False,
        under: Sequence[str] = (),
    ) -> None:
        """`kept`: by a keeper, as the first container would start it; otherwise in the foreground. `under`: by this command."""
        self.directory = directory
        self.runtime = runtime
        self.undo = undo
        (directory / "policies").mkdir()
        for name, text in {**POLICIES, **policies}.items():
            (directory / "policies" / f"{name}.yaml").write_text(text, encoding="utf-8")
        (directory / "interceptor.yaml").write_text(f"runtime: {runtime}\n", encoding="utf-8")
        self.environment = os.environ | {
            "INTERCEPTOR_RUN": str(directory / "run"),
            "INTERCEPTOR_STATE": str(directory / "state"),
            "INTERCEPTOR_POLICIES": str(directory / "policies"),
            "INTERCEPTOR_CONFIG": str(directory / "interceptor.yaml"),
            "INTERCEPTOR_RUNTIME": runtime,
        }
        self._keeper = subprocess.Popen(["unshare", "-m", "--propagation", "private", "sleep", "infinity"])
        undo.callback(end, self._keeper)
        own, keepers = Path("/proc/self/ns/mnt").stat().st_ino, Path(f"/proc/{self._keeper.pid}/ns/mnt")
        wait_for(lambda: keepers.stat().st_ino != own, "a mount namespace", within=10)
        if runtime == "crun":  # before 1.29 it refuses the hybrid layout
            self.run("sh", "-c", "umount /sys/fs/cgroup/unified 2>/dev/null || true")
        self.log = directory / "supervisor.log"
        command = [*under, *([ENTRY, "keep", "--service"] if kept else [PROGRAM, "supervise"])]
        with self.log.open("a") as log:
            self.supervisor = subprocess.Popen(
                command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/"
            )
        undo.callback(self._end_supervisor)
        wait_for(self._serves, "the supervisor's socket", within=20)

    def _end_supervisor(self) -> None:
        end(self.supervisor)
        try:
            keeper = os.pidfd_open(
                int((self.directory / "run/keeper.lock").read_text())
            )  # another's, if the first died
        except (FileNotFoundError, ProcessLookupError):
            return
        with os.fdopen(keeper), contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(keeper, signal.SIGTERM)
            assert select.select([keeper], [], [], 20)[0], "the keeper does not end"

    def _serves(self) -> bool:
        assert self.supervisor.poll() is None, self.log.read_text()
        return (self.directory / "run/control.sock").exists()

    def supervisor_pid(self) -> int:
        """Of the supervisor that serves now."""
        with self.client() as client:
            return int(client.call("ping")["pid"])

    def client(self) -> Client:
        """A connection to the control socket."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.connect(str(self.directory / "run/control.sock"))
        return Client(connection)

    @property
    def mount_namespace(self) -> Path:
        """Of the engine, so to speak."""
        return Path(f"/proc/{self._keeper.pid}/ns/mnt")

    def command(self, *command: str | Path) -> list[str | Path]:
        """In the private mount namespace."""
        return ["nsenter", f"--mount={self.mount_namespace}", "--", *command]

    def run(self, *command: str | Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*command), env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False, timeout=timeout * PATIENCE, cwd="/",
        )  # fmt: skip

    def entry(self, *arguments: str | Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """interceptor-runc."""
        return self.run(ENTRY, "--root", self.directory / "oci", *arguments, timeout=timeout)

    def interceptor(self, *arguments: str) -> str:
        done = self.run(PROGRAM, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def box(self, policy: str = ALL, *, mounts: Sequence[Mapping[str, Any]] = (), image: str = "") -> Box:
        """A started container with further OCI mounts; gone with the host. `image`: of images/build.py; else busybox."""
        box = Box(self, policy, mounts, image)
        self.undo.callback(box.remove)
        box.start()
        return box


def _unpacked(tar: Path, directory: Path) -> Path:
    directory.mkdir(parents=True)
    keep = ["--numeric-owner", "--preserve-permissions", "--xattrs", "--xattrs-include=*", "--exclude=./dev/*"]
    subprocess.run(["tar", "--extract", "--file", tar, "--directory", directory, *keep], check=True)
    return directory


class Box:
    """One container on busybox whose init sleeps; commands by `exec`."""

    def __init__(self, host: Host, policy: str, mounts: Sequence[Mapping[str, Any]], image: str = "") -> None:
        self.host = host
        self.id = f"box-{uuid.uuid4().hex[:8]}"
        self.directory = host.directory / self.id
        if image:
            self.rootfs = _unpacked(images.image(image), self.directory / "rootfs")
        else:
            self.rootfs = oci.busybox_rootfs(self.directory / "rootfs")
            for applet in APPLETS:
                (self.rootfs / "bin" / applet).symlink_to("busybox")
        for name in ("mnt", "data", "probe"):
            (self.rootfs / name).mkdir(exist_ok=True)
        (self.rootfs / "tmp").chmod(0o1777)
        self.cgroup = f"/interceptor-test-{self.id}"
        values = oci.config(self.rootfs, "sleep", "100000", cgroup=self.cgroup)
        values["process"]["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), DOCKERS)
        values["process"]["noNewPrivileges"] = False
        values["annotations"] = {"interceptor.policy": policy}
        values["mounts"] += mounts
        self.bundle = self.directory / "bundle"
        self.bundle.mkdir()
        (self.bundle / "config.json").write_text(json.dumps(values), encoding="utf-8")
        self.init = 0

    def change(self, edit: Callable[[dict[str, Any]], object]) -> None:
        """Edits config.json, before the start."""
        path = self.bundle / "config.json"
        values = json.loads(path.read_text())
        edit(values)
        path.write_text(json.dumps(values))

    @contextlib.contextmanager
    def terminal(self) -> Iterator[list[str | Path]]:
        """It gets one; the options by which a runtime is told where to send its end."""
        at = self.directory / "console.sock"
        self.change(lambda values: values["process"].update(terminal=True))
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(at))
            listening.listen()
            yield ["--console-socket", at]
        at.unlink()

    def start(self, *options: str | Path) -> None:
        self._make("run", "--detach", *options)

    def create(self) -> None:
        """As far as its init waits for `start`."""
        self._make("create")

    def _make(self, *command: str | Path) -> None:
        output = self.directory / "output"
        pid_file = self.directory / "pid"
        with output.open("w") as stream:  # no pipe: the container would hold it open
            done = subprocess.run(
                self.host.command(
                    ENTRY, "--root", self.host.directory / "oci", *command, "--pid-file", pid_file, "--bundle", self.bundle,
                    self.id,
                ),
                env=self.host.environment, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
                check=False, timeout=60 * PATIENCE, cwd="/",
            )  # fmt: skip
        assert done.returncode == 0, output.read_text() + self.host.log.read_text()
        self.init = int(pid_file.read_text())

    def add(self, program: Path, name: str | None = None) -> str:
        """Puts a program into the container; its path inside."""
        at = self.rootfs / "probe" / (name or program.name)
        if not at.exists():
            shutil.copy2(program, at)
        return f"/probe/{at.name}"

    def probe(self, name: str, *options: str) -> str:
        """The same for a program of the tests'."""
        return self.add(probe(name, *options))

    def exec(self, *command: str, user: str = "0:0", timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return self.host.entry("exec", "--user", user, self.id, *command, timeout=timeout)

    def begin(self, *command: str, stdin: int = subprocess.DEVNULL, **streams: Any) -> subprocess.Popen[str]:
        """A command as root that goes on; `streams` as Popen has them, pipes where nothing is said."""
        arguments = (ENTRY, "--root", self.host.directory / "oci", "exec", "--user", "0:0", self.id, *command)
        return subprocess.Popen(
            self.host.command(*arguments), env=self.host.environment, stdin=stdin, cwd="/",
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **streams},
        )  # fmt: skip

    def unfiltered(self, *command: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """A command as root in all of the container's namespaces, but without the seccomp filter: the kernel alone."""
        enter = ["nsenter", "--target", str(self.init), "--all", "--root", "--wd", "--"]
        return subprocess.run(
            [*enter, *command], env={"PATH": "/bin"}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False, timeout=timeout * PATIENCE,
        )  # fmt: skip

    def sh(self, script: str, *, timeout: float = 60) -> str:
        """What a script prints that must succeed."""
        done = self.exec("sh", "-euc", script, timeout=timeout)
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout

    def trace(self, *arguments: str) -> list[dict[str, Any]]:
        """Events, oldest first."""
        lines = self.host.interceptor("trace", "--json", *arguments, self.id).splitlines()
        return [json.loads(line) for line in lines]

    def lines(self, *arguments: str) -> list[str]:
        """The trace as people see it."""
        return self.host.interceptor("trace", *arguments, self.id).splitlines()

    def remove(self) -> None:
        """Idempotent."""
        done = self.host.entry("delete", "--force", self.id)
        assert done.returncode == 0, done.stderr
        for top in Path("/sys/fs/cgroup").glob(f"*{self.cgroup}"):
            with contextlib.suppress(OSError):
                top.rmdir()


@contextlib.contextmanager
def host(
    runtime: str, policies: Mapping[str, str] | None = None, *, kept: bool = False, under: Sequence[str] = ()
) -> Iterator[Host]:
    """A host for some tests, with further `policies` (name → text); says what a test left."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if shutil.which(runtime) is None:
        pytest.skip(f"{runtime} is not installed")
    with world_readable_directory() as directory:
        with ExitStack() as undo:
            yield Host(directory, runtime, undo, policies or {}, kept=kept, under=under)
        left = [str(mount) for mount in mounts() if str(directory) in mount.point]
        assert not left
        assert not list((directory / "run/containers").iterdir())
