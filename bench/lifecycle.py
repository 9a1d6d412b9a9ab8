"""A container's life from create to delete, and how its start takes as others run: runc and crun bare, and ours on each.

The bare runtimes get a configuration with a user namespace, since that is what ours makes of any. All are measured in
turn and compared pair by pair, because machines drift. Usage: ``python bench/lifecycle.py [--quick]`` (root).
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from _container import ENTRY, Host, host

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

UNIFIED = Path("/sys/fs/cgroup/unified")
MARK = "INTERCEPTOR_BENCH_UNSHARED"
CROWD = 20
SETTLE = 0.08
"""Seconds before each life: the kernel takes network namespaces and cgroups apart after `delete` has returned, and the
next create waits for it (cleanup_net(), cgroup_threadgroup_rwsem). For the same reason the order alternates."""


def enter_own_mounts() -> None:
    """crun before 1.29 refuses the hybrid cgroup layout; in a mount namespace of our own it does not see it."""
    if MARK not in os.environ and UNIFIED.is_dir():
        script = f'umount --lazy {UNIFIED}; exec "$@"'
        os.environ[MARK] = "1"
        os.execvp("unshare", ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, *sys.argv])


@dataclass(frozen=True, slots=True)
class Way:
    """One way to run a container."""

    name: str
    command: Sequence[str]
    environment: dict[str, str]
    bundle: Callable[[str, Sequence[str]], Path]
    """(name, command) → a bundle."""

    def call(self, *arguments: str) -> None:
        # A pipe would be held open by the container, and /dev/null bare crun would give to its root.
        with tempfile.TemporaryFile() as said:
            done = subprocess.run(
                [*self.command, *arguments],
                check=False,
                env=self.environment,
                stdin=said,
                stdout=said,
                stderr=said,
            )
            if done.returncode != 0:
                said.seek(0)
                raise SystemExit(f"{self.name}: {' '.join(arguments)}: {said.read().decode(errors='replace').strip()}")

    def create(self, container: str, bundle: Path) -> int:
        """Creates and starts; init's pid."""
        pid_file = bundle / "pid"
        self.call("create", "--bundle", str(bundle), "--pid-file", str(pid_file), container)
        self.call("start", container)
        return int(pid_file.read_text())


def ended(pid: int) -> None:
    """Waits for the end of a process that is not our child."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    select.select([pidfd], [], [])
    os.close(pidfd)


def life(way: Way, container: str) -> float:
    """ms from create to the end of delete, for a container that runs `true`."""
    bundle = way.bundle(container, ["/bin/busybox", "true"])
    start = time.perf_counter()
    ended(way.create(container, bundle))
    way.call("delete", container)
    return (time.perf_counter() - start) * 1e3


def crowd(way: Way) -> list[float]:
    """ms from create to the end of start, of one container after the other while the earlier ones run on."""
    names = [f"bench-crowd-{number}" for number in range(CROWD)]
    taken = []
    try:
        for name in names:
            bundle = way.bundle(name, ["/bin/busybox", "sleep", "600"])
            start = time.perf_counter()
            way.create(name, bundle)
            taken.append((time.perf_counter() - start) * 1e3)
    finally:
        for name in names[: len(taken) + 1]:
            subprocess.run([*way.command, "delete", "--force", name], check=False, env=way.environment, capture_output=True)
    return taken


def rootfs(directory: Path) -> Path:
    """busybox alone, in a directory that any user may pass."""
    root = directory / "rootfs"
    for name in ("bin", "dev", "proc", "sys", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin" / "busybox")
    return root


def ways(on: Host, runtime: str) -> tuple[Way, Way]:
    """Bare and ours, on one runtime."""
    root = rootfs(on.directory / runtime)

    def plain(name: str, command: Sequence[str]) -> Path:
        return on.bundle(f"ours-{runtime}-{name}", root, command)

    def mapped(name: str, command: Sequence[str]) -> Path:
        bundle = on.bundle(f"bare-{runtime}-{name}", root, command)
        config = json.loads((bundle / "config.json").read_text())
        linux = config["linux"]
        linux["namespaces"] = [*linux["namespaces"], {"type": "user"}]
        linux["uidMappings"] = linux["gidMappings"] = [{"containerID": 0, "hostID": 0x60000000, "size": 65536}]
        (bundle / "config.json").write_text(json.dumps(config))
        return bundle

    options = ["--root", str(on.bundles / runtime)]
    bare = Way(runtime, [shutil.which(runtime) or runtime, *options], dict(os.environ), mapped)
    ours = Way(f"ours on {runtime}", [str(ENTRY), *options], {**on.environment, "INTERCEPTOR_RUNTIME": runtime}, plain)
    return bare, ours


def compare_lives(pairs: Sequence[tuple[Way, Way]], rounds: int) -> None:
    taken: dict[str, list[float]] = {way.name: [] for pair in pairs for way in pair}
    order = [way for pair in pairs for way in pair]
    for number in range(rounds + 1):
        order.reverse()
        for way in order:
            time.sleep(SETTLE)
            elapsed = life(way, f"bench-{number}")
            if number:  # the first warms caches and starts the supervisor
                taken[way.name].append(elapsed)
    print(f"create, start, end and delete of a busybox `true` (ms, median of {rounds}):")
    for bare, ours in pairs:
        ratio = statistics.median(o / b for o, b in zip(taken[ours.name], taken[bare.name], strict=True))
        medians = [statistics.median(taken[way.name]) for way in (bare, ours)]
        print(f"  {bare.name:8} {medians[0]:7.1f}   {ours.name:12} {medians[1]:7.1f}   ratio {ratio:.2f}")


def compare_crowds(bare: Way, ours: Way) -> None:
    """Bare first: with ours, the first container starts the supervisor."""
    print(f"create and start while earlier containers run (ms), of {CROWD}:")
    for way in (bare, ours):
        taken = crowd(way)
        print(f"  {way.name:14} first {taken[0]:6.1f}   second {taken[1]:6.1f}   twentieth {taken[-1]:6.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    options = parser.parse_args()
    enter_own_mounts()
    runtimes = [name for name in ("runc", "crun") if shutil.which(name)]
    with host() as fresh:
        compare_crowds(*ways(fresh, runtimes[0]))
    with host() as fresh:
        compare_lives([ways(fresh, runtime) for runtime in runtimes], 5 if options.quick else 41)


if __name__ == "__main__":
    main()
