"""A Docker engine of the tests' own: what a user's `docker run --runtime=interceptor` goes through.

dockerd with its containerd runs in a private mount and network namespace, on a data root, an exec root and a socket of
its own, so the machine's own engine (if any), mounts, interfaces and iptables rules are neither used nor touched:

* /run is a directory of the engine's (containerd's shims bind their sockets below /run/containerd whatever it is told),
  and $INTERCEPTOR_STATE is another; the supervisor of an engine's containers is therefore that engine's alone.
* The containers' cgroups lie below one that is named after the engine.
* Every process carries the engine's name in its environment, so that it is known again even when the test process
  was killed: the next engine that starts ends what a dead one left (see `reap_dead_engines`).
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from support import cgroups
from support.mounts import filesystem_of, mounts
from support.process import Process, descendants, process, processes
from support.waiting import DeadlineError, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

MARK = "INTERCEPTOR_TEST_ENGINE"
"""The environment variable that names the engine a process belongs to."""

PREFIX = "interceptor-engine-"

Cgroups = Literal["host", "v1", "v2"]
"""The layout that the engine sees: the host's own; no unified hierarchy (crun refuses hybrid); cgroup v2 alone."""

SETUP = """\
set -e
ip link set lo up
work=$1 view=$2; shift 2
case $view in
v1) if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi ;;
v2) if [ "$(stat -f -c %T /sys/fs/cgroup)" != cgroup2fs ]; then
        umount -R /sys/fs/cgroup
        mount -t cgroup2 cgroup2 /sys/fs/cgroup
    fi ;;
esac
mount --bind "$work/run" /run
exec dockerd "$@"
"""
"""Run by sh(1) in the new namespaces."""


_started: dict[str, Path] = {}
"""The engines of this process, and their directories, whether they still run or not."""


class EngineError(Exception):
    """What the engine said."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """An OCI runtime as it is registered with the engine."""

    path: Path
    args: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class State:
    """What is written down about a running engine, for whoever finds it after its test process died."""

    name: str
    owner: tuple[int, int]

    @classmethod
    def read(cls, directory: Path) -> State | None:
        """None for a directory that never came so far."""
        try:
            fields = json.loads((directory / "engine.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return cls(fields["name"], tuple(fields["owner"]))

    def write(self, directory: Path) -> None:
        text = json.dumps({"name": self.name, "owner": self.owner})
        (directory / "engine.json").write_text(text, encoding="utf-8")

    @property
    def abandoned(self) -> bool:
        owner = process(self.owner[0])
        return owner is None or owner.identity != self.owner


def own_directory() -> tuple[str, Path]:
    """A new name, and a directory that is known to be this process's for as long as it lives."""
    name = f"interceptor-test-{secrets.token_hex(4)}"
    directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=scratch_base()))
    owner = process(os.getpid())
    assert owner is not None
    State(name, owner.identity).write(directory)
    _started[name] = directory
    return name, directory


@contextlib.contextmanager
def shared_data_root() -> Iterator[Path]:
    """A data root for engines that run one after the other, so that an image is imported only once."""
    _, directory = own_directory()
    try:
        yield directory / "data"
    finally:
        remove_directory(directory)


def why_no_engine() -> str | None:
    """The reason why no engine can run here, or None."""
    if os.geteuid() != 0:
        return "needs root"
    missing = [
        program for program in ("dockerd", "containerd", "runc", "iptables", "ip") if shutil.which(program) is None
    ]
    if missing:
        return f"not installed: {', '.join(missing)} (apt-get install docker.io iptables iproute2)"
    base = scratch_base()
    if (fstype := filesystem_of(base)) in {"tmpfs", "ramfs", "overlay"}:
        return f"{base} is {fstype}, which overlay2 cannot use; name a directory on a disk in INTERCEPTOR_TEST_DIR"
    return None


