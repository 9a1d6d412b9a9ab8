"""What a container should see, computed from its cgroup files in another way than runtime/resources.py: naively, by `cat`.

The runtime's reader is not used here: two that agree are worth more than one.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

V1 = Path("/sys/fs/cgroup")
UNLIMITED = 1 << 62


@dataclass(frozen=True)
class Expected:
    cpus: int
    memory: int
    swap: int
    """Both in KiB."""


def expected(pid: int) -> Expected:
    """Of a process, by the cgroups that it is in."""
    return Expected(_cpus(pid), *_memory(pid))


def usage(pid: int, container: str = "") -> int:
    """Bytes that its memory cgroup uses, or that of the container (by id) that it is in: systemd makes some below it."""
    directory = _own(pid, "memory", container)
    for name in ("memory.current", "memory.usage_in_bytes"):
        if (directory / name).exists():
            return int((directory / name).read_text(encoding="ascii"))
    raise AssertionError(f"{directory} counts no memory")


def cpu_seconds(pid: int, container: str = "") -> float:
    """CPU time that its cgroup has used, or that of the container (by id) that it is in."""
    directory = _own(pid, "cpuacct", container)
    if (directory / "cpuacct.usage").exists():
        return int((directory / "cpuacct.usage").read_text(encoding="ascii")) / 1e9
    (found,) = re.findall(r"^usage_usec (\d+)$", (directory / "cpu.stat").read_text(encoding="ascii"), re.MULTILINE)
    return int(found) / 1e6


def host(name: str) -> int:
    """A line of the host's /proc/meminfo, in KiB."""
    (found,) = re.findall(rf"^{name}: +(\d+) kB$", Path("/proc/meminfo").read_text(encoding="ascii"), re.MULTILINE)
    return int(found)


def _own(pid: int, controller: str, container: str) -> Path:
    return next(directory for directory in _chain(pid, controller) if container in directory.name)


def _chain(pid: int, controller: str) -> list[Path]:
    """The cgroup and those above it, without the root."""
    for line in Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines():
        number, names, path = line.split(":", 2)
        if controller in names.split(",") and (V1 / controller).is_dir():
            top = V1 / controller
            break
        if number == "0":
            unified = path
    else:
        top, path = (V1 / "unified" if (V1 / "unified").is_dir() else V1), unified
    parts = path.strip("/").split("/")
    return [top.joinpath(*parts[:length]) for length in range(len(parts), 0, -1)]


def _numbers(pid: int, controller: str, *names: str) -> list[int]:
    files = [directory / name for directory in _chain(pid, controller) for name in names]
    words = [file.read_text(encoding="ascii").split()[0] for file in files if file.exists()]
    return [int(word) for word in words if word.isdigit() and int(word) < UNLIMITED]


def _cpus(pid: int) -> int:
    mask = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    (allowed,) = re.findall(r"^Cpus_allowed:\s+([0-9a-f,]+)$", mask, re.MULTILINE)
    most = int(allowed.replace(",", ""), 16).bit_count()
    for directory in _chain(pid, "cpu"):
        if (directory / "cpu.max").exists():
            quota, period = (directory / "cpu.max").read_text(encoding="ascii").split()
        elif (directory / "cpu.cfs_quota_us").exists():
            quota = (directory / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (directory / "cpu.cfs_period_us").read_text(encoding="ascii")
        else:
            continue
        if quota not in {"max", "-1"}:
            most = min(most, max(1, math.ceil(int(quota) / int(period))))
    return most


def _memory(pid: int) -> tuple[int, int]:
    limits = _numbers(pid, "memory", "memory.max", "memory.limit_in_bytes")
    both = _numbers(pid, "memory", "memory.memsw.limit_in_bytes")
    swaps = _numbers(pid, "memory", "memory.swap.max")
    if both and limits:
        swaps.append(min(both) - min(limits))
    memory = min([limit >> 10 for limit in limits] + [host("MemTotal")])
    return memory, min([limit >> 10 for limit in swaps] + [host("SwapTotal")])
