"""reboot(2): Ctrl-Alt-Del belongs to the host's keyboard, and to no container.

systemd and sysvinit, as the first process, say at each boot what Ctrl-Alt-Del shall do, and complain when that fails. In a
pid namespace below the host's the kernel answers EINVAL (it knows no such key there); here it is a success without
an effect, as on a machine without a keyboard. Restart, power-off and halt are the kernel's: they end the pid namespace.

Source: reboot(2), pid_namespaces(7); Linux kernel/reboot.c, kernel/pid_namespace.c reboot_pid_ns().
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from interceptor.args import Pointer, UInt
from interceptor.ports import Call, Cap, Namespace
from interceptor.registry import Masked, Needs, handles
from interceptor.verdict import Fail, Return, Verdict

MAGIC1 = 0xFEE1DEAD
MAGIC2 = frozenset({0x28121969, 0x05121996, 0x16041998, 0x20112000})
"""LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2 … 2C (linux/reboot.h)."""
CAD_OFF, CAD_ON = 0x00000000, 0x89ABCDEF
"""LINUX_REBOOT_CMD_CAD_OFF, LINUX_REBOOT_CMD_CAD_ON."""


@dataclass(frozen=True, slots=True)
class RebootArgs:
    """The four registers of reboot(2)."""

    magic1: UInt
    magic2: UInt
    cmd: UInt
    arg: Pointer


@handles(
    "reboot",
    when=(Masked("cmd", 0xFFFFFFFF, CAD_OFF), Masked("cmd", 0xFFFFFFFF, CAD_ON)),
    needs=Needs(Cap.SYS_BOOT, owner_of=Namespace.PID),
    note="Ctrl-Alt-Del on and off succeed without an effect; all else is the kernel's.",
)
def reboot(call: Call, args: RebootArgs) -> Verdict:
    if args.magic1 != MAGIC1 or args.magic2 not in MAGIC2:
        return Fail(errno.EINVAL)
    call.why = "Ctrl-Alt-Del is the host's"
    return Return()
