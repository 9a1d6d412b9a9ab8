"""reboot(2): Ctrl-Alt-Del belongs to the host's keyboard, and to no container.

systemd and sysvinit, as the first process, say at each boot what Ctrl-Alt-Del shall do, and complain when that fails. In a
pid namespace below the host's the kernel answers EINVAL (it knows no such key there); here it is a success without
an effect, as on a machine without a keyboard. Restart, power-off and halt are the kernel's: they end the pid namespace.

Source: reboot(2), pid_namespaces(7); Linux kernel/reboot.c, kernel/pid_namespace.c reboot_pid_ns().
"""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass
from typing import Annotated

from interceptor.args import Integer, Pointer
from interceptor.ports import Call, Cap, Namespace
from interceptor.registry import Masked, Needs, handles
from interceptor.verdict import Fail, Return, Verdict


class Magic1(enum.IntEnum):
    """linux/reboot.h."""

    LINUX_REBOOT_MAGIC1 = 0xFEE1DEAD


class Magic2(enum.IntEnum):
    """linux/reboot.h."""

    LINUX_REBOOT_MAGIC2 = 0x28121969
    LINUX_REBOOT_MAGIC2A = 0x05121996
    LINUX_REBOOT_MAGIC2B = 0x16041998
    LINUX_REBOOT_MAGIC2C = 0x20112000


class Command(enum.IntEnum):
    """linux/reboot.h; of the others nothing comes here."""

    LINUX_REBOOT_CMD_CAD_OFF = 0x00000000
    LINUX_REBOOT_CMD_CAD_ON = 0x89ABCDEF


@dataclass(frozen=True, slots=True)
class RebootArgs:
    """The four registers of reboot(2)."""

    magic1: Annotated[int, Integer(32, names=Magic1)]
    magic2: Annotated[int, Integer(32, names=Magic2)]
    cmd: Annotated[int, Integer(32, names=Command)]
    arg: Pointer


@handles(
    "reboot",
    when=tuple(Masked("cmd", 0xFFFFFFFF, command) for command in Command),
    needs=Needs(Cap.SYS_BOOT, owner_of=Namespace.PID),
    note="Ctrl-Alt-Del on and off succeed without an effect; all else is the kernel's.",
)
def reboot(call: Call, args: RebootArgs) -> Verdict:
    if args.magic1 != Magic1.LINUX_REBOOT_MAGIC1 or args.magic2 not in frozenset(Magic2):
        return Fail(errno.EINVAL)
    call.why = "Ctrl-Alt-Del is the host's"
    return Return()
