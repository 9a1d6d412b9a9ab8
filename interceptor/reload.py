"""What a reload of the policies means for a container that runs: which of it counts at once, and which when it starts again.

Values only; `supervisor` swaps what decides. The rules, the filesystems and the limits count from the next call on. The
BPF filter was fixed when the container was created, and so were its capabilities and ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from interceptor.args import Arch
from interceptor.stanza import Drift, drift
from interceptor.trace.record import How, Record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from interceptor.container import Container
    from interceptor.policy import Policy
    from interceptor.registry import Syscall

AT_START: Mapping[str, str] = {
    "capabilities": "capabilities",
    "engine_profile": "seccomp",
    "id_range_size": "ids",
}
"""Field of Policy → key of a policy file, of what only a new container gets."""


@dataclass(frozen=True, slots=True)
class Change:
    """For one container."""

    container: str
    policy: str
    drift: Drift
    restart: tuple[str, ...] = ()
    """Keys of the policy file that count when the container is started again."""
    gone: bool = False
    """There is no policy of that name any more: the container keeps what it had."""

    def describe(self) -> dict[str, Any]:
        """docs/control.md."""
        return {
            "container": self.container, "policy": self.policy, "narrower": list(self.drift.narrower),
            "wider": list(self.drift.wider), "restart": list(self.restart), "gone": self.gone,
        }  # fmt: skip

    def words(self) -> str:
        """For people, in one line."""
        if self.gone:
            return f"there is no policy {self.policy!r} any more; the container keeps the one that it had"
        parts = []
        if self.drift.narrower:
            calls = ", ".join(self.drift.narrower)
            parts.append(f"its filter, fixed when it was created, is narrower: {calls} as before until it is started again")
        if self.drift.wider:
            parts.append(f"its filter is wider than needed: {', '.join(self.drift.wider)}")
        if self.restart:
            parts.append(f"only when it is started again: {', '.join(self.restart)}")
        return f"policy {self.policy!r} counts from here on" + "".join(f"; {part}" for part in parts)


def change(container: Container, old: Policy, new: Policy | None, rows: Mapping[str, Syscall]) -> Change:
    """`new` is None where there is no such policy any more."""
    if new is None:
        return Change(container.id, old.name, Drift(), gone=True)
    restart = tuple(key for field, key in AT_START.items() if getattr(old, field) != getattr(new, field))
    return Change(container.id, new.name, filter_drift(container, new, rows), restart)


def filter_drift(container: Container, policy: Policy, rows: Mapping[str, Syscall]) -> Drift:
    """Empty where nobody knows what the filter was made of."""
    return drift(container.filter, rows, policy) if container.filter is not None else Drift()


def record(found: Change, time_ns: int) -> Record:
    """What the trace of the container says of it."""
    return Record(
        time_ns, found.container, 0, "interceptor", "policy", None, (), Arch.X86_64, None, How.RELOADED, "", 0.0, found.words()
    )
