"""config.json's seccomp profile: the engine's and ours, merged into one.

There can be only one filter with a listener in a process's chain (seccomp(2): EBUSY), and runc and crun load one
profile per container, so what the engine wants and what we intercept become one profile.

Which wins:

- What the engine's profile denies by name stays denied; a call that it denies under conditions is left to its rules
  altogether, because libseccomp gives overlapping rules of one call no order.
- A profile that allows by default (a deny-list) gets our rules added.
- A profile that denies by default (an allow-list; Docker's and containerd's are) was written for containers without
  CAP_SYS_ADMIN. What a system container needs besides, `NEEDED`, is allowed; what we intercept notifies; everything
  else that it does not list stays denied.
- Without a profile (``--privileged``, ``seccomp=unconfined``), or when policy says ``engine-profile: ignore``:
  everything is allowed but for our rules.

Source: OCI runtime-spec config-linux.md, "Seccomp"; moby profiles/seccomp, containerd contrib/seccomp,
containers/common pkg/seccomp; runc libcontainer/seccomp, which skips rules whose action is the default action.
"""

from __future__ import annotations

import platform
from errno import ENOSYS, EPERM
from typing import TYPE_CHECKING, Any

from interceptor import stanza
from interceptor.errors import ConfigError
from interceptor.policy import EngineProfile, Policy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from collections.abc import Set as AbstractSet

    from interceptor.registry import Syscall

Profile = dict[str, Any]
"""``linux.seccomp`` of config.json."""

ALLOW = "SCMP_ACT_ALLOW"
NOTIFY = "SCMP_ACT_NOTIFY"
ALLOWING = frozenset({ALLOW, "SCMP_ACT_LOG"})
"""Actions after which the call is executed."""
WAIT_KILLABLE = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"
SPEC_ALLOW = "SECCOMP_FILTER_FLAG_SPEC_ALLOW"
"""What runc and crun set where a profile says nothing of flags; kernels before 5.16 slow a filtered process down without it."""

NEEDED: Mapping[str, tuple[str, ...]] = {
    # why → calls. The first group and those marked CAP_… are what moby's default profile allows only with that
    # capability in the engine's list. Ours has all of them, in a user namespace of its own, where the kernel's checks
    # are the limit; so the filter need not be one.
    "CAP_SYS_ADMIN: namespaces": ("clone", "clone3", "setns", "unshare"),
    "CAP_SYS_ADMIN: mounts": ("mount", "umount", "umount2", "pivot_root"),
    "CAP_SYS_ADMIN: the new mount API; mount(8) and systemd try it first": (
        "fsconfig", "fsmount", "fsopen", "fspick", "mount_setattr", "move_mount", "open_tree", "open_tree_attr",
        "listmount", "statmount",
    ),
    "CAP_SYS_ADMIN: names": ("setdomainname", "sethostname"),
    "CAP_SYS_ADMIN: quotas and swap: kubelet and systemd probe": ("quotactl", "quotactl_fd", "swapoff", "swapon"),
    "CAP_SYS_ADMIN: file events": ("fanotify_init", "fanotify_mark"),
    "CAP_SYS_ADMIN: security module labels": ("lsm_get_self_attr", "lsm_list_modules", "lsm_set_self_attr"),
    "CAP_SYS_ADMIN: profiling": ("lookup_dcookie",),
    "CAP_BPF, CAP_PERFMON: device rules of inner runtimes, tracing": ("bpf", "perf_event_open"),
    "CAP_DAC_READ_SEARCH: file handles": ("name_to_handle_at", "open_by_handle_at"),
    "CAP_SYS_BOOT: ends the pid namespace": ("reboot",),
    "CAP_SYS_CHROOT": ("chroot",),
    "CAP_SYS_MODULE: EPERM in a user namespace, and programs expect that answer": (
        "delete_module", "finit_module", "init_module",
    ),
    "CAP_SYS_PACCT": ("acct",),
    "CAP_SYS_PTRACE: debuggers, inner runtimes": (
        "kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace",
    ),
    "CAP_SYS_RAWIO: EPERM in a user namespace": ("ioperm", "iopl"),
    "CAP_SYS_TIME: EPERM in a user namespace": ("clock_settime", "clock_settime64", "settimeofday", "stime"),
    "CAP_SYS_TTY_CONFIG: login": ("vhangup",),
    "CAP_SYS_NICE: memory policy of databases": (
        "get_mempolicy", "mbind", "migrate_pages", "move_pages", "set_mempolicy", "set_mempolicy_home_node",
    ),
    "CAP_SYSLOG": ("syslog",),
    "keyrings are per user namespace since Linux 5.3; inner runc makes a session keyring": (
        "add_key", "keyctl", "request_key",
    ),
    "inner runtimes set any of an image's personalities": ("personality",),
    "not reachable under Docker's default since 2023; databases and build tools use it": (
        "io_uring_enter", "io_uring_register", "io_uring_setup",
    ),
    "live migration of inner virtual machines, garbage collectors": ("userfaultfd",),
    "systemd and inner engines load filters of their own": ("seccomp",),
}  # fmt: skip
"""What a system container calls and an engine's allow-list may lack."""

