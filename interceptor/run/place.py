"""Where `interceptor run` keeps a container's things, and how they are taken away again.

Everything of one container lies below $state/run/NAME and is removed from what is found there, not from what a process
remembers: whoever comes next, after a crash or a reboot, can finish what the last one left.

    bundle/config.json   what the runtime is given        upper/, work/   what the container writes
    bundle/rootfs/       its root filesystem is mounted   etc/            hosts, hostname, resolv.conf
    log                  output of a detached one

.NAME.lock beside it is held as long as somebody sees to the container; what nobody holds and the runtime does not know
is swept.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from interceptor.errors import ConfigError, InterceptorError
from interceptor.native import sockets

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def state_directory() -> Path:
    """$INTERCEPTOR_STATE or /var/lib/interceptor."""
    directory = os.environ.get("INTERCEPTOR_STATE") or "/var/lib/interceptor"
    if not directory.startswith("/"):
        raise ConfigError(f'INTERCEPTOR_STATE is "{directory}"; it must be an absolute path')
    return Path(directory)


def check_name(name: str) -> str:
    """`name`, if it can be a container id and a directory."""
    if not NAME.fullmatch(name):
        raise ConfigError(f"--name {name!r}: a letter or digit, then up to 63 letters, digits, '_', '.' and '-'")
    return name


@dataclass(frozen=True, slots=True)
class Place:
    """One container's directory."""

    root: Path

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def bundle(self) -> Path:
        return self.root / "bundle"

    @property
    def rootfs(self) -> Path:
        return self.bundle / "rootfs"

    @property
    def etc(self) -> Path:
        return self.root / "etc"

    @property
    def log(self) -> Path:
        return self.root / "log"

    def make(self) -> None:
        """An empty place; ConfigError when the name is taken."""
        try:
            self.root.mkdir(mode=0o700)
        except FileExistsError:
            raise exists(self.name) from None
        for directory in (self.bundle, self.rootfs, self.root / "upper", self.root / "work", self.etc):
            directory.mkdir(mode=0o755)

    def mount(self, lower: Sequence[Path]) -> None:
        """An overlay of `lower` (topmost first) and this container's own upper layer, as engines mount one."""
        layers = [*map(str, lower), str(self.root / "upper"), str(self.root / "work")]
        if odd := next((layer for layer in layers if re.search(r"[,:\\\s]", layer)), None):
            raise ConfigError(f"{odd}: overlayfs cannot take a path with a comma, colon, backslash or white space")
        *below, upper, work = layers
        options = f"lowerdir={':'.join(below)},upperdir={upper},workdir={work}"
        if len(options) >= os.sysconf("SC_PAGE_SIZE"):
            raise ConfigError(f"{len(lower)} layers are more than one mount(2) call can name; merge some of them")
        _command("mount", "-t", "overlay", "-o", options, "interceptor", str(self.rootfs))

    def remove(self) -> None:
        """Takes everything away; idempotent."""
        for point in sorted(mount_points(self.root), reverse=True):
            _command("umount", "--lazy", point)
        if self.root.exists():
            shutil.rmtree(self.root)


def exists(name: str) -> ConfigError:
    """The error for a name that is taken."""
    return ConfigError(f"container {name} exists; choose another --name, or remove it: interceptor rm --force {name}")


def claim(name: str) -> int | None:
    """The lock of container `name`, as a descriptor that may be inherited by who sees to the container next; None while
    somebody has it. To be given back with release() or by the end of all who have it.
    """
    directory = state_directory() / "run"
    for parent in (state_directory(), directory):
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / f".{name}.lock"
    while (fd := sockets.lock(path)) is not None:
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), path.stat()):
                return fd
        sockets.close([fd])  # the one who had it removed it meanwhile
    return None


def release(name: str, fd: int) -> None:
    """Gives the lock back."""
    (state_directory() / "run" / f".{name}.lock").unlink(missing_ok=True)
    sockets.close([fd])


def place(name: str) -> Place:
    """The place of container `name`, which need not exist."""
    return Place(state_directory() / "run" / name)


def places() -> list[Place]:
    """Every container that there is or that left something."""
    directory = state_directory() / "run"
    names = sorted(entry.name for entry in directory.iterdir()) if directory.is_dir() else []
    return [Place(directory / name) for name in names if not name.startswith(".")]


def mount_points(below: Path, mountinfo: str | None = None) -> list[str]:
    """Where something is mounted at or below `below`, in mount order (proc_pid_mountinfo(5))."""
    text = Path("/proc/self/mountinfo").read_text(encoding="utf-8") if mountinfo is None else mountinfo
    points = [re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), line.split(" ")[4]) for line in text.splitlines()]
    return [point for point in points if point == str(below) or point.startswith(f"{below}/")]


def _command(*words: str) -> None:
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise InterceptorError(f"{' '.join(words[:1])} {words[-1]}: {done.stderr.strip()}")
