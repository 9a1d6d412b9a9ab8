"""The host's kernel modules: which are there, and loading one of the host's own by its name. ports.Modules for one call.

Source: Linux Documentation/ABI/testing/sysfs-module; modprobe(8); kmod, "modules.builtin".
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from interceptor.errors import InterceptorError
from interceptor.native import children

if TYPE_CHECKING:
    from collections.abc import Callable

MODPROBE = "modprobe"
_NAME = re.compile(r"[A-Za-z0-9_]{1,55}")
"""MODULE_NAME_LEN is 64 - sizeof(long), with the NUL."""


class HostModules:
    """Asks the kernel and the host's files; nothing is kept, because the host's administrator loads and removes as well."""

    def __init__(
        self,
        slow: Callable[[], None],
        patience: float,
        directory: Path = Path("/sys/module"),
        files: Path = Path("/lib/modules"),
    ) -> None:
        """`slow` is called before what takes long, and `patience` is how long that may take, s."""
        self._slow, self._patience = slow, patience
        self._directory, self._files = directory, files

    def present(self, name: str) -> bool:
        if not _NAME.fullmatch(name):
            return False
        module = self._directory / name
        try:
            return (module / "initstate").read_text() == "live\n"
        except FileNotFoundError:  # built in: has no state, and no directory at all without a parameter
            return module.is_dir() or self._is_built_in(name)

    def _is_built_in(self, name: str) -> bool:
        try:
            paths = (self._files / os.uname().release / "modules.builtin").read_text(errors="replace").split()
        except OSError:
            return False
        return any(path.rpartition("/")[2].removesuffix(".ko").replace("-", "_") == name for path in paths)

    def load(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise OSError(errno.ENOENT, "no name of a module")
        self._slow()
        try:
            done = children.run([MODPROBE, "-b", "--", name], timeout=self._patience, cwd="/")
        except FileNotFoundError:
            raise InterceptorError(f"the supervisor has no {MODPROBE} in its PATH") from None
        except subprocess.TimeoutExpired:
            raise InterceptorError(f"{MODPROBE} {name} takes longer than {self._patience:g} s") from None
        if done.returncode or not self.present(name):
            said = done.stderr.strip() or "blacklisted on the host"
            raise OSError(errno.ENOENT, f"{MODPROBE} {name}: {said}"[:256])
