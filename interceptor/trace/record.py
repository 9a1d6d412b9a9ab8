"""One intercepted call as its session saw it."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from interceptor.args import Arch
    from interceptor.verdict import Verdict


class How(enum.StrEnum):
    """Who gave the answer."""

    EMULATED = "emulated"
    """A handler performed it, or found that it must fail as the kernel would let it fail."""
    CONTINUED = "continued"
    """The kernel performed it: the handler or the kernel's own permission check left it there."""
    DENIED = "denied"
    """A rule refused it."""
    PRETENDED = "pretended"
    """A rule had it succeed without anything being done."""
    KILLED = "killed"
    """A rule ended the process or its container."""
    TABLE = "table"
    """The compiled decision table answered, without Python."""
    NATIVE = "native-by-policy"
    """A rule left it to the kernel."""
    RELOADED = "reloaded"
    """No call: from here on another version of the container's policy decides."""
    FAILED = "failed"
    """A fault of ours; the tracee got EIO."""
    GONE = "gone"
    """The tracee was killed or interrupted before it could be answered."""


REFUSED = frozenset({How.DENIED, How.KILLED})
"""What a trace owes an explanation for: which rule, which argument, and what would allow it."""


class Record(NamedTuple):
    """A named tuple and not a dataclass: one is built for each notification, on the thread that answers it.

    Nothing in it is text made for this purpose: `rule` and `why` are strings that exist anyway.
    """

    time_ns: int
    """When the call was answered: CLOCK_REALTIME, ns since the epoch."""
    container: str
    """OCI container id."""
    tid: int
    """The tracee's thread id in the supervisor's pid namespace."""
    comm: str
    """/proc/TID/comm: chosen by the tracee, so it may hold anything; empty where nobody looked."""
    call: str
    """The name of the registry's row; ``syscall_NR`` for a number that has none."""
    args: Any
    """The decoded args; None where nothing was decoded (answered from registers alone, or unreadable memory)."""
    registers: tuple[int, ...]
    """``__u64 data.args[6]``; may be empty where `args` is given, which keeps a record small."""
    arch: Arch
    verdict: Verdict | None
    """None where no answer could be given."""
    how: How
    rule: str
    """``file:line`` of the policy rule that decided, or a fixed text such as ``kernel: no CAP_SYS_ADMIN``."""
    micros: float
    """From receipt to answer, µs."""
    why: str = ""
    """What handler or policy add, for people: the reason of a Continue, the argument that was refused."""
    remedy: str = ""
    """For a call that a rule refused: the change that would allow it."""
