"""A storm of signals while a container mounts: every call happens once and answers as if there were no signals.

Without SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, which runc cannot set before 1.5, a signal interrupts a waiting call, and
SA_RESTART makes it anew, as another notification: what was done already must not be done again. crun sets the flag.
Source: seccomp_unotify(2), "Interaction with signals"; signal(7).
"""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from support.images import REPOSITORY
from support.runtime import view_for
from support.variants import Variant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from support.engine import Engine

pytestmark = [pytest.mark.root, pytest.mark.engine, pytest.mark.slow]

ROUNDS = 1000
RUNTIMES = tuple(
    Variant(runtime, underneath=runtime, cgroup_view=view_for(runtime), image="busybox") for runtime in ("runc", "crun")
)


@pytest.fixture(scope="module")
def storm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tests/support/storm.c as a static program, in a directory of its own."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    program = tmp_path_factory.mktemp("storm") / "storm"
    program.parent.chmod(0o755)
    source = REPOSITORY / "tests" / "support" / "storm.c"
    subprocess.run(["gcc", "-static", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, source], check=True)
    return program


@pytest.fixture(scope="module", params=RUNTIMES, ids=str)
def engine(
    request: pytest.FixtureRequest, start_engine: Callable[..., AbstractContextManager[Engine]], storm: Path
) -> Iterator[Engine]:
    with start_engine(request.param) as started:
        fixed = ("--detach", "--runtime", "interceptor", "--name", "stormy", "--volume", f"{storm.parent}:/storm:ro")
        started.docker("run", *fixed, request.param.image, "sleep", "3600")
        yield started


@pytest.mark.parametrize("fstype", ["proc", "debugfs", "tmpfs"])
def test_every_mount_happens_once(engine: Engine, fstype: str) -> None:
    """proc and a stand-in are emulated; tmpfs is the kernel's own, and passes by the same notification."""
    result = engine.docker("exec", "stormy", "/storm/storm", fstype, "/tmp", str(ROUNDS), timeout=120)  # noqa: S108
    counted = dict(pair.split("=") for pair in result.stdout.split())
    assert int(counted.pop("signals")) >= ROUNDS / 10, "that was no storm"
    assert counted == {"mounts": str(ROUNDS), "errors": "0", "doubled": "0"}, result.stderr
