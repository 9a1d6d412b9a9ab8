r"""What an engine's overlay mount is made of, read from its line in mountinfo.

Pure. Engines write layers in three ways: absolute, relative to a directory that they chdir'ed to (Docker's ``l/XXX``
names, containerd's ``12/fs``) when a page would not hold them, and one ``lowerdir+`` each through the new mount API.
Source: Linux Documentation/filesystems/overlayfs.rst; fs/overlayfs/params.c, ovl_show_options().
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from interceptor.errors import ConfigError
from runtime.mountinfo import Mount, unescape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_COLON = re.compile(r"(?<!\\):")

_KEPT = frozenset({"userxattr", "metacopy", "redirect_dir", "xino", "volatile", "verity", "uuid"})
"""Options that decide what the layers mean. Not `index` and `nfs_export`: an index refuses a second mount of one
upper.
"""


@dataclass(frozen=True, slots=True)
class Overlay:
    """The layers of one overlay, topmost first, as absolute paths."""

    lower: tuple[str, ...]
    data: tuple[str, ...]
    """Data-only layers (``datadir+``, or behind ``::``)."""
    upper: str | None
    work: str | None
    options: tuple[tuple[str, str | None], ...]
    """What else must be said to mount the same thing again."""


def read(mount: Mount, exists: Callable[[str], bool] = os.path.isdir) -> Overlay:
    """The overlay that `mount` shows; ConfigError when the base of its relative layer names cannot be found."""
    lower: list[str] = []
    data: list[str] = []
    single: dict[str, str | None] = {}
    for option in mount.super_options:
        key, equals, value = option.partition("=")
        if key == "lowerdir":
            plain, *behind = _layers(value)
            lower += plain
            data += [layer for group in behind for layer in group]
        elif key == "lowerdir+":
            lower.append(_name(value))
        elif key == "datadir+":
            data.append(_name(value))
        else:
            single[key] = _name(value) if equals else None
    upper, work = single.get("upperdir"), single.get("workdir")
    names = [*lower, *data, *(name for name in (upper, work) if name)]
    base = _base(mount.point, names, exists)

    def absolute(name: str) -> str:
        return os.path.normpath(os.path.join(base, name))

    kept = tuple((key, value) for key, value in single.items() if key in _KEPT)
    return Overlay(
        tuple(map(absolute, lower)), tuple(map(absolute, data)),
        absolute(upper) if upper else None, absolute(work) if work else None, kept,
    )  # fmt: skip


def _layers(value: str) -> list[list[str]]:
    """`lowerdir` taken apart: groups separated by ``::`` (the first is ordinary, the rest data-only)."""
    groups: list[list[str]] = [[]]
    for name in _COLON.split(unescape(value)):
        if name:
            groups[-1].append(name.replace("\\:", ":").replace("\\\\", "\\"))
        else:
            groups.append([])
    return groups


def _name(value: str) -> str:
    return unescape(value)


def _base(point: str, names: Iterable[str], exists: Callable[[str], bool]) -> str:
    """The directory that relative names start from: an ancestor of the mount point or of an absolute layer."""
    relative = [name for name in names if not name.startswith("/")]
    if not relative:
        return "/"
    for candidate in _ancestors([*(name for name in names if name.startswith("/")), point]):
        if all(exists(os.path.join(candidate, name)) for name in relative):
            return candidate
    raise ConfigError(
        f"the overlay at {point} names its layers relative to a directory that is neither above it nor above "
        f"one of its absolute layers ({relative[0]!r} is the first): mount it with absolute layer paths"
    )


def _ancestors(paths: Iterable[str]) -> Iterator[str]:
    for path in paths:
        above = os.path.dirname(path)
        while above:
            yield above
            above = os.path.dirname(above) if above != "/" else ""
