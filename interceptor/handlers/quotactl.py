"""quotactl(2), quotactl_fd(2): disk quotas are the host's, who counts in ids that the container does not see.

Answered with ENOSYS, as by a kernel without quotas, by which kubelet, Docker and the quota tools find that there are
none. The kernel's own answers depend on the device node that is named (ENOENT, ENOTBLK, EPERM), and some of them
programs take for a failure.

Source: quotactl(2); Linux fs/quota/quota.c.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from interceptor.args import Fd, MaybeStr, Pointer, UInt
from interceptor.ports import Call
from interceptor.registry import handles
from interceptor.verdict import Fail, Verdict


@dataclass(frozen=True, slots=True)
class QuotactlArgs:
    """The four registers of quotactl(2); `op` is QCMD(command, type)."""

    op: UInt
    special: MaybeStr
    id: UInt
    addr: Pointer


@dataclass(frozen=True, slots=True)
class QuotactlFdArgs:
    """The four registers of quotactl_fd(2)."""

    fd: Fd
    op: UInt
    id: UInt
    addr: Pointer


@handles("quotactl", note="ENOSYS, as by a kernel without disk quotas; answered by the filter alone.")
def quotactl(call: Call, _args: QuotactlArgs) -> Verdict:
    return _none(call)


@handles("quotactl_fd", note="As quotactl.")
def quotactl_fd(call: Call, _args: QuotactlFdArgs) -> Verdict:
    return _none(call)


def _none(call: Call) -> Verdict:
    call.why = "disk quotas are the host's"
    return Fail(errno.ENOSYS)
