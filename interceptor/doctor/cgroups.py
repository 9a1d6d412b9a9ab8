"""Control groups: which layout, which controllers, and whether a container can be given its own part.

Only read: the hierarchy is the host's, and even a probe's cgroup would be seen by whoever watches it.

Source: cgroups(7); Linux Documentation/admin-guide/cgroup-v2.rst, "Delegation".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from interceptor.doctor.finding import Finding, Host, failure, ok, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTROLLERS = ("cpu", "memory", "pids")
"""What engines set limits with."""
ROOT = "/sys/fs/cgroup"


class Mount(NamedTuple):
    """One mounted hierarchy, from /proc/self/mounts."""

    point: str
    fstype: str
    options: frozenset[str]


def hierarchy(host: Host) -> Iterator[Finding]:
    mounts = cgroup_mounts(host)
    v2 = next((m for m in mounts if m.fstype == "cgroup2"), None)
    v1 = [m for m in mounts if m.fstype == "cgroup"]
    if not mounts:
        advice = f"Mount them: mount -t cgroup2 cgroup2 {ROOT}   (systemd does so by itself)"
        yield failure("control groups", "none are mounted", advice)
    elif v2 and v2.point == ROOT:
        yield from _unified(host, v2)
    else:
        yield from _legacy(v1, hybrid=v2 is not None)


def is_hybrid(host: Host) -> bool:
    """Controllers on v1 and an empty v2 beside them, as systemd's "hybrid" mode mounts them."""
    kinds = {m.fstype for m in cgroup_mounts(host)}
    return kinds == {"cgroup", "cgroup2"}


def cgroup_mounts(host: Host) -> list[Mount]:
    lines = (line.split() for line in (host.text("/proc/self/mounts") or "").splitlines())
    return [Mount(f[1], f[2], frozenset(f[3].split(","))) for f in lines if f[2] in ("cgroup", "cgroup2")]


def _unified(host: Host, mount: Mount) -> Iterator[Finding]:
    available = (host.text(f"{mount.point}/cgroup.controllers") or "").split()
    yield from _controllers("v2", available)
    enabled = (host.text(f"{mount.point}/cgroup.subtree_control") or "").split()
    missing = [c for c in CONTROLLERS if c in available and c not in enabled]
    if "ro" in mount.options:
        advice = "The runtime makes a cgroup for each container: remount the hierarchy read-write."
        yield failure("  … delegation", f"{mount.point} is mounted read-only", advice)
    elif missing:
        advice = f"echo '{' '.join('+' + c for c in missing)}' > {mount.point}/cgroup.subtree_control   (systemd does)"
        yield warning("  … delegation", f"not enabled below the root: {', '.join(missing)}", advice)
    else:
        how = "nsdelegate, " if "nsdelegate" in mount.options else ""
        yield ok("  … delegation", f"{how}enabled below the root: {', '.join(enabled) or 'nothing'}")


def _legacy(mounts: list[Mount], *, hybrid: bool) -> Iterator[Finding]:
    controllers = {c for m in mounts for c in m.options if m.point.startswith(ROOT)}
    yield from _controllers("v1, hybrid" if hybrid else "v1", sorted(controllers))
    if any("ro" in m.options for m in mounts):
        advice = "The runtime makes a cgroup in each hierarchy: remount them read-write."
        yield failure("  … delegation", "a hierarchy is mounted read-only", advice)
    elif "name=systemd" not in controllers:
        advice = f"systemd in a container needs it: mount -t cgroup -o none,name=systemd systemd {ROOT}/systemd"
        yield warning("  … delegation", "the hierarchy name=systemd is not mounted", advice)
    else:
        yield ok("  … delegation", "hierarchies are writable, name=systemd among them")


def _controllers(layout: str, available: list[str]) -> Iterator[Finding]:
    missing = [c for c in CONTROLLERS if c not in available]
    if missing:
        advice = f"Limits of these kinds (docker run --memory, --cpus, --pids-limit) fail: {', '.join(missing)}."
        yield warning("control groups", f"{layout}; without {', '.join(missing)}", advice)
    else:
        yield ok("control groups", f"{layout}; {', '.join(CONTROLLERS)} are there")
