"""The engine's files that are rewritten in place: a bundle's config.json, and what `exec --process` names.

Replaced by rename(2), with owner and mode as they were. The original of config.json is kept with the container's
record and put back in the end, because a bundle may be used again.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from interceptor.errors import ConfigError
from runtime.record import write

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ORIGINAL = "config.json.original"
_COMPACT = (",", ":")


def read(path: str) -> dict[str, Any]:
    """A JSON object; ConfigError with the path for anything else."""
    return parse(content(path), path)


def content(path: str) -> bytes:
    """What the file has; ConfigError with the path."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error


def parse(text: bytes, path: str) -> dict[str, Any]:
    """`text`, which was read from `path`, as `read` answers it."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: a JSON object is needed, this is {type(found).__name__}")
    return found


def rewrite(path: str, change: Callable[[dict[str, Any]], Mapping[str, Any]]) -> dict[str, Any]:
    """Replaces a file's JSON object by what `change` makes of it; answers what it was."""
    found = read(path)
    replace(path, change(found))
    return found


def replace(path: str, values: Mapping[str, Any]) -> None:
    _replace(path, json.dumps(values, separators=_COMPACT).encode())


def _replace(path: str, text: bytes) -> None:
    status = os.stat(path)
    write(path, text, mode=status.st_mode & 0o7777, owner=(status.st_uid, status.st_gid))


def keep(original: bytes, base: str) -> None:
    """Keeps the engine's configuration below the container's run directory `base`."""
    write(f"{base}/{ORIGINAL}", original)


def restore(bundle: str, base: str) -> None:
    """Puts it back where ours still stands, by its root filesystem; a bundle that is gone or new is left alone."""
    ours = json.dumps({"path": f"{base}/rootfs"}, separators=_COMPACT)[1:-1].encode()
    with suppress(OSError, ConfigError):
        if ours in content(f"{bundle}/config.json"):
            _replace(f"{bundle}/config.json", content(f"{base}/{ORIGINAL}"))
