"""The shipped unit's privileges are enough: system containers under its bounding set, without new privileges."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from support import whole

UNIT = Path(__file__).parents[2] / "contrib/systemd/interceptor.service"

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv (util-linux)"),
]


def setting(name: str) -> list[str]:
    lines = UNIT.read_text(encoding="utf-8").splitlines()
    return [word for line in lines if line.startswith(f"{name}=") for word in line.partition("=")[2].split()]


def privileges() -> list[str]:
    """The command line that gives a process what the unit gives."""
    kept = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in setting("CapabilityBoundingSet"))
    command = ["setpriv", "--bounding-set", f"-all,{kept}", "--inh-caps", "-all"]
    return [*command, "--no-new-privs"] if setting("NoNewPrivileges") == ["yes"] else command


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_system_containers_run_under_the_units_privileges(runtime: str) -> None:
    with whole.host(runtime, kept=True, under=privileges()) as host:
        status = Path(f"/proc/{host.supervisor_pid()}/status").read_text()
        assert "NoNewPrivs:\t1" in status
        box = host.box()
        for fstype in ("proc", "sysfs", "debugfs"):
            assert box.sh(f"mount -t {fstype} none /mnt && umount /mnt && echo done") == "done\n"
        overlay = """
mount -t tmpfs none /data && mkdir /data/l /data/u /data/w && echo text > /data/l/f
mount -t overlay -o lowerdir=/data/l,upperdir=/data/u,workdir=/data/w none /mnt
rm /mnt/f && mkdir /mnt/d && umount /mnt && umount /data && echo done
"""
        assert box.sh(overlay) == "done\n"
        assert "Its calls are answered" in host.interceptor("doctor", "--container", box.id)
