"""OCI bundles and runtimes for tests of the runtime's operations: no engine, no entry program, no supervisor."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from support.waiting import wait_for

from interceptor.errors import InterceptorError
from interceptor.native.keeper import Keeper
from interceptor.policy import Policy
from interceptor.ports import Request
from runtime.config import HostConfig, Places
from runtime.lifecycle import Lifecycle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from interceptor.container import Container

T = TypeVar("T")

APPLETS = (
    "sh",
    "cat",
    "id",
    "ls",
    "stat",
    "mount",
    "umount",
    "touch",
    "mkdir",
    "rm",
    "chown",
    "sleep",
    "readlink",
    "grep",
    "echo",
    "hostname",
)


def busybox_rootfs(at: Path) -> Path:
    """A root filesystem of Debian's busybox-static, owned by root."""
    for directory in ("bin", "proc", "sys", "dev", "etc", "tmp", "run", "root"):
        (at / directory).mkdir(parents=True)
    found = shutil.which("busybox")
    assert found, "busybox-static is not installed"
    shutil.copy2(found, at / "bin/busybox")
    for applet in APPLETS:
        (at / "bin" / applet).symlink_to("busybox")
    (at / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    return at


def config(rootfs: Path | str, *args: str, cgroup: str, **process: Any) -> dict[str, Any]:
    """A config.json as engines write them."""
    devices = [{"allow": False, "access": "rwm"}]
    options = ["nosuid", "noexec", "nodev"]
    pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
    return {
        "ociVersion": "1.0.2",
        "hostname": "box",
        "process": {
            "user": {"uid": 0, "gid": 0}, "args": list(args), "cwd": "/", "env": ["PATH=/bin"], "noNewPrivileges": True,
            "capabilities": {name: ["CAP_CHOWN", "CAP_KILL"] for name in ("bounding", "effective", "permitted")},
            "oomScoreAdj": 0, **process,
        },
        "root": {"path": str(rootfs)},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": options},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": pts},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*options, "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", *options]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": options},
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [{"type": kind} for kind in ("mount", "network", "uts", "pid", "ipc")],
            "resources": {"devices": devices, "blockIO": {"weight": 0}},
            "maskedPaths": ["/proc/kcore"], "readonlyPaths": ["/proc/sys"],
            "sysctl": {"net.ipv4.ping_group_range": "0 2147483647"},
        },
    }  # fmt: skip


def bind(source: Path, destination: str) -> dict[str, Any]:
    """An entry of `mounts`."""
    return {"destination": destination, "type": "bind", "source": str(source), "options": ["rbind"]}


def without_dev(values: dict[str, Any]) -> None:
    """Takes away what engines mount over /dev and below it."""
    values["mounts"] = [mount for mount in values["mounts"] if not mount["destination"].startswith("/dev")]


