"""Ceilings of the whole machine that a policy lets containers raise: the host's value is the greatest that was asked for, up to
what policy says, and never lowered.

A file that the container has a leaf of is raised when it writes there. In a network namespace the others are there to be read
only, so for these nobody could ask: the host's is raised to what policy says when a container begins, which then finds what
programs like kube-proxy would have written.
Source: Linux net/netfilter/nf_conntrack_standalone.c, nf_conntrack_standalone_init_sysctl(); net/core/sysctl_net_core.c.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from interceptor.limits import HOST_CEILINGS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

log = structlog.get_logger(__name__)


def on_write(path: str, written: str, most: Mapping[str, int]) -> None:
    """A container wrote `written` to its leaf of `path`; `most` is Ceilings.sysctls."""
    for name in most:
        if HOST_CEILINGS[name] == path:
            raise_to(path, min(int(written), most[name]))


def at_start(leaves: Collection[str], most: Mapping[str, int]) -> None:
    """A container begins, which has leaves of these paths."""
    for name, value in most.items():
        if HOST_CEILINGS[name] not in leaves:
            raise_to(HOST_CEILINGS[name], value)


def raise_to(path: str, value: int) -> None:
    """A failure is logged: the container goes on with the value that it wrote."""
    file = Path(path)
    with suppress(FileNotFoundError):
        try:
            before = int(file.read_text(encoding="ascii"))
            if value > before:
                file.write_text(f"{value}\n", encoding="ascii")
                log.info("raised a ceiling of the host's", path=path, before=before, now=value)
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                raise
            log.warning("a ceiling of the host's cannot be raised", path=path, value=value, error=str(error))
