"""What the OCI entry sends, checked: every value is named in the error when it is not what the protocol says."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from interceptor.errors import InterceptorError
from interceptor.native.fd import Fd

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from interceptor.container import Container
    from interceptor.ports import Request

_ID = re.compile(r"[\w+.-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Creation:
    """The operation `create`."""

    id: str
    bundle: str
    argv: list[str]
    runtime: str | None
    """$INTERCEPTOR_RUNTIME of the caller."""
    pid_file: str | None
    stdio_null: bool
    """One of the caller's standard streams is the host's /dev/null."""
    creator: int | None = None
    """The caller's pid."""

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Creation:
        return cls(
            identifier(body),
            absolute(body, "bundle"),
            strings(body, "argv"),
            _optional(body, "runtime"),
            _optional(body, "pid_file"),
            bool(body.get("stdio_null")),
            _pid(body.get("creator")),
        )


def identifier(body: Mapping[str, Any]) -> str:
    """The container's id, which becomes a directory's name: runc's characters, and neither "." nor ".."."""
    value = body.get("id")
    if not isinstance(value, str) or not _ID.fullmatch(value) or value in {".", ".."}:
        raise InterceptorError(f"{value!r} is no container id; letters, digits, '_', '+', '-' and '.' are allowed")
    return value


def container(body: Mapping[str, Any], known: Iterable[Container]) -> Container:
    """The one that is meant by its name, its id or the beginning of that."""
    wanted, running = body.get("container"), list(known)
    exact = [found for found in running if wanted in (found.id, found.name)]
    found = exact or [found for found in running if isinstance(wanted, str) and wanted and found.id.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(each.name or each.id[:12] for each in found or running) or "none"
    raise InterceptorError(f"no container {wanted!r}; {'it may be' if found else 'there are'} {names}")


def absolute(body: Mapping[str, Any], key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str) or not value.startswith("/"):
        raise InterceptorError(f'"{key}" must be an absolute path, not {value!r}')
    return value


def strings(body: Mapping[str, Any], key: str) -> list[str]:
    value = body.get(key)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InterceptorError(f'"{key}" must be a list of strings')
    return value


def mount_namespace(request: Request) -> Fd:
    """The caller's mount namespace, which came with the request: a descriptor of our own."""
    if len(request.fds) != 1:
        raise InterceptorError(f"one descriptor is needed, the caller's mount namespace; {len(request.fds)} came")
    return Fd(os.dup(request.fds[0]))


def _pid(value: object) -> int | None:
    if value is not None and (not isinstance(value, int) or value <= 0):
        raise InterceptorError(f'"creator" must be a process id or null, not {value!r}')
    return value


def _optional(body: Mapping[str, Any], key: str) -> str | None:
    value = body.get(key)
    if value is not None and not isinstance(value, str):
        raise InterceptorError(f'"{key}" must be a string or null, not {value!r}')
    return value or None
