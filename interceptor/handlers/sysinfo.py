"""sysinfo(2): the container's memory, swap, load and number of tasks, as its /proc shows them.

The kernel's answer is the whole machine's. Who shows files of the container's own also says what stands in them; without
that the kernel answers.

Source: sysinfo(2); Linux kernel/sys.c do_sysinfo().
"""

from __future__ import annotations

from dataclasses import dataclass

from interceptor.args import Pointer
from interceptor.ports import Call
from interceptor.registry import handles
from interceptor.verdict import Continue, Return, Verdict


@dataclass(frozen=True, slots=True)
class SysinfoArgs:
    """The one register: a struct sysinfo to fill."""

    info: Pointer


@handles("sysinfo", note="Memory, swap, load and tasks of the container, as its /proc shows them.")
def sysinfo(call: Call, args: SysinfoArgs) -> Verdict:
    found = call.shown.sysinfo(call.container, call.tracee) if call.shown else None
    if found is None:
        return Continue(because="nobody knows more than the kernel, which fills it with the machine's")
    call.tracee.write(args.info, found)
    return Return()
