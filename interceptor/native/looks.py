"""What shortcut.c knows of one container, written down for it: a `shortcut.Plan` and the container's immutable mounts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interceptor.native._native import ffi, lib
from interceptor.native.numbers import block
from interceptor.trace.record import How

if TYPE_CHECKING:
    from interceptor.container import Container
    from interceptor.native.agentlink import Slot
    from interceptor.shortcut import Ending, Plan


_ACTIONS = {How.CONTINUED: lib.IC_TYPE_CONTINUE, How.EMULATED: lib.IC_TYPE_STAND_IN}


class Looks:
    """Immutable; sessions share it."""

    def __init__(self, plan: Plan, container: Container, slot: Slot | None = None, deadline_ms: int = 0) -> None:
        """`slot`: where an agent may lie; without one no agent is used."""
        immutable = container.immutable if plan.immutable_mounts else ()
        endings = [plan.unmounted, *(row.ending for row in plan.types if row.ending is not None)]
        self.numbers = range(first := block(len(endings)), first + len(endings))
        """What hits call its endings."""
        self._endings: list[Ending] = endings
        self._types = ffi.new("struct ic_type[]", len(plan.types))
        self._immutable = ffi.new("uint64_t[]", sorted(immutable))
        for c, row in zip(self._types, plan.types, strict=True):
            c.name, c.action = row.name.encode(), lib.IC_TYPE_ASK
            if row.ending is not None and (row.ending.how is How.CONTINUED or slot is not None):
                c.action, c.ending = _ACTIONS[row.ending.how], first + endings.index(row.ending, 1)
        self.c = ffi.new("struct ic_shortcut *")
        self.c.types, self.c.type = len(plan.types), self._types
        self.c.immutables, self.c.immutable = len(immutable), self._immutable
        self._leaf = ffi.new("uint64_t[]", [device.major << 32 | device.minor for device in sorted(container.leaves)])
        self.c.leaves, self.c.leaf = len(container.leaves), self._leaf
        self.c.unmounted = first
        self.c.mount_namespace, self.c.user_namespace = container.mount_namespace or 0, container.user_namespace or 0
        self.c.first_id, self.c.id_count = container.ids.first, container.ids.size
        self.c.deadline_ms, self.c.restarts = deadline_ms, not container.wait_killable
        self.slot = slot
        self.c.slot = slot.c if slot is not None else ffi.NULL

    def ending(self, number: int) -> Ending:
        return self._endings[number - self.numbers.start]
