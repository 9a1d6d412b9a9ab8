"""Whom a container runs as: numbers, or names looked up in its own /etc/passwd and /etc/group.

Source: OCI image-spec, config.md, "User"; passwd(5), group(5).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from interceptor.errors import ConfigError
from interceptor.native.fd import Fd
from interceptor.run.bundle import User

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def resolve(text: str, read: Callable[[str], str]) -> User:
    """`text` is ``USER[:GROUP]``, each a name or a number; `read` answers a file below /etc as text, or ""."""
    if not text:
        return User()
    user, _, group = text.partition(":")
    rows = [row.split(":") for row in read("passwd").splitlines()]
    found = next((row for row in rows if len(row) > 3 and user in (row[0], row[2])), None)  # noqa: PLR2004 - name:x:uid:gid
    if found is None and not user.isdigit():
        raise ConfigError(f"user {user!r} is neither a number nor in the container's /etc/passwd")
    uid, gid = (int(found[2]), int(found[3])) if found else (int(user), 0)
    groups = [row.split(":") for row in read("group").splitlines()]
    if group:
        return User(uid, _group(group, groups))
    name = found[0] if found else ""
    member_of = (int(row[2]) for row in groups if len(row) > 3 and name and name in row[3].split(","))  # noqa: PLR2004 - name:x:gid:members
    return User(uid, gid, tuple(member_of))


def _group(group: str, groups: list[list[str]]) -> int:
    if group.isdigit():
        return int(group)
    found = next((row for row in groups if len(row) > 2 and row[0] == group), None)  # noqa: PLR2004 - name:x:gid
    if found is None:
        raise ConfigError(f"group {group!r} is neither a number nor in the container's /etc/group")
    return int(found[2])


def reader(rootfs: Path) -> Callable[[str], str]:
    """Reads files of the container's /etc; no symbolic link of its leads us out of it."""

    def read(name: str) -> str:
        try:
            etc = Fd(os.open(rootfs / "etc", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW))
        except OSError:
            return ""
        with etc:
            try:
                file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=etc.fileno())
            except OSError:
                return ""
            with open(file, encoding="utf-8", errors="replace") as opened:  # noqa: PTH123 - an fd
                return opened.read()

    return read
