"""What the doctor concludes from files of hosts that are not this one."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.fake_supervisor import fake_supervisor

from interceptor.doctor import cgroups, directories, docker, kernel, runtimes, security, service, storage
from interceptor.doctor.examine import Section
from interceptor.doctor.finding import Finding, Host, Verdict, failure, ok, warning
from interceptor.doctor.report import Report, as_json

if TYPE_CHECKING:
    from collections.abc import Iterable

OK, WARNING, FAILURE = Verdict.OK, Verdict.WARNING, Verdict.FAILURE


class FakeHost:
    """A root directory that is filled file by file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bin = root / "bin"
        self.bin.mkdir()
        self.environment = {"PATH": str(self.bin)}

    def write(self, path: str, text: str) -> Path:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def program(self, name: str, body: str) -> Path:
        file = self.write(f"/bin/{name}", f"#!/bin/sh\n{body}\n")
        file.chmod(0o755)
        return file

    @property
    def host(self) -> Host:
        return Host(root=self.root, environment=self.environment)


@pytest.fixture
def fake(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


def verdicts(findings: Iterable[Finding]) -> dict[str, Verdict]:
    return {f.what.removeprefix("  … "): f.verdict for f in findings}


def test_a_low_limit_is_a_warning_and_zero_a_failure(fake: FakeHost) -> None:
    fake.write("/proc/sys/user/max_user_namespaces", "0\n")
    fake.write("/proc/sys/fs/inotify/max_user_instances", "128\n")
    fake.write("/proc/sys/fs/mount-max", "100000\n")
    found = list(kernel.limits(fake.host))
    assert verdicts(found) == {
        "user.max_user_namespaces": FAILURE,
        "fs.inotify.max_user_instances": WARNING,
        "fs.mount-max": OK,
    }
    assert "sysctl -w fs.inotify.max_user_instances=1024" in found[2].advice


def test_restricted_user_namespaces_are_a_warning(fake: FakeHost) -> None:
    fake.write("/proc/sys/kernel/unprivileged_userns_clone", "0\n")
    assert verdicts(kernel.limits(fake.host)) == {"kernel.unprivileged_userns_clone": WARNING}


V2 = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nsdelegate 0 0\n"


def test_unified_cgroups(fake: FakeHost) -> None:
    fake.write("/proc/self/mounts", V2)
    fake.write("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n")
    control = fake.write("/sys/fs/cgroup/cgroup.subtree_control", "cpu memory pids\n")
    assert verdicts(cgroups.hierarchy(fake.host)) == {"control groups": OK, "delegation": OK}
    control.write_text("cpu\n")
    [_, delegation] = cgroups.hierarchy(fake.host)
    assert delegation.verdict is WARNING
    assert "echo '+memory +pids' > /sys/fs/cgroup/cgroup.subtree_control" in delegation.advice


def test_a_read_only_hierarchy_is_a_failure(fake: FakeHost) -> None:
    fake.write("/proc/self/mounts", V2.replace("rw,", "ro,"))
    fake.write("/sys/fs/cgroup/cgroup.controllers", "cpu memory pids\n")
    assert verdicts(cgroups.hierarchy(fake.host))["delegation"] is FAILURE


def test_hybrid_cgroups(fake: FakeHost) -> None:
    lines = [f"cgroup /sys/fs/cgroup/{c} cgroup rw,{c} 0 0" for c in ("cpu", "memory", "pids", "name=systemd")]
    mounts = fake.write("/proc/self/mounts", "\n".join([*lines, "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0"]))
    assert verdicts(cgroups.hierarchy(fake.host)) == {"control groups": OK, "delegation": OK}
    assert cgroups.is_hybrid(fake.host)
    mounts.write_text("\n".join(lines[1:3]))
    assert verdicts(cgroups.hierarchy(fake.host)) == {"control groups": WARNING, "delegation": WARNING}
    assert not cgroups.is_hybrid(fake.host)


def test_no_cgroups(fake: FakeHost) -> None:
    assert verdicts(cgroups.hierarchy(fake.host)) == {"control groups": FAILURE}


FEATURES = {"linux": {"seccomp": {"actions": ["SCMP_ACT_ALLOW", "SCMP_ACT_NOTIFY"]}}}


def runtime(fake: FakeHost, name: str, version: str, features: object = None) -> None:
    answer = f"cat <<'E'\n{json.dumps(features)}\nE" if features else "exit 1"
    fake.program(name, f"case $1 in --version) echo '{version}';; features) {answer}\n;; esac")


def test_the_first_runtime_in_path_is_taken(fake: FakeHost) -> None:
    runtime(fake, "crun", "crun version 1.8.1")
    runtime(fake, "runc", "runc version 1.1.5", FEATURES)
    taken, killable, other = runtimes.installed(fake.host)
    assert (taken.verdict, killable.verdict, other.verdict) == (OK, WARNING, OK)
    assert "runc version 1.1.5 (the first in PATH)" in taken.found
    assert other.what == "crun"


def test_wait_killable_is_read_from_features(fake: FakeHost) -> None:
    features = {
        "linux": {"seccomp": {"actions": ["SCMP_ACT_NOTIFY"], "supportedFlags": [runtimes.WAIT_KILLABLE]}},
    }
    runtime(fake, "runc", "runc version 1.5.0", features)
    assert verdicts(runtimes.installed(fake.host)) == {"OCI runtime": OK, "WAIT_KILLABLE_RECV": OK}


def test_a_runtime_without_notification_is_a_failure(fake: FakeHost) -> None:
    runtime(fake, "runc", "runc version 1.0", {"linux": {"seccomp": {"actions": ["SCMP_ACT_ALLOW"]}}})
    assert verdicts(runtimes.installed(fake.host)) == {"OCI runtime": FAILURE}


def test_the_runtime_may_be_chosen(fake: FakeHost) -> None:
    runtime(fake, "runc", "runc version 1.1.5", FEATURES)
    runtime(fake, "crun", "crun version 1.8.1")
    fake.write("/etc/interceptor/interceptor.yaml", "runtime: crun\n")
    assert runtimes.choice(fake.host) == ("crun", "/etc/interceptor/interceptor.yaml")
    fake.environment["INTERCEPTOR_RUNTIME"] = "nosuch"
    [missing, *_] = runtimes.installed(fake.host)
    assert missing.verdict is FAILURE
    assert missing.found == "nosuch ($INTERCEPTOR_RUNTIME) is not there"


def test_crun_does_not_go_with_hybrid_cgroups(fake: FakeHost) -> None:
    fake.write("/proc/self/mounts", "cgroup /a cgroup rw,cpu 0 0\ncgroup2 /b cgroup2 rw 0 0\n")
    runtime(fake, "crun", "crun version 1.8.1")
    assert verdicts(runtimes.installed(fake.host)) == {"OCI runtime": OK, "cgroups": WARNING, "WAIT_KILLABLE_RECV": OK}


def test_no_runtime_at_all(fake: FakeHost) -> None:
    [missing] = runtimes.installed(fake.host)
    assert missing.verdict is FAILURE
    assert missing.found == "none of runc, crun is in PATH"


def test_a_runtime_that_does_not_run(fake: FakeHost) -> None:
    fake.program("runc", "exit 1")
    assert verdicts(runtimes.installed(fake.host)) == {"OCI runtime": FAILURE}


def test_docker_is_told_what_to_register(fake: FakeHost) -> None:
    [absent] = docker.registration(fake.host)
    assert absent.verdict is OK
    fake.program("dockerd", "")
    [unregistered] = docker.registration(fake.host)
    assert unregistered.verdict is WARNING
    block = unregistered.advice.split("\n", 1)[1]
    assert json.loads(block)["runtimes"]["interceptor"]["path"].endswith("/interceptor-runc")


def test_a_registered_runtime_must_exist(fake: FakeHost) -> None:
    fake.program("dockerd", "")
    configured = {"runtimes": {"sys": {"path": "/bin/interceptor-runc"}, "kata": {"runtimeType": "io.containerd.kata"}}}
    fake.write("/etc/docker/daemon.json", json.dumps(configured))
    [gone] = docker.registration(fake.host)
    assert gone.verdict is FAILURE
    fake.program("interceptor-runc", "")
    [there] = docker.registration(fake.host)
    assert there.verdict is OK
    assert "docker run --runtime=sys" in there.found


@pytest.mark.parametrize(
    ("text", "complaint"), [("{", "not JSON"), ("[]", '"runtimes" must be'), ('{"runtimes": 5}', '"runtimes" must be')]
)
def test_a_broken_daemon_json_is_a_failure(fake: FakeHost, text: str, complaint: str) -> None:
    fake.program("dockerd", "")
    fake.write("/etc/docker/daemon.json", text)
    [broken] = docker.registration(fake.host)
    assert broken.verdict is FAILURE
    assert complaint in broken.found


def test_the_data_root_is_dockers(fake: FakeHost) -> None:
    assert storage.docker_data_root(fake.host) == fake.root / "var/lib/docker"
    fake.write("/etc/docker/daemon.json", '{"data-root": "/srv/docker"}')
    assert storage.docker_data_root(fake.host) == fake.root / "srv/docker"
    fake.write("/etc/docker/daemon.json", "[]")
    assert storage.docker_data_root(fake.host) == fake.root / "var/lib/docker"


def test_a_directory_to_come_is_judged_by_its_parent(tmp_path: Path) -> None:
    assert storage.existing(tmp_path / "a" / "b") == tmp_path
    assert storage.filesystem_type(Path("/proc")) == "proc"
    assert storage._longest_mount(Path("/proc/self"), [["", "", "", "", "/", "-", "x"], ["", "", "", "", "/proc", "-", "p"]]) == "p"  # fmt: skip # noqa: E501


def test_security_modules(fake: FakeHost) -> None:
    assert verdicts(security.modules(fake.host)) == {"AppArmor": OK, "SELinux": OK}
    fake.write("/sys/module/apparmor/parameters/enabled", "Y\n")
    fake.write("/sys/kernel/security/apparmor/profiles", "docker-default (enforce)\nman (enforce)\n")
    fake.write("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n")
    fake.write("/sys/fs/selinux/enforce", "1")
    found = verdicts(security.modules(fake.host))
    assert found == {"AppArmor": OK, "docker-default": WARNING, "user namespaces": WARNING, "SELinux": WARNING}
    fake.write("/sys/fs/selinux/enforce", "0")
    assert verdicts(security.modules(fake.host))["SELinux"] is OK


def test_directories_to_come_are_fine(fake: FakeHost) -> None:
    found = list(directories.permissions(fake.host))
    assert [f.verdict for f in found] == [OK, OK]
    assert all("made at first use" in f.found for f in found)


def test_wrong_modes_are_failures(fake: FakeHost) -> None:
    fake.environment |= {"INTERCEPTOR_RUN": "/r", "INTERCEPTOR_STATE": "/s"}
    run, state = fake.root / "r", fake.root / "s"
    run.mkdir(mode=0o700)
    state.mkdir(mode=0o755)
    found = list(directories.permissions(fake.host))
    if run.stat().st_uid == 0:
        assert [f.advice for f in found] == [f"chmod 0711 {run}", f"chmod 0700 {state}"]
    assert [f.verdict for f in found] == [FAILURE, FAILURE]
    run.chmod(0o777)
    assert next(iter(directories.permissions(fake.host))).found.endswith("others than root may write to it")


def test_broken_policies_are_a_failure(fake: FakeHost) -> None:
    fake.environment["INTERCEPTOR_POLICIES"] = str(fake.root / "policies")
    [fine] = service.policies(fake.host)
    assert fine.verdict is OK
    assert "default" in fine.found
    fake.write("/policies/web.yaml", "bogus: 1\nfoo: 2\n")
    [broken] = service.policies(fake.host)
    assert broken.verdict is FAILURE
    assert f"{fake.root}/policies/web.yaml:1:1" in broken.found
    assert "(and 1 more)" in broken.found


def test_a_policy_cannot_lend_more_descriptors_than_the_host_has(fake: FakeHost) -> None:
    fake.environment["INTERCEPTOR_POLICIES"] = str(fake.root / "policies")
    fake.write("/proc/sys/fs/nr_open", "1048576\n")
    for name, ceiling in (("web", "1048576"), ("all", "unlimited"), ("db", "1048577")):
        fake.write(f"/policies/{name}.yaml", f"extends: [default]\nlimits: {{rlimits: {{nofile: {ceiling}}}}}\n")
    [_, beyond] = service.policies(fake.host)
    assert (beyond.what, beyond.verdict) == ("  … db", WARNING)
    assert beyond.advice.startswith("sysctl -w fs.nr_open=1048577, or ")


def test_the_supervisor_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: FakeHost) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("INTERCEPTOR_RUN", str(tmp_path / "run"))
    [none] = service.supervisor(fake.host)
    assert none.verdict is OK
    assert "the first container starts one" in none.found
    with fake_supervisor(tmp_path / "run") as running:
        running.answers["ping"] = lambda _request: {"pid": 7, "version": version("interceptor")}
        [same] = service.supervisor(fake.host)
        running.answers["ping"] = lambda _request: {"pid": 7, "version": "0.0.1"}
        [other] = service.supervisor(fake.host)
    assert (same.verdict, other.verdict) == (OK, WARNING)
    assert other.found.startswith("version 0.0.1 runs, pid 7, but ")


