"""Programs of the host's in a container of the tests': with their libraries, started through their own loader."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.whole import Box


def put(box: Box, name: str, called: str = "") -> None:
    """A program of the host's with what it links to, as /bin/NAME or as /bin/CALLED."""
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed: requirements/tests.apt")
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    libraries = box.rootfs / "probe/lib"
    libraries.mkdir(parents=True, exist_ok=True)
    for library in re.findall(r"(/\S+) \(0x", listed):
        shutil.copy2(library, libraries)
    shutil.copy2(program, box.rootfs / f"probe/{name}.elf")
    script = box.rootfs / f"bin/{called or name}"
    script.unlink(missing_ok=True)
    loader = next(path.name for path in libraries.iterdir() if path.name.startswith("ld-linux"))
    script.write_text(f'#!/bin/sh\nexec /probe/lib/{loader} --library-path /probe/lib /probe/{name}.elf "$@"\n')
    script.chmod(0o755)