def search_path() -> str:
    """PATH with root's directories, which a user's shell may lack."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def scratch_base() -> Path:
    """Where engines keep their data: short, because sockets lie below it (unix(7): 108 bytes)."""
    return Path(os.environ.get("INTERCEPTOR_TEST_DIR", "/var/tmp"))  # noqa: S108  (made by mkdtemp)


class Engine:
    """A running dockerd; to be used as a context manager."""

    def __init__(
        self,
        *,
        runtimes: Mapping[str, Runtime] | None = None,
        cgroup_view: Cgroups = "host",
        data_root: Path | None = None,
    ) -> None:
        """`data_root` outlives the engine if the caller gives one; one engine after the other may then use it."""
        reap_dead_engines()
        self.name, self.directory = own_directory()
        self.data_root = data_root or self.directory / "data"
        self._lay_out(runtimes or {})
        self._dockerd = self._spawn(cgroup_view)
        try:
            wait_for(self._answers, f"dockerd's socket {self.socket}", within=60)
        except BaseException:
            self.close()
            raise

    # -- use ----------------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """dockerd's; its namespaces are the engine's."""
        return self._dockerd.pid

    @property
    def socket(self) -> Path:
        return self.directory / "docker.sock"

    @property
    def run(self) -> Path:
        """The engine's /run."""
        return self.directory / "run"

    @property
    def state(self) -> Path:
        """What the runtimes of this engine get as $INTERCEPTOR_STATE."""
        return self.directory / "state"

    @property
    def client(self) -> list[str]:
        """The docker command, without arguments, for a use that docker() does not cover."""
        program = "/usr/bin/docker" if Path("/usr/bin/docker").exists() else "docker"
        return [program, "--config", str(self.directory / "client"), "--host", f"unix://{self.socket}"]

    def docker(
        self,
        *arguments: str | Path,
        check: bool = True,
        input: str = "",  # noqa: A002  (subprocess's word for it)
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run the client; with `check`, a failure raises EngineError with what it said."""
        command = [*self.client, *map(str, arguments)]
        result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=timeout, input=input)
        if check and result.returncode != 0:
            said = "\n".join(filter(None, (result.stdout.strip(), result.stderr.strip())))
            raise EngineError(f"docker {' '.join(map(str, arguments))}: status {result.returncode}\n{said}")
        return result

    def output(self, *arguments: str | Path, timeout: float = 60) -> str:
        """What the client prints, stripped."""
        return self.docker(*arguments, timeout=timeout).stdout.strip()

    def import_image(self, tar: Path, name: str) -> None:
        """`docker import`, unless the data root has an image of that name already."""
        if self.docker("image", "inspect", name, check=False).returncode != 0:
            self.docker("import", tar, name, timeout=300)

    def pid_of(self, container: str) -> int:
        """The host's pid of a container's init."""
        return int(self.output("inspect", "--format", "{{.State.Pid}}", container))

    def in_network(self, *command: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        """Run a program of the host in the engine's network namespace: where published ports are."""
        return subprocess.run(
            ["nsenter", f"--net=/proc/{self.pid}/ns/net", *command],
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    @property
    def log(self) -> str:
        return (self.directory / "dockerd.log").read_text(encoding="utf-8", errors="replace")

    # -- start --------------------------------------------------------------------------------------------------------

    def _lay_out(self, runtimes: Mapping[str, Runtime]) -> None:
        for name in (
            "run",
            "run/lock",
            "exec",
            "client",
            "wrappers",
            "var-lib/upper",
            "var-lib/work",
            "var-lib/interceptor",
        ):
            (self.directory / name).mkdir(parents=True)
        self.data_root.mkdir(exist_ok=True)
        configuration = {
            "storage-driver": "overlay2",
            "cgroup-parent": f"/{self.name}",
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "runtimes": {name: self._registered(name, runtime) for name, runtime in runtimes.items()},
        }
        (self.directory / "daemon.json").write_text(json.dumps(configuration, indent=1), encoding="utf-8")

    def _registered(self, name: str, runtime: Runtime) -> dict[str, object]:
        """An entry of daemon.json, which knows arguments but no environment: that takes a script."""
        if not runtime.env:
            return {"path": str(runtime.path), "runtimeArgs": [*runtime.args]}
        wrapper = self.directory / "wrappers" / name
        exports = "".join(f"export {key}='{value}'\n" for key, value in runtime.env.items())
        wrapper.write_text(f'#!/bin/sh\n{exports}exec {runtime.path} "$@"\n', encoding="utf-8")
        wrapper.chmod(0o755)
        return {"path": str(wrapper), "runtimeArgs": [*runtime.args]}

    def _spawn(self, view: Cgroups) -> subprocess.Popen[bytes]:
        command = ["unshare", "--mount", "--net", "--propagation=private", "sh", "-c", SETUP, "engine"]
        command += [str(self.directory), view, "--config-file", str(self.directory / "daemon.json")]
        command += ["--data-root", str(self.data_root), "--exec-root", str(self.directory / "exec")]
        command += ["--pidfile", str(self.directory / "dockerd.pid"), "--host", f"unix://{self.socket}"]
        environment = {**os.environ, MARK: self.name, "INTERCEPTOR_STATE": str(self.state), "PATH": search_path()}
        with (self.directory / "dockerd.log").open("wb") as log:
            return subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def _answers(self) -> bool:
        if self._dockerd.poll() is not None:
            raise EngineError(f"dockerd ended with status {self._dockerd.returncode}:\n{self.log[-3000:]}")
        return self.socket.exists() and self.docker("version", check=False).returncode == 0

    # -- end ----------------------------------------------------------------------------------------------------------

    def owned_processes(self) -> list[Process]:
        """What this engine brought forth and still runs."""
        return owned_processes(self.name)

    def close(self) -> list[str]:
        """End everything that this engine brought forth; what had to be killed is named."""
        if self._dockerd.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._remove_containers()
            self._dockerd.terminate()
            try:
                self._dockerd.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self._dockerd.kill()
                self._dockerd.wait()
        killed = end_all(self.name)
        cgroups.remove(self.name)
        remove_directory(self.directory)
        return killed

    def _remove_containers(self) -> None:
        containers = self.docker("ps", "--all", "--quiet", check=False).stdout.split()
        if containers:
            self.docker("rm", "--force", "--volumes", *containers, check=False, timeout=120)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def owned_processes(name: str) -> list[Process]:
    """The processes of engine `name`: what has it in its environment or is in its cgroups, and all their descendants.

    Nothing weaker counts (a shared namespace, a program's name): what is found here is killed.
    """
    members = cgroups.members(name)
    everything = [found for found in processes() if found.alive() and found.pid not in (1, os.getpid())]
    own = {
        found.pid
        for found in everything
        if found.pid in members or f"{MARK}={name}" in found.text("environ").split("\n")
    }
    return [found for found in everything if found.pid in descendants(everything, own)]


def end_all(name: str) -> list[str]:
    """End the processes of engine `name`, and name those that had to be killed.

    What is left of its containers is killed; the rest is asked to end, so that it can undo its work, and parents
    before their children: dockerd needs its containerd to the end.
    """
    cgroups.thaw(name)
    members = cgroups.members(name)
    killed = kill([found for found in owned_processes(name) if found.pid in members])
    told: set[Process] = set()

    def told_and_gone() -> bool:
        left = owned_processes(name)
        tops = {found for found in left if found.parent not in {other.pid for other in left}} - told
        for found in tops:
            found.kill(signal.SIGTERM)
        told.update(tops)
        return not left

    try:
        wait_for(told_and_gone, f"the end of {name}'s processes", within=15)
    except DeadlineError:
        killed += kill(owned_processes(name))
        wait_for(lambda: not owned_processes(name), f"the death of {name}'s processes", within=10)
    return killed


def kill(these: Sequence[Process]) -> list[str]:
    """Kill processes, and name them."""
    names = [str(found) for found in these]
    for found in these:
        found.kill(signal.SIGKILL)
    return names


def remove_directory(directory: Path) -> None:
    """Remove a tree; never cross into another filesystem, should something still be mounted there."""
    subprocess.run(["rm", "-rf", "--one-file-system", str(directory)], check=True)


def reap_dead_engines() -> list[str]:
    """End what engines left whose test process is gone, and name them."""
    reaped = []
    for directory in scratch_base().glob(f"{PREFIX}*"):
        state = State.read(directory)
        if state is None or not state.abandoned:
            continue
        end_all(state.name)
        cgroups.remove(state.name)
        remove_directory(directory)
        reaped.append(state.name)
    return reaped


def remains() -> list[str]:
    """What is there of the engines that this process started: after the tests, nothing."""
    return [
        *(f"directory {directory}" for directory in _started.values() if directory.exists()),
        *(f"cgroup {name}" for name in cgroups.names() & _started.keys()),
        *(f"mount {mount}" for mount in mounts() for directory in _started.values() if str(directory) in str(mount)),
    ]
