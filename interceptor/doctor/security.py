"""Security modules: what they may forbid to the runtime, the supervisor and the containers.

Source: apparmor(7); Linux security/apparmor/apparmorfs.c, security/selinux/selinuxfs.c; kernel.apparmor_* sysctls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interceptor.doctor.finding import Finding, Host, ok, warning

if TYPE_CHECKING:
    from collections.abc import Iterator


def modules(host: Host) -> Iterator[Finding]:
    yield from _apparmor(host)
    yield from _selinux(host)


def _apparmor(host: Host) -> Iterator[Finding]:
    if host.text("/sys/module/apparmor/parameters/enabled") != "Y":
        yield ok("AppArmor", "not active")
        return
    profiles = (host.text("/sys/kernel/security/apparmor/profiles") or "").splitlines()
    stock = any(line.startswith("docker-default ") for line in profiles)
    yield ok("AppArmor", f"active, {len(profiles)} profiles{', docker-default among them' if stock else ''}")
    if stock:
        advice = (
            "docker-default denies mount(2) to a container's processes, also where the kernel would perform it.\n"
            "For containers that mount by themselves: docker run --security-opt apparmor=unconfined"
        )
        yield warning("  … docker-default", "denies mounts inside containers", advice)
    if host.text("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        advice = "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, where sandboxes inside containers need it"
        yield warning("  … user namespaces", "restricted for unconfined programs", advice)


def _selinux(host: Host) -> Iterator[Finding]:
    enforcing = host.text("/sys/fs/selinux/enforce")
    if enforcing is None:
        yield ok("SELinux", "not active")
    elif enforcing == "0":
        yield ok("SELinux", "permissive")
    else:
        advice = "If containers are refused what policy allows, look for AVC denials: ausearch -m AVC -ts recent"
        yield warning("SELinux", "enforcing", advice)
