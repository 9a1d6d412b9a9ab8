"""Another process or program goes on with what the supervisor serves; what could not is not let near."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import whole
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


@pytest.fixture
def host() -> Iterator[whole.Host]:
    with whole.host("crun", kept=True) as host:
        yield host


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def test_another_program_goes_on_under_load(host: whole.Host) -> None:
    box = host.box()
    steady = box.probe("steady")
    new = host.directory / "new" / "interceptor"
    new.parent.mkdir()
    shutil.copy(whole.PROGRAM, new)
    command = host.command(whole.ENTRY, "--root", host.directory / "oci", "exec", box.id, steady, "5", "proc", "/mnt")
    with subprocess.Popen(
        command, env=host.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, cwd="/"
    ) as load:
        wait_for(lambda: " /mnt proc" in Path(f"/proc/{box.init}/mounts").read_text(), "the load", within=10)
        assert str(new) in host.interceptor("upgrade", "--program", str(new))
        output, _ = load.communicate(timeout=60)
    assert "errors 0 double 0 missing 0" in output
    with host.client() as client:
        assert client.call("ping")["program"] == str(new)


@pytest.mark.parametrize("instead", ["exit 3", "exec sleep 1000"])
def test_a_program_that_does_not_serve_is_rolled_back(host: whole.Host, instead: str) -> None:
    box = host.box()
    bad = script(host.directory / "bad", f'[ "$2" = --check ] && exec {whole.PROGRAM} "$@"; {instead}')
    begin = time.monotonic()
    done = host.run(whole.PROGRAM, "upgrade", "--program", str(bad))
    assert box.sh("mount -t proc none /mnt && umount /mnt && echo done") == "done\n"
    assert time.monotonic() - begin < 10
    assert done.returncode == 1
    assert f"{bad} does not serve; {whole.PROGRAM} goes on" in done.stderr


def test_what_could_not_serve_is_not_tried(host: whole.Host) -> None:
    pid = host.supervisor_pid()
    bad = script(host.directory / "bad", "echo 'no such module' >&2; exit 1")
    done = host.run(whole.PROGRAM, "upgrade", "--program", str(bad))
    assert (done.returncode, "no such module" in done.stderr) == (1, True)
    (host.directory / "policies/all.yaml").write_text("extends: [nothing]\n", encoding="utf-8")
    done = host.run(whole.PROGRAM, "upgrade")
    assert (done.returncode, "all.yaml" in done.stderr) == (1, True)
    assert host.supervisor_pid() == pid
