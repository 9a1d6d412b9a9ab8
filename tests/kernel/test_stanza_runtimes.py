"""The merged profile given to real runtimes: what a container's calls meet, on x86-64, i386 and x32 numbers."""

from __future__ import annotations

import copy
import errno
import json
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.bundles import bundle, cgroup_wrapper, world_readable_directory
from support.notify_listener import ANSWER, Listener, notify_listener
from support.policy_rows import ROWS, MountFlags, policy

from interceptor.args import X32_SYSCALL_BIT, Arch
from interceptor.registry import resolve
from runtime.seccomp import merge_profile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.policy import Policy

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the probe makes x86-64, i386 and x32 calls"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed"),
]

TESTS = Path(__file__).parents[1]
DOCKER: dict[str, Any] = json.loads((TESTS / "data" / "docker-20.10-seccomp.json").read_text(encoding="utf-8"))[
    "default"
]

NOTIFIED, DENIED, KERNEL = -ANSWER, -errno.EPERM, -errno.EFAULT
"""mount(2) with NULL for a target is EFAULT in the kernel, before any permission is asked for."""


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("probe") / "probe"
    source = TESTS / "support" / "syscall_probe.c"
    subprocess.run(
        ["gcc", "-O1", "-fno-omit-frame-pointer", "-Wall", "-Werror", "-static", "-o", program, source], check=True
    )
    return program


