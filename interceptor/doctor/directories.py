"""Our own directories: who may look into them, and whether they can be made."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from interceptor.doctor.finding import Finding, Host, failure, ok
from interceptor.doctor.storage import STATE, existing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RUN = "/run/interceptor"


def permissions(host: Host) -> Iterator[Finding]:
    yield _check("run directory", host.chosen("INTERCEPTOR_RUN", RUN), 0o711, "container roots pass through it")
    yield _check("state directory", host.chosen("INTERCEPTOR_STATE", STATE), 0o700, "only root looks into it")


def _check(what: str, directory: Path, mode: int, why: str) -> Finding:
    if not directory.exists():
        parent = existing(directory)
        if os.access(parent, os.W_OK):
            return ok(what, f"{directory}: made at first use")
        return failure(what, f"{directory}: {parent} is not writable", f"mkdir -m {mode:04o} {directory}, or move it")
    status = directory.stat()
    now = stat.S_IMODE(status.st_mode)
    if not directory.is_dir():
        return failure(what, f"{directory} is no directory", f"Remove it; it is made at first use, mode {mode:04o}.")
    if status.st_uid != 0 or now & 0o022:
        advice = f"chown root {directory} && chmod {mode:04o} {directory}"
        return failure(what, f"{directory}: others than root may write to it", advice)
    if now & mode != mode or (mode == 0o700 and now != mode):  # noqa: PLR2004 - the private one
        return failure(what, f"{directory}: mode {now:04o}, but {why}", f"chmod {mode:04o} {directory}")
    return ok(what, f"{directory}: mode {now:04o}")
