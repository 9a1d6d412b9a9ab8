"""Which capabilities a container's process gets inside its own user namespace.

Source: capabilities(7); Linux include/uapi/linux/capability.h.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NAMES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)  # fmt: skip
"""By number, without CAP_."""

SYS_RESOURCE = NAMES.index("SYS_RESOURCE")


def known_to_kernel() -> tuple[str, ...]:
    """CAP_* names up to the kernel's last one."""
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    return tuple("CAP_" + name for name in NAMES[: last + 1])


def effective() -> int:
    """Our own effective set, a bit per number."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def grant(engine: Mapping[str, Sequence[str]], every: Sequence[str], *, uid: int) -> dict[str, list[str]]:
    """A process's sets under policy "all".

    Root gets everything that its user namespace has. Another user keeps what the engine gave it, so that it is no
    less a user than under runc; only its bounding set is full, so that set-uid programs and file capabilities work
    as on a machine. Nothing is inheritable beyond what the engine said: an inheritable set would survive into
    unprivileged programs (CVE-2022-24769).
    """
    if uid == 0:
        return {"bounding": list(every), "effective": list(every), "permitted": list(every)}
    return {**{name: list(values) for name, values in engine.items()}, "bounding": list(every)}
