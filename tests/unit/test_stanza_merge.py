"""The merged profile, compiled by libseccomp as runc does and executed on made-up calls."""

from __future__ import annotations

import copy
import errno
import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyseccomp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.policy_rows import NOT_NEW, ROWS, MountArgs, MountFlags, ShutdownArgs, policy, row, rows_of
from support.seccomp_machine import ALLOW, ERRNO, KILL, NOTIFY, Answer, Filter

from interceptor import registry, stanza
from interceptor.args import X32_SYSCALL_BIT, Arch
from interceptor.errors import ConfigError
from interceptor.policy import Decision, Do, Policy
from interceptor.registry import Masked, Syscall, resolve
from runtime.seccomp import NEEDED, SPEC_ALLOW, WAIT_KILLABLE, merge_profile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DOCKER: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data/docker-20.10-seccomp.json").read_text())
ARCHES = [Arch.X86_64, Arch.I386]
LISTENER = "/run/interceptor/seccomp.sock"
DENIED = Answer(ERRNO, errno.EPERM)


@pytest.fixture
def emulate(tmp_path: Path) -> Policy:
    return policy(tmp_path, "default: emulate")


def merge(
    profile: dict[str, Any] | None, chosen: Policy, rows: Mapping[str, Syscall] = ROWS, **changes: Any
) -> dict[str, Any]:
    before = copy.deepcopy(profile)
    options = {"listener_path": LISTENER, "metadata": "id", "wait_killable": False, "machine": "x86_64", **changes}
    merged = merge_profile(profile, rows, chosen, **options)
    assert profile == before, "the engine's own profile is not changed"
    json.dumps(merged)
    return merged


def nr(name: str, arch: Arch) -> int:
    number = resolve(name, arch)
    assert number is not None
    return number


@pytest.mark.parametrize("profile", [None, {"defaultAction": "SCMP_ACT_ALLOW"}, DOCKER["default"], DOCKER["sys_admin"]])
@pytest.mark.parametrize("arch", ARCHES)
def test_new_mounts_notify_and_others_stay_in_the_kernel(
    profile: dict[str, Any] | None, arch: Arch, emulate: Policy
) -> None:
    run = Filter(merge(profile, emulate))
    mount = nr("mount", arch)
    assert run(arch, mount, 1, 2, 3, 0, 5) == (NOTIFY, 0)
    assert run(arch, mount, 1, 2, 3, MountFlags.MS_RDONLY | MountFlags.MS_NOSUID, 5) == (NOTIFY, 0)
    for flag in (f for f in MountFlags if f & NOT_NEW):
        assert run(arch, mount, 1, 2, 3, flag, 5) == (ALLOW, 0)
        assert run(arch, mount, 1, 2, 3, flag | MountFlags.MS_RDONLY | MountFlags.MS_BIND, 5) == (ALLOW, 0)
    assert run(arch, nr("sethostname", arch), 1, 2) == (NOTIFY, 0)
    assert run(arch, nr("read", arch)) == (ALLOW, 0)


@pytest.mark.parametrize("which", ["default", "sys_admin"])
@pytest.mark.parametrize("arch", ARCHES)
def test_dockers_profile_lets_a_system_container_live(which: str, arch: Arch, emulate: Policy) -> None:
    run = Filter(merge(DOCKER[which], emulate))
    intercepted = set(ROWS)
    for name in (n for names in NEEDED.values() for n in names):
        number = resolve(name, arch)
        if number is not None and name not in intercepted:
            assert run(arch, number, 0x10000000, 0x20) == (ALLOW, 0), name
    assert run(arch, nr("kexec_load", arch)) == DENIED, "unlisted, and no system container needs it"
    assert run(arch, nr("clone3", arch)) == (ALLOW, 0)
    assert run(arch, nr("clone", arch), 0x7E020000) == (ALLOW, 0)
    assert run(arch, nr("personality", arch), 0x0040000) == (ALLOW, 0)


def test_without_us_dockers_profile_denies_these() -> None:
    run = Filter(DOCKER["default"])
    assert run(Arch.X86_64, nr("mount", Arch.X86_64)) == DENIED
    assert run(Arch.X86_64, nr("clone3", Arch.X86_64)) == (ERRNO, errno.ENOSYS)
    assert run(Arch.X86_64, nr("clone", Arch.X86_64), 0x10000000) == DENIED


