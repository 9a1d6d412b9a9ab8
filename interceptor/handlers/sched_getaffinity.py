"""sched_getaffinity(2): no more CPUs than a container's quota is worth, and the same ones that its /proc and /sys show.

A CPU quota is no part of the kernel's answer, but `nproc`, Go, Java, Rust and OpenMP size themselves by it. Only a task's
question about itself is answered, and only where the quota narrows the answer: sched_setaffinity(2) stays the kernel's, so
that a task under a quota still runs wherever it may.

Source: sched_getaffinity(2); Linux kernel/sched/syscalls.c SYSCALL_DEFINE3(sched_getaffinity), include/linux/cpumask.h.
"""

from __future__ import annotations

from dataclasses import dataclass

from interceptor.args import Int, Pointer, UInt
from interceptor.ports import Call
from interceptor.registry import handles
from interceptor.verdict import Continue, Return, Verdict

LONG = 8
"""Masks are whole `unsigned long`s; a 32-bit task that asks for half of one is the kernel's."""


@dataclass(frozen=True, slots=True)
class SchedGetaffinityArgs:
    """The three registers of sched_getaffinity(2)."""

    pid: Int
    len: UInt
    mask: Pointer


@handles("sched_getaffinity", note="Of its own CPUs a task sees as many as the container's quota is worth, rounded up.")
def sched_getaffinity(call: Call, args: SchedGetaffinityArgs) -> Verdict:
    if args.pid not in (0, call.tracee.tid_inside):
        return Continue(because="another task's CPUs are the kernel's to tell")
    mask = call.tracee.cpus_allowed
    shown = call.shown.cpus(call.container, call.tracee, mask.cpus) if call.shown else None
    if shown is None or set(shown) == mask.cpus:
        return Continue(because="no quota narrows what the kernel says")
    size = min(args.len, mask.size)
    if args.len % LONG or args.len < mask.least:
        return Continue(because="the kernel refuses such a length itself")
    call.tracee.write(args.mask, sum(1 << cpu for cpu in shown).to_bytes(size, "little"))
    return Return(size)
