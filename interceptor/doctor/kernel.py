"""The kernel: namespaces, seccomp user notification, limits that containers share.

Source: user_namespaces(7), time_namespaces(7), seccomp_unotify(2), proc_sys_user(5); Linux kernel/ucount.c, where a
container's objects are charged to its own user namespace and to whoever created that: root, for all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interceptor.doctor.finding import Finding, Host, failure, ok, warning
from interceptor.native import probe
from interceptor.native.probe import Notify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def namespaces(_host: Host) -> Iterator[Finding]:
    outcome = probe.user_namespace()
    if outcome.worked:
        yield ok("user namespace", f"{probe.IDS:,} ids mapped, tmpfs mounted by its root")
    else:
        advice = "Every container needs one: build the kernel with CONFIG_USER_NS and allow user.max_user_namespaces."
        yield failure("user namespace", str(outcome), advice)
    outcome = probe.time_namespace()
    if outcome.worked:
        yield ok("time namespace", "boot time starts at zero inside")
    else:
        advice = "Containers run, but show the host's uptime; CONFIG_TIME_NS (Linux 5.6) gives each its own."
        yield warning("time namespace", str(outcome), advice)


_NEEDED: dict[Notify, tuple[str, str]] = {
    Notify.ANSWER: ("seccomp notification", "received, validated and answered"),
    Notify.CONTINUE: ("  … CONTINUE", "the kernel performed the call"),
    Notify.ADDFD_SEND: ("  … ADDFD with SEND", "descriptor injected and call answered at once"),
}
_WANTED: dict[Notify, tuple[str, str, str]] = {
    Notify.SYNC_WAKE_UP: (
        "  … SYNC_WAKE_UP", "set", "Intercepted calls take some ten times as long without it; Linux 6.6 has it.",
    ),
    Notify.WAIT_KILLABLE: (
        "  … WAIT_KILLABLE_RECV", "filter installed",
        "Signals interrupt intercepted calls, which are then made again; Linux 5.19 has it.",
    ),
}  # fmt: skip


def seccomp(_host: Host) -> Iterator[Finding]:
    for part, (what, found) in _NEEDED.items():
        outcome = probe.notify(part)
        advice = "Interception rests on it: Linux 5.14 with CONFIG_SECCOMP_FILTER has it."
        yield ok(what, found) if outcome.worked else failure(what, str(outcome), advice)
    for part, (what, found, advice) in _WANTED.items():
        outcome = probe.notify(part)
        yield ok(what, found) if outcome.worked else warning(what, str(outcome), advice)


def resources(_host: Host) -> Iterator[Finding]:
    """Some virtual machines and containers have a root without CAP_SYS_RESOURCE."""
    outcome = probe.raise_limit()
    if outcome.worked:
        yield ok("resource limits", "a hard limit was lowered and raised again")
    else:
        advice = (
            "Containers run, with hard limits and oom_score_adj no better than what starts them has, and no policy can lend\n"
            "more (`limits: rlimits:`). Root has CAP_SYS_RESOURCE on an ordinary host; a service's CapabilityBoundingSet=, or\n"
            "the container or virtual machine that this is, may keep it away."
        )
        yield warning("resource limits", f"{outcome} (CAP_SYS_RESOURCE is lacking)", advice)


def limits(host: Host) -> Iterator[Finding]:
    """A container's objects are charged to host root as well, so that these limits are shared by all containers."""
    for name, enough, why in _LIMITS:
        value = host.number(f"/proc/sys/{name.replace('.', '/')}")
        if value is None:
            continue
        if value >= enough:
            yield ok(name, f"{value:,}")
        else:
            judge: Callable[[str, str, str], Finding] = warning if value else failure
            yield judge(name, f"{value:,}; {why}", f"sysctl -w {name}={enough}   (to keep it: a file in /etc/sysctl.d)")
    if host.text("/proc/sys/kernel/unprivileged_userns_clone") == "0":
        advice = "Rootless engines inside containers need it: sysctl -w kernel.unprivileged_userns_clone=1"
        yield warning("kernel.unprivileged_userns_clone", "0: only root may create user namespaces", advice)


_LIMITS = (
    ("user.max_user_namespaces", 1024, "each container takes one and may nest more"),
    ("user.max_mnt_namespaces", 1024, "each container and each service in it takes one"),
    ("user.max_pid_namespaces", 1024, "each container, inner ones too, takes one"),
    ("user.max_net_namespaces", 1024, "each container, inner ones too, takes one"),
    ("fs.mount-max", 20_000, "mounts in one mount namespace; the host's holds those of all containers"),
    ("fs.inotify.max_user_instances", 1024, "all containers share it, and a booted systemd takes some ten"),
    ("fs.inotify.max_user_watches", 65_536, "all containers share it"),
    ("kernel.keys.maxkeys", 200, "of each container's root, and each inner container takes one"),
)
