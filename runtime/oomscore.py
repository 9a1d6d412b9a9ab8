"""How far a container's processes may lower their oom_score_adj: by the kernel's own rule, so that nothing is intercepted.

Beside the value the kernel keeps a minimum, which children inherit. Who writes with CAP_SYS_RESOURCE of the host sets both,
who writes without moves the value between the minimum and 1000. So interceptor-runc writes the floor with all rights and then
what the container begins with without that one; whatever an inner runtime, sshd or a unit's OOMScoreAdjust= sets afterwards is
the real value. The runtime underneath must not be told any: what it writes, with all rights, would be the minimum.

Weighed against it: to keep what was written and show it in a file of ours. The file is one of every process, so that no mount
covers it; open(2) would have to be intercepted, and the number would be a lie.
Source: proc(5), "/proc/pid/oom_score_adj"; Linux fs/proc/base.c, __set_oom_adj().
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class OomScore:
    """What a container's processes get."""

    floor: int
    """How low they may set it themselves."""
    value: int | None
    """What they begin with; None: what interceptor-runc was started with."""

    def beginning_with(self, given: int | None) -> OomScore:
        """For a further process, which may have one of its own."""
        return self if given is None else replace(self, value=given, floor=min(given, self.floor))


def given(score: int | None, ours: int | None) -> OomScore | None:
    """What interceptor-runc gives a process of which the engine says `score`, and the runtime does not; `ours` as in `lend`."""
    if score is None:
        return None
    value = score if ours is None else max(score, ours)
    return OomScore(value, value)


def lend(config: Mapping[str, Any], lowest: int | None, ours: int | None) -> OomScore | None:
    """What a container with the engine's `config` gets of what policy allows (Ceilings.oom_score_adj); None: what its engine
    says is all.

    Only one whose memory is limited: another could fill the host's, and have everybody else killed for it. `ours` is what
    we cannot go below without CAP_SYS_RESOURCE (process.oom_score_floor()).
    """
    given = (config.get("process") or {}).get("oomScoreAdj")
    memory = ((config.get("linux") or {}).get("resources") or {}).get("memory") or {}
    if lowest is None or (given or 0) <= lowest or (memory.get("limit") or 0) <= 0:
        return None
    return OomScore(lowest, given if given is None or ours is None else max(given, ours))
