"""What is decided in C without the handler, as values: which calls, which filesystem types."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from interceptor.native._native import ffi, lib
from support.fakes import IDS, MOUNT_NAMESPACE, USER_NAMESPACE, container
from support.policy_rows import policy

from interceptor import registry, shortcut
from interceptor.args import Arch
from interceptor.handlers.mount import ANOTHER_MOUNT, NOUSER, PROPAGATION
from interceptor.native.agentlink import Slot
from interceptor.native.looks import Looks
from interceptor.registry import Look
from interceptor.shortcut import LOOKS, NAME_MAX, Type
from interceptor.stanza import Action, RegisterTest
from interceptor.trace.record import How

if TYPE_CHECKING:
    from pathlib import Path

ROWS = registry.load()
FILESYSTEMS = (
    "default: emulate\nfilesystems: {proc: emulate, debugfs: stand-in, nfs: deny, tmpfs: native, '*': native}\n"
)


def test_numbers_are_those_of_c() -> None:
    assert {Look.MOUNT: lib.IC_LOOK_MOUNT, Look.UMOUNT: lib.IC_LOOK_UMOUNT} == LOOKS
    assert lib.IC_TYPE_NAME == NAME_MAX + 1


def test_only_types_that_are_the_kernels_need_no_handler(tmp_path: Path) -> None:
    plan = shortcut.plan(ROWS, policy(tmp_path, FILESYSTEMS))
    assert [row.name for row in plan.types] == ["debugfs", "nfs", "proc", "tmpfs", ""]
    assert {row.name: row.ending.how for row in plan.types if row.ending} == {
        "debugfs": How.EMULATED, "tmpfs": How.CONTINUED, "": How.CONTINUED
    }  # fmt: skip
    ending = plan.types[-1].ending
    assert ending is not None
    assert (ending.how, ending.why) == (How.CONTINUED, "the kernel mounts it with what the tracee has itself")
    assert ending.rule.endswith(":2")


def test_a_name_that_c_cannot_hold_leaves_all_to_the_handler(tmp_path: Path) -> None:
    text = f"default: emulate\nfilesystems: {{{'x' * (NAME_MAX + 1)}: deny, tmpfs: native}}\n"
    assert shortcut.plan(ROWS, policy(tmp_path, text)).types == (Type("", None),)


def test_plain_calls_are_looked_at(tmp_path: Path) -> None:
    rows = {row.nr: row for row in shortcut.rows(ROWS, policy(tmp_path, FILESYSTEMS), Arch.X86_64)}
    mount, umount2 = ROWS["mount"].number(Arch.X86_64), ROWS["umount2"].number(Arch.X86_64)
    assert mount is not None
    assert umount2 is not None
    assert {row.action for row in rows.values()} == {Action.LOOK}
    assert rows[mount].tests == (RegisterTest(3, int(ANOTHER_MOUNT | PROPAGATION) | NOUSER, 0),)
    assert rows[umount2].tests == ()
    narrow = {row.nr: row for row in shortcut.rows(ROWS, policy(tmp_path, FILESYSTEMS), Arch.I386)}
    assert all(test.mask < 1 << 32 for row in narrow.values() for test in row.tests)


@pytest.mark.parametrize(
    ("rules", "looked_at"),
    [
        ("[{do: emulate}]", True),
        ("[{do: emulate, log: true}]", False),
        ("[{do: native}]", False),
        ("[{when: {flags: {has: [MS_RDONLY]}}, do: deny}, {do: emulate}]", True),  # a row of the table before
        ("[{when: {flags: {has: [MS_RDONLY]}}, do: deny, log: true}, {do: emulate}]", False),
        ("[{when: {fstype: nfs}, do: deny}, {do: emulate}]", False),
        ("[{when: {caller: {uid: 0}}, do: native}, {do: emulate}]", False),
    ],
)
def test_rules_that_need_more_than_registers_are_asked_first(tmp_path: Path, rules: str, looked_at: bool) -> None:
    p = policy(tmp_path, f"default: emulate\ncalls: {{mount: {rules}}}\n")
    number = ROWS["mount"].number(Arch.X86_64)
    assert any(row.nr == number for row in shortcut.rows(ROWS, p, Arch.X86_64)) is looked_at


def test_what_c_is_given(tmp_path: Path) -> None:
    plan = shortcut.plan(ROWS, policy(tmp_path, FILESYSTEMS))
    looks = Looks(plan, container(immutable=frozenset({30, 10, 20})), Slot(), 5500)
    assert [looks.c.immutable[i] for i in range(looks.c.immutables)] == [10, 20, 30]
    assert looks.ending(looks.c.unmounted) == plan.unmounted
    assert looks.ending(looks.c.type[looks.c.types - 1].ending) == plan.types[-1].ending
    actions = {ffi.string(row.name).decode(): row.action for row in looks.c.type[0 : looks.c.types]}
    asked, kernels, stand_in = lib.IC_TYPE_ASK, lib.IC_TYPE_CONTINUE, lib.IC_TYPE_STAND_IN
    assert actions == {"debugfs": stand_in, "nfs": asked, "proc": asked, "tmpfs": kernels, "": kernels}
    assert (looks.c.mount_namespace, looks.c.user_namespace) == (MOUNT_NAMESPACE, USER_NAMESPACE)
    assert (looks.c.first_id, looks.c.id_count) == (IDS.first, IDS.size)
    assert (looks.c.deadline_ms, looks.c.restarts) == (5500, 1)


def test_nobody_is_looked_after_whose_policy_has_no_immutable_mounts(tmp_path: Path) -> None:
    plan = shortcut.plan(ROWS, policy(tmp_path, FILESYSTEMS + "immutable-mounts: false\n"))
    looks = Looks(plan, container(immutable=frozenset({30})))
    assert looks.c.immutables == 0
    assert {row.action for row in looks.c.type[0 : looks.c.types]} == {lib.IC_TYPE_ASK, lib.IC_TYPE_CONTINUE}
