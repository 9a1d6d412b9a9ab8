"""What shortcut.c knows of one container, written down for it: a `shortcut.Plan` and the container's immutable mounts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interceptor.native._native import ffi, lib
from interceptor.native.numbers import block

if TYPE_CHECKING:
    from collections.abc import Collection

    from interceptor.shortcut import Ending, Plan


class Looks:
    """Immutable; sessions share it."""

    def __init__(self, plan: Plan, immutable: Collection[int]) -> None:
        """`immutable`: STATX_MNT_ID of the mounts whose umount2(2) is the handler's to answer."""
        endings = [plan.unmounted, *(row.ending for row in plan.types if row.ending is not None)]
        self.numbers = range(first := block(len(endings)), first + len(endings))
        """What hits call its endings."""
        self._endings: list[Ending] = endings
        self._types = ffi.new("struct ic_type[]", len(plan.types))
        self._immutable = ffi.new("uint64_t[]", sorted(immutable))
        for c, row in zip(self._types, plan.types, strict=True):
            c.name, c.action = row.name.encode(), lib.IC_TYPE_ASK
            if row.ending is not None:
                c.action, c.ending = lib.IC_TYPE_CONTINUE, first + endings.index(row.ending, 1)
        self.c = ffi.new("struct ic_shortcut *")
        self.c.types, self.c.type = len(plan.types), self._types
        self.c.immutables, self.c.immutable = len(immutable), self._immutable
        self.c.unmounted = first

    def ending(self, number: int) -> Ending:
        return self._endings[number - self.numbers.start]
