"""Rows of a registry of the tests' own: policies and stanzas are tested against calls that no handler file defines."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from interceptor import policy_file
from interceptor.args import Buffer, Fd, Flags, Int, Integer, OptionalCStr, OptionalData, Pointer, Signature
from interceptor.args import Path as PathArg
from interceptor.registry import Masked, Support, Syscall

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from interceptor.policy import Policy


class MountFlags(enum.IntFlag):
    MS_RDONLY = 1
    MS_NOSUID = 2
    MS_REMOUNT = 32
    MS_BIND = 4096
    MS_MOVE = 8192
    MS_PRIVATE = 1 << 18


NOT_NEW = MountFlags.MS_REMOUNT | MountFlags.MS_BIND | MountFlags.MS_MOVE | MountFlags.MS_PRIVATE


@dataclass(frozen=True, slots=True)
class MountArgs:
    source: OptionalCStr
    target: PathArg
    fstype: OptionalCStr
    flags: Annotated[int, Flags(MountFlags)]
    data: OptionalData


@dataclass(frozen=True, slots=True)
class NameArgs:
    name: Annotated[bytes, Buffer("len", 64)]
    len: Int


class How(enum.IntEnum):
    SHUT_RD = 0
    SHUT_WR = 1


@dataclass(frozen=True, slots=True)
class ShutdownArgs:
    """Registers only, of every width."""

    fd: Fd
    how: Annotated[int, Integer(32, signed=True, names=How)]
    mode: Annotated[int, Integer(16)]
    address: Pointer
    big: Annotated[int, Integer(0)]
    flags: Annotated[int, Flags(MountFlags, 32)]


def row(name: str, args: type[Any], *when: Masked, note: str = "", optional: bool = False) -> Syscall:
    def handler(call: Any, values: Any) -> Any:
        raise NotImplementedError

    return Syscall(
        name=name, signature=Signature.of(args), handler=handler, when=when, needs=None,
        support=Support.FULL, note=note, source=f"{name}(2)", module=__name__, optional=optional,
    )  # fmt: skip


def rows_of(*rows: Syscall) -> dict[str, Syscall]:
    return {r.name: r for r in rows}


ROWS: Mapping[str, Syscall] = rows_of(
    row("mount", MountArgs, Masked("flags", NOT_NEW, 0)),
    row("sethostname", NameArgs),
    row("setdomainname", NameArgs),
    row("shutdown", ShutdownArgs),
)


def write(directory: Path, name: str, text: str) -> Path:
    """A policy file; its directory is made."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def policy(directory: Path, text: str, rows: Mapping[str, Syscall] = ROWS) -> Policy:
    """The policy in `text`, loaded as `default` of a directory of its own."""
    write(directory, "default", text)
    return policy_file.load_all([directory], rows).get("default")
