"""seccomp(2): a second listener inside, which the kernel refuses, explained.

One listener may stand in a chain of filters, and a container's has ours: a filter with SECCOMP_FILTER_FLAG_NEW_LISTENER
(agent sandboxes, inner engines with a listenerPath) fails with EBUSY, which programs report without a reason. The call is
left to the kernel, flags and operation being registers; what is added is a line in the trace. libseccomp asks with NULL
for a program whether the flag is known, and must hear the kernel's EFAULT.

Source: seccomp(2), seccomp_unotify(2); Linux kernel/seccomp.c has_duplicate_listener().
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Annotated

from interceptor.args import Flags, Pointer, UInt
from interceptor.ports import Call
from interceptor.registry import Masked, handles
from interceptor.verdict import Continue, Verdict

SECCOMP_SET_MODE_FILTER = 1


class FilterFlag(enum.IntFlag):
    """SECCOMP_FILTER_FLAG_* (linux/seccomp.h)."""

    SECCOMP_FILTER_FLAG_TSYNC = 1
    SECCOMP_FILTER_FLAG_LOG = 2
    SECCOMP_FILTER_FLAG_SPEC_ALLOW = 4
    SECCOMP_FILTER_FLAG_NEW_LISTENER = 8
    SECCOMP_FILTER_FLAG_TSYNC_ESRCH = 16
    SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV = 32


@dataclass(frozen=True, slots=True)
class SeccompArgs:
    """The three registers; `args` is a struct sock_fprog, which is not looked at."""

    operation: UInt
    flags: Annotated[int, Flags(FilterFlag, bits=32)]
    args: Pointer


@handles(
    "seccomp",
    when=(
        Masked("flags", FilterFlag.SECCOMP_FILTER_FLAG_NEW_LISTENER, FilterFlag.SECCOMP_FILTER_FLAG_NEW_LISTENER),
    ),
    note="A filter with a listener: the kernel's EBUSY, with an explanation in the trace.",
)
def seccomp(call: Call, args: SeccompArgs) -> Verdict:
    if args.operation == SECCOMP_SET_MODE_FILTER and args.args:
        call.denied, call.rule = True, "kernel: by its nature"
        call.why = (
            "flags: the kernel answers EBUSY, because it allows one seccomp listener in a chain of filters and Interceptor's "
            "is there already; filters without SECCOMP_FILTER_FLAG_NEW_LISTENER work"
        )
    return Continue(because="a second listener is the kernel's to refuse")
