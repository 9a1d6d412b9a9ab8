"""Priorities: up to the ceilings of policy, and the kernel's beyond."""

from __future__ import annotations

import errno

import pytest
from support.fakes import Asked, FakeTracee, ask, policy
from support.sources import REPOSITORY

from interceptor import registry
from interceptor.handlers.setpriority import (
    ATTRIBUTES,
    IoprioSetArgs,
    SchedSetattrArgs,
    SchedSetparamArgs,
    SchedSetschedulerArgs,
    SetpriorityArgs,
)
from interceptor.limits import Ceilings, Limits
from interceptor.policy import Decision, Do
from interceptor.policy_file import load_all
from interceptor.stanza import filtered, rules
from interceptor.verdict import Continue, Fail, Return

CEILINGS = Ceilings(nice=-5, realtime_priority=10, io_realtime=4)
AT = 0x1000


def asked(
    name: str,
    args: object,
    *,
    ceilings: Ceilings = CEILINGS,
    nested: bool = False,
    priority: int = 0,
    memory: bytes | None = None,
) -> Asked:
    memory = priority.to_bytes(4, "little", signed=True) if memory is None else memory
    tracee = FakeTracee(memory={AT: memory}, in_nested_user_namespace=nested)
    return ask(name, args, tracee=tracee, by=policy(limits=Limits(ceilings=ceilings)))


def done(found: Asked) -> list[tuple[object, ...]]:
    return found.reach.tracee.scheduled


@pytest.mark.parametrize(("prio", "nice"), [(-5, -5), (0, 0), (19, 19), (1000, 19)])
def test_a_nice_value_within_the_ceiling_is_set(prio: int, nice: int) -> None:
    found = asked("setpriority", SetpriorityArgs(0, 33, prio))
    assert (found.verdict, done(found)) == (Return(), [("nice", 33, nice)])


@pytest.mark.parametrize("prio", [-6, -20, -1000])
def test_a_nice_value_beyond_is_the_kernels(prio: int) -> None:
    found = asked("setpriority", SetpriorityArgs(0, 0, prio))
    assert isinstance(found.verdict, Continue)
    assert not done(found)
    assert "limits: nice:" in found.call.why


@pytest.mark.parametrize("policy_number", [1, 2, 0x40000001, 0x40000002])
def test_a_priority_within_the_ceiling_is_set(policy_number: int) -> None:
    found = asked("sched_setscheduler", SchedSetschedulerArgs(0, policy_number, AT), priority=10)
    assert (found.verdict, done(found)) == (Return(), [("scheduler", 0, policy_number, 10)])


@pytest.mark.parametrize("priority", [-1, 0, 11, 99, 100])
def test_a_priority_beyond_or_none_at_all_is_the_kernels(priority: int) -> None:
    found = asked("sched_setscheduler", SchedSetschedulerArgs(0, 1, AT), priority=priority)
    assert isinstance(found.verdict, Continue)
    assert not done(found)


@pytest.mark.parametrize(("pid", "param"), [(-1, AT), (0, 0), (-1, 0)])
def test_the_kernel_says_einval_before_it_reads(pid: int, param: int) -> None:
    assert asked("sched_setscheduler", SchedSetschedulerArgs(pid, 1, param)).verdict == Fail(errno.EINVAL)


def test_a_priority_alone_is_set_within_the_ceiling_too() -> None:
    found = asked("sched_setparam", SchedSetparamArgs(7, AT), priority=10)
    assert (found.verdict, done(found)) == (Return(), [("priority", 7, 10)])
    for priority in (-1, 0, 11, 100):
        found = asked("sched_setparam", SchedSetparamArgs(7, AT), priority=priority)
        assert isinstance(found.verdict, Continue)
        assert not done(found)
        assert ("limits: realtime-priority:" in found.call.why) is (priority != 0)
    assert asked("sched_setparam", SchedSetparamArgs(-1, AT)).verdict == Fail(errno.EINVAL)


def attributes(policy_number: int, *, flags: int = 0, nice: int = 0, priority: int = 0, size: int = 48) -> bytes:
    return ATTRIBUTES.pack(size, policy_number, flags, nice, priority, 11, 22, 33)


@pytest.mark.parametrize(
    "lent",
    [
        attributes(1, priority=10),
        attributes(2, priority=1, flags=1, nice=-20),
        attributes(0, nice=-5),
        attributes(3, nice=19, flags=1),
        attributes(0, nice=5, size=0),
        attributes(0, size=56) + b"utilised",
        attributes(0, size=60) + b"utilised" + bytes(4),
    ],
)
def test_attributes_within_the_ceilings_are_set_as_they_were_copied(lent: bytes) -> None:
    found = asked("sched_setattr", SchedSetattrArgs(7, AT, 0), memory=lent)
    assert (found.verdict, done(found)) == (Return(), [("attributes", 7, b"\x30\0\0\0" + lent[4:48])])