_NEEDED = frozenset(name for names in NEEDED.values() for name in names)

_ARCHITECTURES: Mapping[str, tuple[str, ...]] = {
    # x32 as well: without it in the list libseccomp's filter kills the caller of any x32 number. In the list, what we
    # intercept notifies, and is refused with ENOSYS there; what is denied has the profile's errno.
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
}


class Rules:
    """`stanza.rules` of policies, made once for each: that takes a millisecond."""

    def __init__(self, rows: Mapping[str, Syscall]) -> None:
        self._rows = rows
        self._made: dict[str, tuple[Policy, list[stanza.OciRule]]] = {}

    def of(self, policy: Policy) -> list[stanza.OciRule]:
        """Not to be changed."""
        made = self._made.get(policy.name)
        if made is None or made[0] is not policy:
            made = self._made[policy.name] = (policy, stanza.rules(self._rows, policy))
        return made[1]


def merge_profile(
    engine_profile: Profile | None,
    rows: Mapping[str, Syscall],
    policy: Policy,
    *,
    rules: list[stanza.OciRule] | None = None,
    listener_path: str,
    metadata: str,
    wait_killable: bool,
    machine: str = "",
) -> Profile:
    """`linux.seccomp` for the runtime underneath; the engine's own is not changed.

    `rules` are those of the policy, where they are known. `metadata` becomes listenerMetadata. `wait_killable`: the runtime
    can set that flag. `machine` is uname -m, the host's by default. Raises ConfigError for an engine's profile with a
    listener of its own.
    """
    ours = stanza.rules(rows, policy) if rules is None else rules
    if engine_profile is None or policy.engine_profile is EngineProfile.IGNORE:
        merged: Profile = {"defaultAction": ALLOW, "syscalls": ours}
    else:
        _refuse_second_listener(engine_profile, listener_path)
        merged = {**engine_profile, "syscalls": _merge_rules(engine_profile, ours, stanza.allowed(rows, policy))}
    merged["architectures"] = _union(merged.get("architectures"), _ARCHITECTURES.get(machine or platform.machine(), ()))
    return _with_listener(merged, listener_path, metadata, wait_killable=wait_killable)


def _with_listener(merged: Profile, listener_path: str, metadata: str, *, wait_killable: bool) -> Profile:
    """`merged` with a listener if anything notifies: without such a rule runtimes and kernel refuse path and flag."""
    if not any(rule["action"] == NOTIFY for rule in merged["syscalls"]):
        return merged
    merged["listenerPath"], merged["listenerMetadata"] = listener_path, metadata
    if wait_killable:
        merged["flags"] = _union(merged.get("flags", [SPEC_ALLOW]), [WAIT_KILLABLE])
    return merged