@pytest.mark.parametrize("default", ["SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW"])
def test_what_the_engine_denies_by_name_stays_denied(default: str, emulate: Policy) -> None:
    profile = {
        "defaultAction": default,
        "defaultErrnoRet": errno.EACCES,
        "syscalls": [
            {"names": ["keyctl", "mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENODEV},
            {"names": ["bpf"], "action": "SCMP_ACT_KILL_PROCESS"},
            {"names": ["read", "sethostname"], "action": "SCMP_ACT_ALLOW"},
        ],
    }
    merged = merge(profile, emulate)
    run = Filter(merged)
    for arch in ARCHES:
        assert run(arch, nr("keyctl", arch)) == run(arch, nr("mount", arch)) == (ERRNO, errno.ENODEV)
        assert run(arch, nr("bpf", arch)) == (KILL, 0)
        assert run(arch, nr("sethostname", arch)) == (NOTIFY, 0)
        assert run(arch, nr("read", arch)) == (ALLOW, 0)
        assert run(arch, nr("unshare", arch)) == (ALLOW, 0)
        assert run(arch, nr("write", arch)) == ((ALLOW, 0) if default == "SCMP_ACT_ALLOW" else (ERRNO, errno.EACCES))


@pytest.mark.parametrize("default", ["SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW"])
def test_a_call_denied_under_conditions_is_the_engines(default: str, emulate: Policy) -> None:
    remount = {"index": 3, "value": 32, "valueTwo": 32, "op": "SCMP_CMP_MASKED_EQ"}
    new = {"index": 3, "value": 32, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    profile = {
        "defaultAction": default,
        "syscalls": [
            {"names": ["mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EACCES, "args": [remount]},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "args": [new]},
        ],
    }
    run = Filter(merge(profile, emulate))
    assert run(Arch.X86_64, 165, 1, 2, 3, 32) == (ERRNO, errno.EACCES)
    assert run(Arch.X86_64, 165, 1, 2, 3, 0) == (ALLOW, 0)


PODMAN: dict[str, Any] = {
    # What Podman's default (containers/common) makes of a container without these capabilities, in short.
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": errno.ENOSYS,
    "syscalls": [
        {"names": ["kexec_load", "swapon", "userfaultfd"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
        {"names": ["clone3", "keyctl", "mount", "ptrace", "read", "setns", "umount2"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["open_by_handle_at"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
        {"names": ["bpf", "fanotify_init", "lookup_dcookie", "perf_event_open", "quotactl", "setdomainname", "sethostname",
                   "setns"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
        {"names": ["kcmp", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace"],
         "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
    ],
}  # fmt: skip


def test_podmans_denials_for_want_of_a_capability_are_lifted_and_its_others_kept(emulate: Policy) -> None:
    run = Filter(merge(PODMAN, emulate))
    for arch in ARCHES:
        assert run(arch, nr("sethostname", arch)) == run(arch, nr("mount", arch)) == (NOTIFY, 0)
        for name in ("ptrace", "setns", "bpf", "open_by_handle_at", "unshare"):
            assert run(arch, nr(name, arch)) == (ALLOW, 0), name
        for name in ("kexec_load", "swapon", "userfaultfd"):
            assert run(arch, nr(name, arch)) == DENIED, name
        assert run(arch, nr("times", arch)) == (ERRNO, errno.ENOSYS)


def test_what_somebody_added_to_podmans_profile_is_meant(emulate: Policy) -> None:
    profile = copy.deepcopy(PODMAN)
    profile["syscalls"].append({"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EPERM})
    assert Filter(merge(profile, emulate))(Arch.X86_64, nr("bpf", Arch.X86_64)) == DENIED
    alone = {**PODMAN, "syscalls": [r for r in PODMAN["syscalls"] if "sethostname" not in r["names"]]}
    alone["syscalls"] = [r for r in alone["syscalls"] if r["names"][0] != "clone3"]
    denied = nr("open_by_handle_at", Arch.X86_64)
    assert Filter(merge(alone, emulate))(Arch.X86_64, denied) == DENIED, "not that profile: meant"


def test_an_allow_list_with_conditions_keeps_them(emulate: Policy) -> None:
    profile = copy.deepcopy(DOCKER["default"])
    vsock = {"index": 0, "value": 40, "op": "SCMP_CMP_NE"}
    profile["syscalls"] = [{**r, "names": [n for n in r["names"] if n != "socket"]} for r in profile["syscalls"]]
    profile["syscalls"].append({"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [vsock]})
    run = Filter(merge(profile, emulate))
    assert run(Arch.X86_64, nr("socket", Arch.X86_64), 1) == (ALLOW, 0)
    assert run(Arch.X86_64, nr("socket", Arch.X86_64), 40) == DENIED


def test_clone3_denied_by_a_deny_list_is_meant(emulate: Policy) -> None:
    rule = {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS}
    run = Filter(merge({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}, emulate))
    assert run(Arch.X86_64, nr("clone3", Arch.X86_64)) == (ERRNO, errno.ENOSYS)


@pytest.mark.parametrize("profile", [None, DOCKER["default"], {"defaultAction": "SCMP_ACT_ALLOW"}])
def test_x32_reaches_us_and_is_not_killed(profile: dict[str, Any] | None, emulate: Policy) -> None:
    run = Filter(merge(profile, emulate))
    assert run(Arch.X86_64, X32_SYSCALL_BIT | 165, 1, 2, 3, 0) == (NOTIFY, 0)
    assert run(Arch.X86_64, X32_SYSCALL_BIT | 0) == (ALLOW, 0)


def test_without_x32_in_the_list_libseccomp_kills(emulate: Policy) -> None:
    """Why it is in the list."""
    merged = merge(None, emulate)
    merged["architectures"] = ["SCMP_ARCH_X86_64"]
    assert Filter(merged)(Arch.X86_64, X32_SYSCALL_BIT | 165).action in {0, KILL}


def test_an_ignored_profile_leaves_ours_alone(tmp_path: Path) -> None:
    p = policy(tmp_path, "default: emulate\nseccomp: {engine-profile: ignore}\n")
    assert merge(DOCKER["default"], p) == merge(None, p)
    assert merge({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/other"}, p) == merge(None, p)


def test_flags_architectures_and_listener(emulate: Policy) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "flags": ["SECCOMP_FILTER_FLAG_LOG", WAIT_KILLABLE],
        "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X86_64"],
    }
    merged = merge(profile, emulate, wait_killable=True)
    assert merged["flags"] == ["SECCOMP_FILTER_FLAG_LOG", WAIT_KILLABLE]
    assert merged["architectures"] == ["SCMP_ARCH_X86", "SCMP_ARCH_X86_64", "SCMP_ARCH_X32"]
    assert (merged["listenerPath"], merged["listenerMetadata"]) == (LISTENER, "id")
    assert merge(None, emulate, wait_killable=True)["flags"] == [SPEC_ALLOW, WAIT_KILLABLE]
    assert "flags" not in merge(None, emulate)
    assert merge(None, emulate, machine="aarch64")["architectures"] == ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]


def test_nothing_intercepted_no_listener(tmp_path: Path) -> None:
    merged = merge(None, policy(tmp_path, "default: native"), wait_killable=True)
    assert not {"listenerPath", "listenerMetadata", "flags"} & set(merged)


def test_a_second_listener_is_refused_with_the_reason(emulate: Policy) -> None:
    rule = {"names": ["openat"], "action": "SCMP_ACT_NOTIFY"}
    for profile in (
        {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/other.sock"},
        {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/other.sock", "syscalls": [rule]},
    ):
        with pytest.raises(ConfigError, match=r"'/run/other.sock'.*one listener per filter chain.*engine-profile: ig"):
            merge(profile, emulate)


def test_the_table_of_needed_calls_is_of_calls() -> None:
    names = [n for names in NEEDED.values() for n in names]
    assert len(names) == len(set(names))
    for name in names:
        known = pyseccomp.resolve_syscall(pyseccomp.Arch.X86_64, name)
        assert known != -1 or name in NEWER, name


NEWER = {"open_tree_attr", "listmount", "statmount", "lsm_get_self_attr", "lsm_list_modules", "lsm_set_self_attr"}
"""What Debian 12's libseccomp 2.5.4 does not know yet; runc and crun leave such names out."""

COMBINATIONS = [sum(c) for n in range(len(MountFlags) + 1) for c in itertools.combinations(map(int, MountFlags), n)]
"""Every set of mount flags."""

BITS = st.integers(1, 15)
CONDITIONS = st.lists(st.tuples(st.sampled_from(["flags", "fd"]), BITS, BITS), min_size=1, max_size=3)


@settings(max_examples=30, deadline=None)
@given(CONDITIONS)
def test_any_conditions_notify_in_an_allow_list_and_the_rest_is_allowed(conditions: list[tuple[str, int, int]]) -> None:
    """libseccomp's own optimiser is between us and the kernel; every value of both registers is tried."""
    when = tuple(Masked(field, mask, value & mask) for field, mask, value in conditions)
    rows = rows_of(row("splice", ShutdownArgs, *when))
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}
    chosen = Policy("x", "x.yaml", default=Decision(Do.EMULATE, "x.yaml:1"))
    run = Filter(merge_profile(profile, rows, chosen, listener_path="/l", metadata="", wait_killable=False))
    number = nr("splice", Arch.X86_64)
    for fd, flags in itertools.product(range(16), range(16)):
        wanted = any((flags if m.field == "flags" else fd) & m.mask == m.value for m in when)
        assert run(Arch.X86_64, number, fd, 0, 0, 0, 0, flags) == ((NOTIFY, 0) if wanted else (ALLOW, 0))


@pytest.mark.parametrize("profile", [None, DOCKER["default"], {"defaultAction": "SCMP_ACT_ALLOW"}])
def test_a_denial_widens_the_filter_by_what_it_could_deny(tmp_path: Path, profile: dict[str, Any] | None) -> None:
    denial = "{when: {source: /secret, flags: {has: [MS_BIND], not: [MS_RDONLY]}}, do: deny}"
    run = Filter(merge(profile, policy(tmp_path, f"default: emulate\ncalls: {{mount: [{denial}]}}\n")))
    for flags in COMBINATIONS:
        wanted = not flags & NOT_NEW or flags & 4097 == 4096
        assert run(Arch.X86_64, 165, 1, 2, 3, flags) == ((NOTIFY, 0) if wanted else (ALLOW, 0)), hex(flags)


def test_several_conditions_of_mount(emulate: Policy) -> None:
    """New mounts, and remounts that are not of a bind."""
    bind_remount = MountFlags.MS_BIND | MountFlags.MS_REMOUNT
    when = (Masked("flags", NOT_NEW, 0), Masked("flags", bind_remount, MountFlags.MS_REMOUNT))
    rows = {**ROWS, "mount": row("mount", MountArgs, *when)}
    for profile in (None, DOCKER["default"], {"defaultAction": "SCMP_ACT_ALLOW"}):
        run = Filter(merge(profile, emulate, rows=rows))
        for flags in COMBINATIONS:
            wanted = not flags & NOT_NEW or flags & bind_remount == MountFlags.MS_REMOUNT
            assert run(Arch.X86_64, 165, 1, 2, 3, flags) == ((NOTIFY, 0) if wanted else (ALLOW, 0)), hex(flags)


LIMITS = {
    "none": "default: emulate",
    "two": "default: emulate\nlimits: {rlimits: {nofile: 10, core: unlimited}}",
    "off": "default: emulate\nlimits: {rlimits: {nofile: 10}}\ncalls: {prlimit64: [{do: native}]}",
    "denied": "default: emulate\ncalls: {prlimit64: [{do: {deny: EACCES}}]}",
    "one denied": "default: emulate\ncalls: {prlimit64: [{when: {pid: 5}, do: {deny: EACCES}}]}",
}


@pytest.mark.parametrize("profile", [None, {"defaultAction": "SCMP_ACT_ALLOW"}, DOCKER["default"]])
@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize(("which", "sent"), [("none", ()), ("two", (4, 7)), ("off", ()), ("one denied", range(16))])
def test_the_filter_sends_what_ceilings_lend_and_no_call_that_only_asks(
    tmp_path: Path, profile: dict[str, Any] | None, arch: Arch, which: str, sent: Sequence[int]
) -> None:
    rows = rows_of(registry.load()["prlimit64"], *ROWS.values())
    chosen = policy(tmp_path, LIMITS[which], rows)
    run, number = Filter(merge(profile, chosen, rows)), nr("prlimit64", arch)
    for resource in range(16):
        assert run(arch, number, 0, resource, 0, 0x1000) == (ALLOW, 0)
        for pointer in (1, 0x1000, 0x7FFF_0000, *([1 << 40] if arch is Arch.X86_64 else [])):
            assert run(arch, number, 5, POISON | resource, pointer, 0) == (NOTIFY if resource in sent else ALLOW, 0)
        filtered = stanza.filtered(rows["prlimit64"], chosen, (5, POISON | resource, 0x1000, 0, 0, 0))
        assert (filtered is None) is (resource in sent)
        assert stanza.filtered(rows["prlimit64"], chosen, (5, resource, 0, 0, 0, 0)) is not None


POISON = 0xDEADBEEF << 32


@pytest.mark.parametrize("profile", [None, {"defaultAction": "SCMP_ACT_ALLOW"}, DOCKER["default"]])
def test_a_denial_of_what_ceilings_are_for_is_none_of_asking(tmp_path: Path, profile: dict[str, Any] | None) -> None:
    rows = rows_of(registry.load()["prlimit64"])
    run = Filter(merge(profile, policy(tmp_path, LIMITS["denied"], rows), rows))
    for arch in ARCHES:
        assert run(arch, nr("prlimit64", arch), 0, 7, 0x1000, 0) == (ERRNO, errno.EACCES)
        assert run(arch, nr("prlimit64", arch), 0, 7, 0, 0x1000) == (ALLOW, 0)


def test_a_ceiling_that_a_reload_brings_is_drift(tmp_path: Path) -> None:
    rows = rows_of(registry.load()["prlimit64"])
    loaded = {name: policy(tmp_path / name, text, rows) for name, text in LIMITS.items()}
    assert stanza.drift(stanza.rules(rows, loaded["none"]), rows, loaded["two"]).narrower == ("prlimit64",)
    assert stanza.drift(stanza.rules(rows, loaded["two"]), rows, loaded["none"]).wider == ("prlimit64",)
    assert not stanza.drift(stanza.rules(rows, loaded["two"]), rows, loaded["two"])
