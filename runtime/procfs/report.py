"""What `interceptor proc` says of a container's leaves: what each shows, beside what the host has, and who changed it when.

Contents are read from the mounts themselves: it is what everybody inside reads, and readers of leaves want one caller only.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from interceptor.container import IdRange
    from runtime.procfs.files import Written
    from runtime.procfs.leaf import Leaf

WIDTH = 256
"""Characters of a line that are told."""
SIZE_MAX = 1 << 20
"""Bytes of a file that are looked at."""


def row(
    leaf: Leaf, shown: bytes | None, host: bytes | None, by: Mapping[str, Any] | None, *, masked: bool
) -> dict[str, Any]:
    """One leaf. `shown` and `host` are contents, None where they cannot be read; `by` is what `changed` answers."""
    value, hosts = differing(shown, host)
    return {
        "path": leaf.path,
        "rung": leaf.rung.name.lower(),
        "writable": leaf.write is not None,
        "masked": masked,
        "value": value,
        "host": hosts,
        "differs": shown != host,
        "changed": by,
    }


def changed(written: Written | None, ids: IdRange) -> dict[str, Any] | None:
    """Who wrote a value when; the user by its number inside, -1 for one that is none there."""
    if written is None:
        return None
    uid = written.uid - ids.first if written.uid in ids else -1
    return {"time_ns": written.time_ns, "tid": written.tid, "uid": uid, "comm": written.comm}


def differing(shown: bytes | None, host: bytes | None) -> tuple[str | None, str | None]:
    """Of two contents the first line in which they differ; where one only has more of them, how many each has."""
    ours, theirs = _lines(shown), _lines(host)
    for one, other in zip(ours, theirs, strict=False):
        if one != other:
            return one, other
    if len(ours) != len(theirs) and ours and theirs:
        return f"{len(ours)} lines", f"{len(theirs)} lines"
    return _first(shown, ours), _first(host, theirs)


def _lines(content: bytes | None) -> list[str]:
    text = (content or b"").decode("utf-8", "replace")
    return [" ".join(line.split())[:WIDTH] for line in text.splitlines()]


def _first(content: bytes | None, lines: list[str]) -> str | None:
    return None if content is None else next(iter(lines), "")


def read(path: str, directory: int | None = None) -> bytes | None:
    """A file's content; None where it cannot be read."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory), "rb") as file:
            return file.read(SIZE_MAX)
    except OSError:
        return None