@pytest.mark.parametrize(
    ("memory", "beyond"),
    [
        (attributes(1, priority=11), "realtime-priority"),
        (attributes(2), "realtime-priority"),
        (attributes(0, nice=-6), "nice"),
        (attributes(3, nice=-100), "nice"),
        (attributes(5), ""),
        (attributes(6), ""),
        (attributes(0xFFFFFFFF), ""),
        (attributes(0, flags=2), ""),
        (attributes(1, priority=1, flags=0x20), ""),
        (attributes(0, size=47), ""),
        (attributes(0, size=4097), ""),
        (attributes(0, size=60) + b"utilised" + b"\0\0\1\0", ""),
    ],
)
def test_other_attributes_are_the_kernels(memory: bytes, beyond: str) -> None:
    found = asked("sched_setattr", SchedSetattrArgs(0, AT, 0), memory=memory)
    assert isinstance(found.verdict, Continue)
    assert not done(found)
    assert found.call.why.partition("limits: ")[2].partition(":")[0] == beyond


@pytest.mark.parametrize(("ioprio", "lent"), [(0x2004, True), (0x2007, True), (0x2003, False), (0x2000, False)])
def test_a_level_of_the_real_time_class_within_the_ceiling_is_set(ioprio: int, lent: bool) -> None:
    found = asked("ioprio_set", IoprioSetArgs(1, 7, ioprio))
    assert (found.verdict == Return()) is lent
    assert done(found) == ([("io", 7, ioprio)] if lent else [])


@pytest.mark.parametrize("args", [IoprioSetArgs(2, 0, 0x2004), IoprioSetArgs(3, 0, 0x2004), IoprioSetArgs(1, 0, 0x200C)])
def test_groups_users_and_hints_are_the_kernels(args: IoprioSetArgs) -> None:
    assert isinstance(asked("ioprio_set", args).verdict, Continue)


EVERY = [
    ("setpriority", SetpriorityArgs(0, 0, -1)),
    ("sched_setscheduler", SchedSetschedulerArgs(0, 1, AT)),
    ("sched_setparam", SchedSetparamArgs(0, AT)),
    ("sched_setattr", SchedSetattrArgs(0, AT, 0)),
    ("ioprio_set", IoprioSetArgs(1, 0, 0x2007)),
]


@pytest.mark.parametrize(("name", "args"), EVERY)
def test_without_a_ceiling_and_in_nested_user_namespaces_nothing_is_lent(name: str, args: object) -> None:
    memory = attributes(1, priority=1) if name == "sched_setattr" else (1).to_bytes(4, "little")
    for found in (asked(name, args, ceilings=Ceilings(), memory=memory), asked(name, args, nested=True, memory=memory)):
        assert isinstance(found.verdict, Continue)
        assert not done(found)


@pytest.mark.parametrize(
    ("name", "registers", "left"),
    [
        ("setpriority", (0xDEADBEEF << 32, 0, 0), False),
        ("setpriority", (1, 0, 0), True),
        ("setpriority", (2, 0, 0), True),
        ("sched_setscheduler", (0, 0, AT), True),
        ("sched_setscheduler", (0, 3, AT), True),
        ("sched_setscheduler", (0, 0x40000005, AT), True),
        ("sched_setscheduler", (0, 0xDEADBEEF << 32 | 0x40000001, AT), False),
        ("sched_setparam", (0, AT, 0), False),
        ("sched_setparam", (0, 0, 0), True),
        ("sched_setattr", (0, AT, 0xDEADBEEF << 32), False),
        ("sched_setattr", (0, 0, 0), True),
        ("sched_setattr", (0, AT, 1), True),
        ("ioprio_set", (1, 0, 0x4000), True),
        ("ioprio_set", (1, 0, 0x2000), False),
    ],
)
def test_what_is_no_privilege_never_leaves_the_kernel(name: str, registers: tuple[int, int, int], left: bool) -> None:
    by = policy(default=Decision(Do.EMULATE, "x:1"), limits=Limits(ceilings=CEILINGS))
    assert (filtered(registry.load()[name], by, (*registers, 0, 0, 0)) is not None) is left


@pytest.mark.parametrize("shipped", ["default", "systemd", "docker"])
def test_they_are_off_by_default(shipped: str) -> None:
    found = {n for rule in rules(registry.load(), load_all([REPOSITORY / "policies"]).get(shipped)) for n in rule["names"]}
    assert not found & {name for name, _ in EVERY}
