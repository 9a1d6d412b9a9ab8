"""syslog(2): the kernel log is the host's; a container has a ring of its own, and nobody ever wrote to it.

Without that `dmesg` inside shows the host's log wherever kernel.dmesg_restrict is 0, and fails where it is 1. The ring is
empty, so that nothing is copied and every answer follows from registers; so is /dev/kmsg where there is one (runtime/nodes.py).
Left to the kernel: SYSLOG_ACTION_READ, which waits for the next message. There is none to come, and a caller that
waits for ever helps nobody: the kernel's EPERM tells a log daemon to do without.

Source: syslog(2); Linux kernel/printk/printk.c do_syslog(), check_syslog_permissions().
"""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass

from interceptor.args import Int, Pointer
from interceptor.ports import Call, Cap, Namespace
from interceptor.registry import handles
from interceptor.verdict import Continue, Fail, Return, Verdict

BUFFER_SIZE = 1 << 17
"""The ring's size in bytes: what CONFIG_LOG_BUF_SHIFT is by default."""
USER_SPACE_END = 1 << 47
"""x86-64's TASK_SIZE_MAX with four page table levels: no process has memory beyond, unless it asks for it by address."""


class Action(enum.IntEnum):
    """SYSLOG_ACTION_* (linux/syslog.h)."""

    CLOSE = 0
    OPEN = 1
    READ = 2
    READ_ALL = 3
    READ_CLEAR = 4
    CLEAR = 5
    CONSOLE_OFF = 6
    CONSOLE_ON = 7
    CONSOLE_LEVEL = 8
    SIZE_UNREAD = 9
    SIZE_BUFFER = 10


EVERYBODYS = frozenset({Action.READ_ALL, Action.SIZE_BUFFER})
"""What needs no capability with kernel.dmesg_restrict=0."""


@dataclass(frozen=True, slots=True)
class SyslogArgs:
    """The three registers of syslog(2)."""

    type: Int
    bufp: Pointer
    len: Int


@handles("syslog", note="A ring of the container's own, which is empty; reading on (type 2) is the kernel's EPERM.")
def syslog(call: Call, args: SyslogArgs) -> Verdict:
    if args.type == Action.READ:
        return Continue(because="the kernel refuses it: nothing would ever come")
    if args.type not in EVERYBODYS and not call.tracee.capable(Cap.SYSLOG, Namespace.MOUNT):
        return Continue(because="the kernel refuses it by itself")
    call.why = "the container's kernel log is empty"
    return _answer(args)


def _answer(args: SyslogArgs) -> Verdict:
    match args.type:
        case Action.READ_ALL | Action.READ_CLEAR:
            return _read(args)
        case Action.CONSOLE_LEVEL:
            return Return() if 1 <= args.len <= 8 else Fail(errno.EINVAL)  # noqa: PLR2004 - the log levels
        case Action.SIZE_BUFFER:
            return Return(BUFFER_SIZE)
        case Action.CLOSE | Action.OPEN | Action.CLEAR | Action.CONSOLE_OFF | Action.CONSOLE_ON | Action.SIZE_UNREAD:
            return Return()
        case _:
            return Fail(errno.EINVAL)


def _read(args: SyslogArgs) -> Verdict:
    if not args.bufp or args.len < 0:
        return Fail(errno.EINVAL)
    return Fail(errno.EFAULT) if args.len and args.bufp + args.len > USER_SPACE_END else Return()