def test_only_stores_that_are_there_are_probed(fake: FakeHost) -> None:
    assert [purpose for purpose, _ in storage._directories(fake.host)] == ["state directory"]
    (fake.root / "var/lib/containers").mkdir(parents=True)
    fake.program("dockerd", "")
    found = [purpose for purpose, _ in storage._directories(fake.host)]
    assert found == ["state directory", "Docker's data-root", "Podman's graph root"]


SECTIONS = [
    Section("Kernel", [ok("user namespace", "fine"), warning("  … limit", "128", "sysctl\n  more")]),
    Section("Storage", [failure("a very long name of a directory that is here", "no", "do")]),
]


def test_the_report_for_people() -> None:
    report = Report(colour=False)
    lines = [line for section in SECTIONS for line in report.section(section)]
    assert lines == [
        "",
        "Kernel",
        "  ok       user namespace                    fine",
        "  warning    … limit                         128",
        "             sysctl",
        "               more",
        "",
        "Storage",
        "  FAILURE  a very long name of a directory that is here",
        "                                             no",
        "             do",
    ]
    assert report.summary() == "1 failure: system containers will not work here yet."
    assert Report(colour=False).summary() == "Ready for system containers."


def test_the_report_as_json() -> None:
    assert as_json(SECTIONS)[1] == {
        "section": "Kernel",
        "what": "limit",
        "verdict": "warning",
        "found": "128",
        "advice": "sysctl\n  more",
    }
