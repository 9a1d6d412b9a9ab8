"""What shortcut.c knows of one container, written down for it: a `shortcut.Plan` and the container's immutable mounts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interceptor.native._native import ffi, lib

if TYPE_CHECKING:
    from collections.abc import Collection

    from interceptor.shortcut import Ending, Plan


class Looks:
    """Immutable; sessions share it."""

    def __init__(self, plan: Plan, immutable: Collection[int]) -> None:
        """`immutable`: STATX_MNT_ID of the mounts whose umount2(2) is the handler's to answer."""
        self.endings: list[Ending] = [plan.unmounted]
        """By the number that a hit carries. Equal for all that are made of one plan."""
        self._types = ffi.new("struct ic_type[]", len(plan.types))
        self._immutable = ffi.new("uint64_t[]", sorted(immutable))
        for c, row in zip(self._types, plan.types, strict=True):
            c.name, c.action = row.name.encode(), lib.IC_TYPE_ASK
            if row.ending is not None:
                c.action, c.ending = lib.IC_TYPE_CONTINUE, len(self.endings)
                self.endings.append(row.ending)
        self.c = ffi.new("struct ic_shortcut *")
        self.c.types, self.c.type = len(plan.types), self._types
        self.c.immutables, self.c.immutable = len(immutable), self._immutable
        self.c.unmounted = 0
