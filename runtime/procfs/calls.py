"""What calls tell a container of the machine: ports.Shown, from the same views as the files of its /proc and /sys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.procfs.values import cpus, sysinfo

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from interceptor.container import Container
    from interceptor.ports import Tracee
    from runtime.procfs.leaf import View


class Calls:
    """`view_of` answers the view of the container, or inner container, that a tracee is in; None where there is none."""

    def __init__(self, view_of: Callable[[Container, Tracee], View | None]) -> None:
        self._view_of = view_of

    def sysinfo(self, container: Container, tracee: Tracee) -> bytes | None:
        view = self._view_of(container, tracee)
        return None if view is None else sysinfo.sysinfo(view).pack(tracee.long_bits)

    def cpus(self, container: Container, tracee: Tracee, allowed: frozenset[int]) -> Sequence[int] | None:
        view = self._view_of(container, tracee)
        return None if view is None else cpus.affinity(view, allowed)
