"""Policy: (call, args, caller) → decision, with the file and line of the rule that decided.

Pure: no files, no clocks, no kernel. Loading from YAML and the search for files live in `policy_file`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any


class Do(enum.StrEnum):
    """What a rule says about a call."""

    EMULATE = "emulate"
    """The handler performs it."""
    NATIVE = "native"
    """The kernel performs it, with what the tracee has itself."""
    DENY = "deny"
    """It fails with the rule's errno."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What policy says about one call, and where it says so."""

    do: Do
    rule: str
    """``file:line`` of the rule that decided."""
    errno: int = 0
    """For DENY: a positive errno."""


@dataclass(frozen=True, slots=True)
class Caller:
    """What a rule may ask about the caller."""

    uid: int
    """Effective uid inside the container; 65534 where it is not mapped."""
    nested: bool
    """In a user namespace below the container's own."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Per-container bounds."""

    parked: int = 64
    """Calls that may wait for slow actions at once."""
    agents: int = 4
    agent_deadline_ms: int = 5000


@dataclass(frozen=True, slots=True)
class Policy:
    """One resolved policy (its `extends` folded in)."""

    name: str
    origin: str
    capabilities: str = "all"
    """"all": every capability inside the container's user namespace; "engine": what the engine's config.json gives."""
    id_range_size: int = 65536
    limits: Limits = field(default_factory=Limits)

    def decide(self, call: str, args: Any, caller: Caller) -> Decision:
        """The first rule for `call` whose conditions hold; the policy's default otherwise."""
        raise NotImplementedError
