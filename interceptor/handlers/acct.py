"""acct(2): process accounting is the host's.

Answered with ENOSYS, as by a kernel that was built without it: programs then say that accounting is not available.
The kernel's own EPERM would tell root to become root.

Source: acct(2); Linux kernel/acct.c.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from interceptor.args import MaybeStr
from interceptor.ports import Call
from interceptor.registry import handles
from interceptor.verdict import Fail, Verdict


@dataclass(frozen=True, slots=True)
class AcctArgs:
    """The one register: a file to write to, or NULL to stop."""

    filename: MaybeStr


@handles("acct", note="ENOSYS, as by a kernel without process accounting; answered by the filter alone.")
def acct(call: Call, _args: AcctArgs) -> Verdict:
    call.why = "process accounting is the host's"
    return Fail(errno.ENOSYS)
