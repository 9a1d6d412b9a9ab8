"""What the benchmarks of whole containers share: a host of its own, and a program in a root filesystem."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BIN = Path(sys.executable).parent
ENTRY = BIN / "interceptor-runc"


class Host:
    """A run and state directory of its own, with a supervisor that ends with it."""

    def __init__(self, directory: Path, volatile: Path) -> None:
        self.directory = directory
        self.volatile = volatile
        self.bundles = volatile / "bundles"
        self.policies = directory / "policies"
        self.policies.mkdir()
        self.environment = {
            **os.environ,
            "INTERCEPTOR_RUN": str(volatile / "run"),
            "INTERCEPTOR_STATE": str(directory / "state"),
            "INTERCEPTOR_POLICIES": str(self.policies),
        }

    def program(self, source: Path) -> Path:
        """A root filesystem with the static program that `source` compiles to, as /bin/NAME."""
        root = self.directory / source.stem
        for name in ("bin", "dev", "proc", "sys", "tmp", "layers/lower", "layers/upper", "layers/work"):
            (root / name).mkdir(parents=True)
        subprocess.run(["gcc", "-O2", "-static", "-o", root / "bin" / source.stem, source], check=True)
        return root

    def bundle(self, name: str, root: Path, command: Sequence[str], annotations: dict[str, str] | None = None) -> Path:
        """A bundle as `runc spec` gives it, over `root`."""
        directory = self.bundles / name
        directory.mkdir(parents=True, exist_ok=True)
        config = directory / "config.json"
        config.unlink(missing_ok=True)
        subprocess.run(["runc", "spec", "--bundle", directory], check=True)
        spec = json.loads(config.read_text())
        spec["process"] |= {"args": [*command], "terminal": False}
        spec["root"] = {"path": str(root), "readonly": False}
        spec["annotations"] = annotations or {}
        config.write_text(json.dumps(spec))
        return directory

    def run(self, name: str, root: Path, command: Sequence[str], annotations: dict[str, str] | None = None) -> str:
        """What `command` prints, run once in a container of ours."""
        return self.run_bundle(name, self.bundle(name, root, command, annotations))

    def run_bundle(self, name: str, bundle: Path) -> str:
        """The same for a bundle that is there."""
        argv = [str(ENTRY), "--root", str(self.directory / "runc"), "run", "--bundle", str(bundle), f"bench-{name}"]
        return subprocess.run(argv, env=self.environment, check=True, stdout=subprocess.PIPE, text=True).stdout

    def start(self, name: str, root: Path, command: Sequence[str]) -> None:
        """Starts `command` in a container that goes on."""
        bundle = self.bundle(name, root, command)
        null = subprocess.DEVNULL
        self._entry("create", "--bundle", str(bundle), name, stdin=null, stdout=null, stderr=null)
        self._entry("start", name)

    def init(self, name: str) -> int:
        """The first process of a started container, by the host's number."""
        argv = [str(ENTRY), "--root", str(self.directory / "runc"), "state", name]
        done = subprocess.run(argv, env=self.environment, check=True, stdout=subprocess.PIPE, text=True)
        return int(json.loads(done.stdout)["pid"])

    def delete(self, name: str) -> None:
        self._entry("delete", "--force", name)

    def _entry(self, *words: str, **streams: int) -> None:
        argv = [str(ENTRY), "--root", str(self.directory / "runc"), *words]
        subprocess.run(argv, env=self.environment, check=True, **streams)

    def supervisor(self) -> int:
        """The supervisor's pid; starts it if none runs."""
        program = "from interceptor.client import connect; print(connect(spawn=True).call('ping')['pid'])"
        argv = [sys.executable, "-c", program]
        return int(subprocess.run(argv, env=self.environment, check=True, stdout=subprocess.PIPE, text=True).stdout)

    def close(self) -> None:
        """Ends the supervisor."""
        subprocess.run(
            [sys.executable, "-c", "from interceptor.client import connect; connect(spawn=False).call('shutdown', force=True)"],
            env=self.environment,
            check=False,
            stderr=subprocess.DEVNULL,
        )


@contextlib.contextmanager
def host() -> Iterator[Host]:
    """A host for the length of a benchmark; its mounts are in the caller's mount namespace, see `in_private_namespace`.

    What engines and we keep in /run (bundles, our run directory) lies on a tmpfs here, too: on a disk's filesystem
    replacing a file waits for the disk.
    """
    with (
        tempfile.TemporaryDirectory(prefix="interceptor-bench-") as scratch,
        tempfile.TemporaryDirectory(prefix="interceptor-bench-", dir=a_tmpfs()) as volatile,
    ):
        for directory in (scratch, volatile):
            Path(directory).chmod(0o711)
        made = Host(Path(scratch), Path(volatile))
        try:
            yield made
        finally:
            made.close()


def a_tmpfs() -> Path:
    """/run, where it is one."""
    types = {fields[1]: fields[2] for fields in map(str.split, Path("/proc/self/mounts").read_text().splitlines())}
    for directory in ("/run", "/dev/shm"):  # noqa: S108 - not a file of a known name
        if types.get(directory) == "tmpfs":
            return Path(directory)
    raise SystemExit("neither /run nor /dev/shm is a tmpfs")


def in_private_namespace() -> None:
    """Starts this program again in a mount namespace of its own, unless it is in one."""
    if os.environ.get("INTERCEPTOR_BENCH_NAMESPACE") != "1":
        os.environ["INTERCEPTOR_BENCH_NAMESPACE"] = "1"
        os.execvp("unshare", ["unshare", "--mount", sys.executable, *sys.argv])
