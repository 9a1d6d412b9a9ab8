"""A system container as Docker starts it: systemd as init, commands by `docker exec`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from support.runtime import NAME
from support.waiting import DeadlineError, wait_for

if TYPE_CHECKING:
    import subprocess

    from support.engine import Engine

BOOTING = {"", "offline", "initializing", "starting"}
"""What `systemctl is-system-running` says, or fails to say, until a boot is over: systemctl(1)."""


class SystemContainer:
    """One container, started by the constructor and there until remove()."""

    def __init__(self, engine: Engine, image: str, name: str, *options: str) -> None:
        self.engine = engine
        self.name = name
        self._began = time.monotonic()
        fixed = ("--detach", "--runtime", NAME, "--stop-signal", "SIGRTMIN+3", "--name", name, "--hostname", name)
        engine.docker("run", *fixed, *options, image, "/sbin/init")

    def wait_booted(self, *, within: float) -> tuple[str, float]:
        """What systemd says once it is up, and the seconds since the container's start."""
        try:
            state = wait_for(self._booted, f"the boot of {self.name}", within=within)
        except DeadlineError:
            state = f"{self.exec('systemctl', 'is-system-running', check=False).stdout.strip()} (still booting)"
        return state, time.monotonic() - self._began

    def restarted(self) -> None:
        """Start the clock of wait_booted() anew."""
        self._began = time.monotonic()

    def _booted(self) -> str:
        state = self.exec("systemctl", "is-system-running", "--wait", check=False).stdout.strip()
        return "" if state in BOOTING else state

    def failed_units(self) -> str:
        """The names of the units that failed, and what the journal says of them."""
        listed = self.exec("systemctl", "list-units", "--failed", "--plain", "--no-legend", check=False).stdout
        units = [line.split()[0] for line in listed.splitlines() if line.strip()]
        return "\n".join(self.exec("systemctl", "status", "--no-pager", unit, check=False).stdout for unit in units)

    def exec(
        self,
        *command: str,
        check: bool = True,
        input: str = "",  # noqa: A002
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside, by `docker exec`."""
        return self.engine.docker("exec", "-i", self.name, *command, check=check, input=input, timeout=timeout)

    def sh(self, script: str, *, timeout: float = 60) -> str:
        """What a shell script prints inside, stripped; its failure is an EngineError."""
        return self.exec("sh", "-euc", script, timeout=timeout).stdout.strip()

    def inner(self, *arguments: str, timeout: float = 60, input: str = "") -> str:  # noqa: A002
        """What the inner docker prints, stripped; its failure is an EngineError."""
        return self.exec("docker", *arguments, timeout=timeout, input=input).stdout.strip()

    @property
    def pid(self) -> int:
        """The host's pid of its systemd."""
        return self.engine.pid_of(self.name)

    def remove(self) -> None:
        self.engine.docker("rm", "--force", "--volumes", self.name, check=False)