def _refuse_second_listener(profile: Profile, listener_path: str) -> None:
    other = profile.get("listenerPath")
    notified = sorted({n for r in _rules(profile) if r["action"] == NOTIFY for n in r["names"]})
    if (other and other != listener_path) or notified:
        calls = f" for {', '.join(notified)}" if notified else ""
        raise ConfigError(
            f"the engine's seccomp profile has a listener of its own (listenerPath {other!r}{calls}); the kernel"
            " permits one listener per filter chain and Interceptor needs it: remove SCMP_ACT_NOTIFY and listenerPath"
            " from that profile, or say `seccomp: {engine-profile: ignore}` in the container's policy"
        )


def _rules(profile: Profile) -> list[stanza.OciRule]:
    return list(profile.get("syscalls") or ())


def _merge_rules(profile: Profile, ours: list[stanza.OciRule], others: list[stanza.OciRule]) -> list[stanza.OciRule]:
    """`ours` are what we want of calls, `others` allow what we do not want of the same calls."""
    default = profile["defaultAction"]
    allow_list = default not in ALLOWING
    engine = _rules(profile)
    if allow_list:
        engine = [r for r in engine if r not in _for_want_of_capabilities(engine)]
    reserved = {n for r in engine if r["action"] not in ALLOWING for n in r["names"]}
    kept = [r for r in ours if not reserved.intersection(r["names"])]
    taken = {n for r in kept for n in r["names"]}
    if not allow_list:
        return [*_without(engine, taken, default), *kept]
    needed = _NEEDED - reserved - taken
    # What notifies under a condition is allowed otherwise.
    free = [r for r in others if taken.issuperset(r["names"])]
    return [*_without(engine, taken | needed, default), {"names": sorted(needed), "action": ALLOW}, *kept, *free]


def _is_denial(rule: stanza.OciRule, number: int) -> bool:
    """An unconditional ERRNO with that errno."""
    return rule["action"] == "SCMP_ACT_ERRNO" and rule.get("errnoRet", EPERM) == number and not rule.get("args")


def _for_want_of_capabilities(rules: list[stanza.OciRule]) -> list[stanza.OciRule]:
    """The denials in an engine's own default profile that are there only because the engine's list lacks a capability.

    Docker, containerd: clone3 → ENOSYS, which drives the C library to clone(2), whose flags a filter can see.
    Podman, CRI-O: one rule a capability. They are recognised by the one for CAP_SYS_ADMIN, and only as they stand in
    that profile: a shorter list of names is somebody's own.
    """
    podman = any(_is_denial(r, EPERM) and set(r["names"]) >= SYS_ADMIN_MARK for r in rules)
    return [
        r
        for r in rules
        if (r["names"] == ["clone3"] and _is_denial(r, ENOSYS))
        or (podman and _is_denial(r, EPERM) and (set(r["names"]) in GATES or set(r["names"]) >= SYS_ADMIN_MARK))
    ]


SYS_ADMIN_MARK = frozenset({"bpf", "fanotify_init", "perf_event_open", "quotactl", "setdomainname", "sethostname"})
GATES = tuple(
    frozenset(names.split())
    for names in (
        "open_by_handle_at",
        "chroot",
        "delete_module init_module finit_module query_module",
        "delete_module init_module finit_module",
        "get_mempolicy mbind set_mempolicy",
        "acct",
        "kcmp process_madvise process_vm_readv process_vm_writev ptrace",
        "iopl ioperm",
        "settimeofday stime clock_settime clock_settime64",
        "vhangup",
    )
)
"""The names in each of those rules of Podman's (containers/common pkg/seccomp)."""


def _without(engine: Iterable[stanza.OciRule], names: AbstractSet[str], default: str) -> list[stanza.OciRule]:
    """The engine's rules; allowing ones without `names`, and left out when they only repeat the default action."""
    kept: list[stanza.OciRule] = []
    for rule in engine:
        if rule["action"] not in ALLOWING:
            kept.append(rule)
        elif rule["action"] != default and (left := [n for n in rule["names"] if n not in names]):
            kept.append({**rule, "names": left})
    return kept


def _union(first: Iterable[str] | None, second: Iterable[str]) -> list[str]:
    """Both, in order, each once."""
    return list(dict.fromkeys([*(first or ()), *second]))
