"""The doctor's experiments against the running kernel: they tell the truth, and leave nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from interceptor.native import probe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.root, pytest.mark.kernel]

DOCTOR = [sys.executable, "-c", "from interceptor.cli import main; raise SystemExit(main())", "doctor"]
IN_OWN_MOUNTS = ["unshare", "--mount", "--propagation", "private"]

MOUNT_EXPERIMENTS = {
    "idmapped_mount": probe.idmapped_mount,
    "idmapped_overlay": probe.idmapped_overlay,
    "unprivileged_overlay": probe.unprivileged_overlay,
}


@pytest.fixture(autouse=True)
def root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")


def state() -> tuple[list[str], list[str], set[str]]:
    """Mounts, our descriptors, our children."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    fds = sorted(str(p) for p in Path("/proc/self/fd").iterdir())
    children = set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())
    return mounts, fds, children


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    before = state()
    yield
    assert state() == before


def test_a_hard_limit_is_raised_or_root_has_not_the_capability() -> None:
    effective = int(Path("/proc/self/status").read_text().partition("CapEff:")[2].split()[0], 16)
    outcome = probe.raise_limit()
    assert outcome.worked is bool(effective >> 24 & 1), str(outcome)
    assert outcome.worked or str(outcome) == "raise a hard limit again: Operation not permitted"


@pytest.mark.parametrize("what", probe.Notify)
def test_notification_works_or_says_why(what: probe.Notify) -> None:
    outcome = probe.notify(what)
    optional = what in (probe.Notify.SYNC_WAKE_UP, probe.Notify.WAIT_KILLABLE)
    if optional and not outcome.worked:
        pytest.skip(f"this kernel: {outcome}")
    assert outcome.worked, str(outcome)


@pytest.mark.parametrize("experiment", [probe.user_namespace, probe.time_namespace])
def test_namespaces(experiment: Callable[[], probe.Outcome]) -> None:
    outcome = experiment()
    assert outcome.worked, str(outcome)


@pytest.mark.parametrize("name", MOUNT_EXPERIMENTS)
def test_mounts_on_this_filesystem(name: str, tmp_path: Path) -> None:
    outcome = MOUNT_EXPERIMENTS[name](str(tmp_path))
    assert outcome.worked, str(outcome)


def test_experiments_may_be_repeated() -> None:
    for _ in range(20):
        assert probe.notify(probe.Notify.ANSWER).worked


def test_a_directory_that_is_not_there_is_an_outcome() -> None:
    outcome = probe.idmapped_mount("/nonexistent/directory")
    assert not outcome.worked
    assert str(outcome) == "create a file: No such file or directory"


def probed_on(setup: str, directory: Path, experiment: str) -> str:
    """The outcome of an experiment on a filesystem that a shell mounts in a mount namespace of its own."""
    script = f"from interceptor.native import probe; print(probe.{experiment}({str(directory / 'at')!r}))"
    (directory / "at").mkdir()
    command = [*IN_OWN_MOUNTS, "sh", "-ec", f'{setup}; exec "$0" -c "$1"', sys.executable, script]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_filesystem_that_cannot_be_idmapped_is_found_out(tmp_path: Path) -> None:
    setup = "mkdir l u w; mount -t overlay -o lowerdir=l,upperdir=u,workdir=w overlay at"
    outcome = probed_on(setup, tmp_path, "idmapped_mount")
    assert outcome == "mount_setattr(MOUNT_ATTR_IDMAP): Invalid argument"


def test_a_filesystem_that_is_no_upper_layer_is_found_out(tmp_path: Path) -> None:
    """ramfs has no trusted.* attributes; whatever it lacks is found by replacing a directory."""
    outcome = probed_on("mount -t ramfs ramfs at", tmp_path, "idmapped_overlay")
    assert outcome.startswith(("mount_setattr(MOUNT_ATTR_IDMAP)", "mount overlay", "replace", "remove")), outcome


def test_missing_user_namespaces_are_found_out(tmp_path: Path) -> None:
    """user.max_user_namespaces is a limit per user namespace: it is lowered in one of our own."""
    script = "from interceptor.native import probe; print(probe.user_namespace())"
    shell = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$0" -c "$1"'
    command = ["unshare", "--user", "--map-root-user", "sh", "-ec", shell, sys.executable, script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.strip() == "unshare(CLONE_NEWUSER): No space left on device", done.stderr


def test_the_whole_report(tmp_path: Path) -> None:
    """On this host, with a data directory of its own; twice, because nothing may stay."""
    environment = {**os.environ, "INTERCEPTOR_STATE": str(tmp_path / "state"), "INTERCEPTOR_RUN": str(tmp_path / "run")}
    data = tmp_path / "data"
    data.mkdir()
    for _ in range(2):
        done = subprocess.run(
            [*DOCTOR, "--json", "--data", str(data)],
            cwd="/", env=environment, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        findings = {(f["section"], f["what"]): f for f in json.loads(done.stdout)}
        assert findings["Kernel", "user namespace"]["verdict"] == "ok"
        assert findings["Kernel", "seccomp notification"]["verdict"] == "ok"
        assert findings["Storage", "state directory"]["verdict"] == "ok"
        assert "same filesystem" in findings["Storage", "data directory"]["found"]
        failures = [f for f in findings.values() if f["verdict"] == "failure"]
        assert done.returncode == bool(failures)
        assert all(f["advice"] for f in findings.values() if f["verdict"] != "ok")
        assert sorted(p.name for p in tmp_path.rglob("*")) == ["data"]


def test_the_report_needs_root() -> None:
    try:
        done = subprocess.run(DOCTOR, cwd="/", capture_output=True, text=True, check=False, timeout=60, user=65534)
    except PermissionError:
        pytest.skip(f"{sys.executable} lies where only root may go")
    assert done.returncode == 1
    assert "needs root: sudo interceptor doctor" in done.stderr