DEVPTS = {"type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]}


@contextmanager
def directory() -> Iterator[Path]:
    """A directory that a container's root can pass through; pytest's own are 0700, and every pytest makes them so
    again.
    """
    path = Path(tempfile.mkdtemp(prefix="interceptor-runtime-", dir=os.environ.get("INTERCEPTOR_TEST_DIR", "/var/tmp")))  # noqa: S108
    path.chmod(0o711)
    try:
        yield path
    finally:
        shutil.rmtree(path)


class FakeCore:
    """The supervisor's side: remembers, decides nothing."""

    def __init__(self, policy: Policy) -> None:
        self._containers: dict[str, Container] = {}
        self._policy = policy
        self.listener_path = "/nonexistent/seccomp.sock"
        self.keeper = Keeper(None)

    @property
    def containers(self) -> Mapping[str, Container]:
        return self._containers

    def policy(self, name: str) -> Policy:
        assert name == self._policy.name
        return self._policy

    def choose_policy(self, _told: Any) -> Policy:
        return self._policy

    def show(self, _shown: object) -> None:
        pass

    def tell_of_notifiers(self, told: Callable[[str, int], None]) -> None:
        self.told = told

    def launch_with(self, _launcher: object) -> None:
        pass

    def register(self, container: Container) -> None:
        if container.id in self._containers:
            raise InterceptorError(container.id)
        self._containers[container.id] = container

    def cover_fresh(self, fresh: object) -> None:
        """Nobody mounts anything here."""

    def unregister(self, container_id: str) -> Container | None:
        return self._containers.pop(container_id, None)


class Host:
    """A private mount namespace, the operations, and a stock runtime: what the OCI entry would put together."""

    def __init__(
        self, directory: Path, runtime: str, *, policy: Policy | None = None, host_config: HostConfig | None = None
    ) -> None:
        self.directory = directory
        self.runtime = runtime
        self.cgroup = f"/interceptor-test-{uuid.uuid4().hex[:8]}"
        self.places = Places(str(directory / "run"), str(directory / "state"))
        for place in (self.places.run, self.places.state):
            Path(place).mkdir(mode=0o711)
        directory.chmod(0o711)
        self.core = FakeCore(policy or Policy("default", "test"))
        self.host_config = host_config or HostConfig()
        self._undo = ExitStack()
        self._worker = self._undo.enter_context(ThreadPoolExecutor(1))
        self._keeper = subprocess.Popen(["unshare", "-m", "--propagation", "private", "sleep", "infinity"])
        self._undo.callback(self._end_keeper)
        own = _inode("self")
        wait_for(lambda: _inode(self._keeper.pid) != own, "a private mount namespace", within=5)
        self.namespace = os.open(f"/proc/{self._keeper.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        self._undo.callback(os.close, self.namespace)
        if runtime.endswith("crun"):
            self.sh("umount /sys/fs/cgroup/unified 2>/dev/null || true")  # crun before 1.29 refuses the hybrid layout
        self.lifecycle = self.call(lambda: Lifecycle(self.core, self.places, self.host_config))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        for container_id in list(self.core.containers):
            with suppress(Exception):
                self.delete(container_id)
        self._undo.close()
        self._remove_cgroups()

    def call(self, function: Callable[[], T]) -> T:
        """On a worker thread, as the supervisor does it."""
        return self._worker.submit(function).result()

    def run(self, *command: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """A command in the private mount namespace."""
        done = subprocess.run(
            ["nsenter", f"--mount=/proc/self/fd/{self.namespace}", "--", *command],
            pass_fds=[self.namespace], capture_output=True, text=True, check=False, timeout=60, **options,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"{command}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def sh(self, script: str) -> str:
        return self.run("sh", "-ec", script).stdout

    @property
    def oci(self) -> list[str]:
        """The runtime with its global options."""
        return ["--root", str(self.directory / "oci")]

    def bundle(self, name: str, values: Mapping[str, Any]) -> Path:
        at = self.directory / "bundles" / name
        at.mkdir(parents=True)
        (at / "config.json").write_text(json.dumps(values))
        return at

    def prepare(self, container_id: str, bundle: Path) -> tuple[Request, Mapping[str, Any]]:
        """The operation `create` alone."""
        argv = [*self.oci, "create", "--bundle", str(bundle), container_id]
        body = {
            "id": container_id,
            "bundle": str(bundle),
            "argv": argv,
            "runtime": self.runtime,
            "pid_file": None,
            "stdio_null": True,
        }
        request = Request(body, [self.namespace])
        try:
            return request, self.call(lambda: self.lifecycle.create(request))
        except BaseException:
            self.call(request.on_disconnect.close)
            raise

    def create(self, container_id: str, bundle: Path, *, output: Path | None = None) -> int:
        """create, the runtime's own create, created; answers init's pid."""
        request, reply = self.prepare(container_id, bundle)
        output = output or self.directory / f"{container_id}.out"
        status = self.execute_create(reply, output)
        pid = int(Path(reply["pid_file"]).read_text()) if status == 0 else None
        request.body = {"id": container_id, "status": status, "pid": pid}
        try:
            self.call(lambda: self.lifecycle.created(request))
        except BaseException:
            self.call(request.on_disconnect.close)
            raise
        assert pid is not None, output.read_text()
        return pid

    def execute_create(self, reply: Mapping[str, Any], output: Path) -> int:
        """The runtime's own create, as `prepare` answered; its status."""
        with output.open("w") as stream:
            return subprocess.run(
                ["nsenter", f"--mount=/proc/self/fd/{self.namespace}", "--", *reply["exec"]],
                pass_fds=[self.namespace], stdin=subprocess.PIPE, stdout=stream, stderr=stream, check=False, timeout=60,
            ).returncode  # fmt: skip

    def start(self, container_id: str) -> None:
        self.run(self.runtime, *self.oci, "start", container_id)

    def state(self, container_id: str) -> str:
        done = self.run(self.runtime, *self.oci, "state", container_id, check=False)
        return json.loads(done.stdout)["status"] if done.returncode == 0 else "gone"

    def delete(self, container_id: str) -> None:
        self.run(self.runtime, *self.oci, "delete", "--force", container_id)
        self.call(lambda: self.lifecycle.deleted(Request({"id": container_id}, [self.namespace])))

    def output_of(self, name: str, values: Mapping[str, Any]) -> str:
        """What a container prints from start to end; deleted afterwards."""
        bundle = self.bundle(name, values)
        self.create(name, bundle)
        self.start(name)
        wait_for(lambda: self.state(name) == "stopped", f"the end of container {name}", within=20)
        self.delete(name)
        return (self.directory / f"{name}.out").read_text()

    def execute(self, container_id: str, *command: str) -> subprocess.CompletedProcess[str]:
        """`exec` on a --process file."""
        file = self.directory / f"{uuid.uuid4().hex}.json"
        values = {
            "user": {"uid": 0, "gid": 0},
            "args": list(command),
            "cwd": "/",
            "env": ["PATH=/bin"],
            "noNewPrivileges": True,
            "capabilities": {"bounding": ["CAP_KILL"]},
        }
        file.write_text(json.dumps(values))
        body = {
            "id": container_id,
            "argv": [*self.oci, "exec", "--process", str(file), container_id],
            "process": str(file),
            "env": [],
        }
        reply = self.call(lambda: self.lifecycle.exec(Request(body, [])))
        return self.run(*reply["exec"], check=False)

    def _end_keeper(self) -> None:
        self._keeper.kill()
        self._keeper.wait()

    def _remove_cgroups(self) -> None:
        tops = [Path(at) for at, _, _ in os.walk("/sys/fs/cgroup") if at.endswith(self.cgroup)]  # others' come and go meanwhile
        for top in tops:
            for directory in sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True):
                with suppress(OSError):
                    directory.rmdir()
            with suppress(OSError):
                top.rmdir()


def _inode(pid: int | str) -> int:
    return Path(f"/proc/{pid}/ns/mnt").stat().st_ino