@pytest.fixture(params=["runc", "crun"])
def runtime(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    return name


@pytest.fixture
def directory() -> Iterator[Path]:
    with world_readable_directory() as path:
        yield path


@pytest.fixture
def emulate(tmp_path: Path) -> Policy:
    return policy(tmp_path, "default: emulate")


class Probed:
    """What calls in a container gave."""

    def __init__(self, results: dict[str, str], listener: Listener) -> None:
        self.results = results
        self.listener = listener

    def __getitem__(self, line: str) -> int | str:
        result = self.results[line]
        return result if result.startswith("killed") else int(result)


def run(runtime: str, directory: Path, probe: Path, profile: dict[str, Any], lines: list[str]) -> Probed:
    """The calls `lines` made in a container under `profile` merged already."""
    made = bundle(directory / "bundle", ["/probe"])
    shutil.copy(probe, made / "rootfs" / "probe")
    config = json.loads((made / "config.json").read_text(encoding="utf-8"))
    config["linux"]["seccomp"] = profile
    (made / "config.json").write_text(json.dumps(config), encoding="utf-8")
    name = f"stanza-test-{os.getpid()}-{directory.name[-6:]}"
    command = [
        *cgroup_wrapper(runtime),
        runtime,
        "--root",
        str(directory / "state"),
        "run",
        "--bundle",
        str(made),
        name,
    ]
    with notify_listener(directory / "listener.sock") as listener:
        try:
            done = subprocess.run(
                command, input="\n".join(lines) + "\n", capture_output=True, check=False, text=True, timeout=30
            )
        finally:
            delete = [*cgroup_wrapper(runtime), runtime, "--root", str(directory / "state"), "delete", "--force", name]
            subprocess.run(delete, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    answers = done.stdout.splitlines()
    assert len(answers) == len(lines), f"{done.stdout}\n{done.stderr}"
    return Probed(dict(zip(lines, answers, strict=True)), listener)


def merged(profile: dict[str, Any] | None, chosen: Policy, directory: Path) -> dict[str, Any]:
    return merge_profile(
        profile, ROWS, chosen, listener_path=str(directory / "listener.sock"), metadata="the-id", wait_killable=False
    )


def line(arch: Arch, name: str, *args: int) -> str:
    abi = "32" if arch is Arch.I386 else "64"
    return " ".join([abi, str(resolve(name, arch)), *map(hex, args)])


MOUNT_FLAGS = (0, int(MountFlags.MS_RDONLY), int(MountFlags.MS_BIND), int(MountFlags.MS_REMOUNT | MountFlags.MS_RDONLY))


def expected(flags: int) -> int:
    return KERNEL if flags & (MountFlags.MS_BIND | MountFlags.MS_REMOUNT) else NOTIFIED


@pytest.mark.parametrize(
    "profile", [None, {"defaultAction": "SCMP_ACT_ALLOW"}, DOCKER], ids=["none", "allow", "docker"]
)
def test_new_mounts_are_ours_and_the_rest_is_the_kernels(
    runtime: str, directory: Path, probe: Path, emulate: Policy, profile: dict[str, Any] | None
) -> None:
    mounts = {
        line(arch, "mount", 0, 0, 0, flags, 0): flags for arch in (Arch.X86_64, Arch.I386) for flags in MOUNT_FLAGS
    }
    names = [line(arch, "sethostname", 0, 1) for arch in (Arch.X86_64, Arch.I386)]
    x32 = f"64 {X32_SYSCALL_BIT | 165} 0 0 0 0 0"
    found = run(runtime, directory, probe, merged(profile, emulate, directory), [*mounts, *names, x32])
    assert {m: found[m] for m in mounts} == {m: expected(flags) for m, flags in mounts.items()}
    assert [found[n] for n in names] == [NOTIFIED, NOTIFIED]
    assert found[x32] == NOTIFIED, "x32 reaches us; the supervisor refuses it with ENOSYS"
    assert {s.arch for s in found.listener.seen} == {Arch.X86_64, Arch.I386}
    assert X32_SYSCALL_BIT | 165 in {s.nr for s in found.listener.seen}
    assert found.listener.states[0]["metadata"] == "the-id"


def test_dockers_profile_with_ours(runtime: str, directory: Path, probe: Path, emulate: Policy) -> None:
    """What its capabilities gate is allowed, what it does not list is denied; without us it is all denied."""
    keyctl = line(Arch.X86_64, "keyctl", 0, 0xFFFFFFFD, 0)
    unshare = line(Arch.X86_64, "unshare", 1)
    clone3 = line(Arch.X86_64, "clone3", 0, 0)
    kexec = line(Arch.X86_64, "kexec_load", 0, 0, 0, 0)
    calls = [keyctl, unshare, clone3, kexec]
    found = run(runtime, directory, probe, merged(DOCKER, emulate, directory), calls)
    assert found[unshare] == -errno.EINVAL, "the kernel's own answer to an unknown flag"
    assert found[clone3] == -errno.EINVAL, "the kernel's own answer to a size of 0"
    assert found[keyctl] not in {DENIED, -errno.ENOSYS}
    assert found[kexec] == DENIED


def test_tight_allow_list_keeps_what_it_denies(runtime: str, directory: Path, probe: Path, emulate: Policy) -> None:
    profile = copy.deepcopy(DOCKER)
    profile["defaultErrnoRet"] = errno.EACCES
    profile["syscalls"][0]["names"] = [n for n in profile["syscalls"][0]["names"] if n not in {"times", "sysinfo"}]
    profile["syscalls"].append({"names": ["keyctl"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENODEV})
    profile["syscalls"].append({"names": ["setdomainname"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENODEV})
    calls = [line(arch, name, 0) for arch in (Arch.X86_64, Arch.I386) for name in ("times", "keyctl", "setdomainname")]
    mount = line(Arch.I386, "mount", 0, 0, 0, 0, 0)
    found = run(runtime, directory, probe, merged(profile, emulate, directory), [*calls, mount])
    assert [found[c] for c in calls] == [-errno.EACCES, -errno.ENODEV, -errno.ENODEV] * 2
    assert found[mount] == NOTIFIED
    assert not {s.nr for s in found.listener.seen} & {
        resolve("setdomainname", Arch.X86_64),
        resolve("keyctl", Arch.X86_64),
    }


def test_what_policy_denies_throughout_needs_no_listener(
    runtime: str, directory: Path, probe: Path, tmp_path: Path
) -> None:
    chosen = policy(
        tmp_path,
        "default: native\ncalls: {sethostname: [{do: {deny: ENODEV}}], mount: [{when: {flags: {has: MS_BIND}}, do: deny}]}\n",
    )
    name, bind, new = (
        line(Arch.I386, "sethostname", 0, 1),
        line(Arch.X86_64, "mount", 0, 0, 0, int(MountFlags.MS_BIND), 0),
        line(Arch.X86_64, "mount", 0, 0, 0, 0, 0),
    )
    found = run(runtime, directory, probe, merged(None, chosen, directory), [name, bind, new])
    assert found[name] == -errno.ENODEV
    assert (found[bind], found[new]) == (NOTIFIED, KERNEL), "a denial of binds widens the filter by them, and by no more"
    text = "default: native\ncalls: {sethostname: [{do: {deny: ENODEV}}], setdomainname: [{do: pretend}]}\n"
    alone = policy(tmp_path / "alone", text)
    domain = line(Arch.X86_64, "setdomainname", 0, 1)
    profile = merged(None, alone, directory)
    assert "listenerPath" not in profile
    shutil.rmtree(directory / "bundle")
    found = run(runtime, directory, probe, profile, [name, domain, new])
    assert (found[name], found[domain], found[new]) == (-errno.ENODEV, 0, KERNEL)
    assert not found.listener.states
