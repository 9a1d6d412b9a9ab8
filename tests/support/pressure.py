"""Waiting for pressure (psi.rst): a program that writes a trigger to a file and polls it, and whether a container can."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support import whole

WAIT = """
import os, select, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_NONBLOCK)
os.write(file, b"some 50000 2000000\\0")
waiting = select.poll()
waiting.register(file, select.POLLPRI)
print("waiting", flush=True)
sys.exit(waiting.poll(30_000) != [(file, select.POLLPRI)])
"""
"""Of Python, for a file as its argument; ends with 0 when there was pressure within half a minute."""


def counted(box: whole.Box) -> str:
    """The file in which its cgroup counts pressure; skips where there is none."""
    path = Path(f"/proc/{box.init}/cgroup").read_text().rpartition("0::")[2].strip()
    found = [f"{top}{path}/cpu.pressure" for top in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")]
    file = next((file for file in found if Path(file).exists()), None)
    if file is None:
        pytest.skip("this host counts no pressure by cgroup")
    return file
