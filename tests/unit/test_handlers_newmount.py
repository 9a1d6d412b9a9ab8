"""fsopen(2) to move_mount(2): what is recognised is done by us, everything else is the kernel's."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from support.fakes import DEFAULT, FILESYSTEMS, FakeAgent, FakeContexts, FakeTracee, ask, policy

from interceptor.args import UNREADABLE
from interceptor.handlers.fsconfig import Command, FsconfigArgs
from interceptor.handlers.fsmount import FsmountArgs
from interceptor.handlers.fsopen import FsopenArgs
from interceptor.handlers.move_mount import MoveMountArgs, MoveMountFlag
from interceptor.ports import AT_FDCWD, Context
from interceptor.verdict import AddFd, Continue, Fail, Return
from interceptor.wire import Anchor

TO = MoveMountFlag.MOVE_MOUNT_F_EMPTY_PATH


def opened(fstype: bytes, **state: Any) -> FakeContexts:
    """The tracee's descriptor 5 is a context of ours, its descriptor 6 the mount."""
    context = Context(fstype, FILESYSTEMS.get(fstype.decode(), DEFAULT), **state)
    return FakeContexts({5: context}, {6: context})


@pytest.mark.parametrize(
    ("fsname", "nested", "done"),
    [
        (b"tmpfs", False, None),
        (b"tmpfs", True, None),
        (b"nonsense", False, None),
        (b"", False, None),
        (b"\xff\xfe", False, None),
        (b"overlay", True, None),
        (b"proc", False, ("open_context", b"proc", False)),
        (b"sysfs", True, ("open_context", b"sysfs", False)),
        (b"overlay", False, ("open_context", b"overlay", True)),
        (b"debugfs", False, ("open_context", b"debugfs", False)),
        (b"nfs", False, ("open_context", b"nfs", False)),
    ],
)
def test_who_opens_what(fsname: bytes, nested: bool, done: tuple[Any, ...] | None) -> None:
    asked = ask("fsopen", FsopenArgs(fsname, 1), tracee=FakeTracee(in_nested_user_namespace=nested))
    assert asked.done == ([done] if done else [])
    assert asked.verdict == AddFd(70, cloexec=True) if done else isinstance(asked.verdict, Continue)
    assert asked.call.rule.startswith("default.yaml:")


def test_flags_that_do_not_exist_are_the_kernels() -> None:
    assert isinstance(ask("fsopen", FsopenArgs(b"proc", 2)).verdict, Continue)
    made = opened(b"debugfs", created=True)
    assert isinstance(ask("fsmount", FsmountArgs(5, 2, 0), contexts=made).verdict, Continue)
    assert isinstance(ask("fsmount", FsmountArgs(5, 0, 0x30), contexts=made).verdict, Continue)
    assert isinstance(ask("move_mount", MoveMountArgs(6, b"", 7, b"x", TO | 0x400), contexts=made).verdict, Continue)
    assert made.opened[5].mounted is False


@pytest.mark.parametrize("fd", [-1, 4, 99])
def test_the_kernels_own_contexts_are_left_to_it(fd: int) -> None:
    kept = opened(b"debugfs")
    for name, args in (
        ("fsconfig", FsconfigArgs(fd, Command.FSCONFIG_CMD_CREATE, None, None, 0)),
        ("fsmount", FsmountArgs(fd, 0, 0)),
        ("move_mount", MoveMountArgs(fd, b"", AT_FDCWD, b"/mnt", TO)),
    ):
        asked = ask(name, args, contexts=kept)
        assert isinstance(asked.verdict, Continue)
        assert asked.done == []


def test_options_always_reach_the_kernel() -> None:
    for fstype in (b"proc", b"debugfs", b"overlay"):
        asked = ask("fsconfig", FsconfigArgs(5, Command.FSCONFIG_SET_STRING, b"source", b"x", 0), contexts=opened(fstype))
        assert isinstance(asked.verdict, Continue)
        assert asked.done == ([("set_overlay_option", b"overlay", b"source", b"x")] if fstype == b"overlay" else [])


@pytest.mark.parametrize("key", [None, b"lowerdir"])
def test_what_is_no_option_is_the_kernels_to_refuse(key: bytes | None) -> None:
    kept = opened(b"overlay")
    asked = ask("fsconfig", FsconfigArgs(5, Command.FSCONFIG_SET_STRING, key, None, 0), contexts=kept)
    assert isinstance(asked.verdict, Continue)
    assert asked.done == []
    assert kept.opened[5].refusal == (errno.EINVAL if key else 0)


def test_an_overlays_directory_by_descriptor_is_the_tracees_own() -> None:
    asked = ask(
        "fsconfig",
        FsconfigArgs(5, Command.FSCONFIG_SET_FD, b"lowerdir+", None, 8),
        tracee=FakeTracee(taken={8: 80}),
        contexts=opened(b"overlay"),
    )
    assert asked.done == [("set_overlay_option", b"overlay", b"lowerdir+", 80)]


def create(kept: FakeContexts, agent: FakeAgent | None = None) -> Any:
    return ask("fsconfig", FsconfigArgs(5, Command.FSCONFIG_CMD_CREATE, None, None, 0), contexts=kept, agent=agent)


def test_proc_is_created_by_the_kernel_and_a_stand_in_by_nobody() -> None:
    assert isinstance(create(opened(b"proc")).verdict, Continue)
    kept = opened(b"debugfs")
    asked = create(kept)
    assert (asked.verdict, asked.done) == (Return(), [])
    assert create(kept).verdict == Fail(errno.EBUSY)


def test_an_overlay_is_created_by_us_unless_it_is_for_users() -> None:
    asked = create(opened(b"overlay"))
    assert (asked.verdict, asked.done) == (Return(), [("create_overlay", b"overlay")])
    kept = opened(b"overlay")
    ask("fsconfig", FsconfigArgs(5, Command.FSCONFIG_SET_FLAG, b"userxattr", None, 0), contexts=kept)
    assert isinstance(create(kept).verdict, Continue)


def test_one_for_users_is_ours_too_where_policy_wants_nodes_in_it() -> None:
    kept, by = opened(b"overlay"), policy(overlay_nodes=True)
    asked = ask("fsconfig", FsconfigArgs(5, Command.FSCONFIG_SET_FLAG, b"userxattr", None, 0), contexts=kept, by=by)
    assert asked.done == [("set_overlay_option", b"overlay", b"userxattr", None)]
    assert create(kept).done == [("create_overlay", b"overlay")]


def test_an_option_that_we_do_not_take_over_prevents_the_overlay_later() -> None:
    kept = opened(b"overlay")
    agent = FakeAgent(fails=OSError(errno.EPERM, "a layer of somebody else's"))
    asked = ask("fsconfig", FsconfigArgs(5, Command.FSCONFIG_SET_STRING, b"lowerdir+", b"/x", 0), contexts=kept, agent=agent)
    assert isinstance(asked.verdict, Continue)
    assert create(kept).verdict == Fail(errno.EPERM)


def test_a_fresh_proc_is_mounted_and_its_root_injected() -> None:
    kept = opened(b"proc")
    asked = ask("fsmount", FsmountArgs(5, 1, 14), contexts=kept)
    assert asked.verdict == AddFd(71, cloexec=True)
    assert asked.done == [("mount_context", b"proc", 14, ()), ("open_mount", b"proc")]
    again = ask("fsmount", FsmountArgs(5, 0, 14), contexts=kept)
    assert (again.verdict, again.done) == (AddFd(71, cloexec=False), [("open_mount", b"proc")]), "after a signal"
    assert isinstance(again.verdict, AddFd)
    assert again.verdict.delivered is not None
    again.verdict.delivered()
    assert ask("fsmount", FsmountArgs(5, 0, 14), contexts=kept).verdict == Fail(errno.EBUSY)


def test_a_context_that_failed_takes_nothing_more() -> None:
    kept = opened(b"overlay")
    agent = FakeAgent(fails=OSError(errno.EINVAL, "without layers"))
    with pytest.raises(OSError):
        ask("fsconfig", FsconfigArgs(5, Command.FSCONFIG_CMD_CREATE, None, None, 0), contexts=kept, agent=agent)
    assert create(kept).verdict == Fail(errno.EBUSY)
    option = FsconfigArgs(5, Command.FSCONFIG_SET_STRING, b"lowerdir+", b"/x", 0)
    assert ask("fsconfig", option, contexts=kept).verdict == Fail(errno.EBUSY)
    wrong = FsconfigArgs(5, Command.FSCONFIG_SET_STRING, b"lowerdir+", UNREADABLE, 0)
    assert isinstance(ask("fsconfig", wrong, contexts=kept).verdict, Continue), "the kernel says what is wrong with it"


def test_a_nested_user_namespace_gets_the_covers_or_the_kernels_answer() -> None:
    covered = FakeTracee(in_nested_user_namespace=True, covers={"proc": (b"/proc", b"meminfo")})
    asked = ask("fsmount", FsmountArgs(5, 1, 0), tracee=covered, contexts=opened(b"proc"))
    assert asked.done[0] == ("mount_context", b"proc", 0, (b"/proc", b"meminfo"))
    hidden = ask(
        "fsmount", FsmountArgs(5, 1, 0), tracee=FakeTracee(in_nested_user_namespace=True), contexts=opened(b"proc")
    )
    assert isinstance(hidden.verdict, Continue)
    assert hidden.done == []


def test_what_policy_denies_is_denied_by_fsmount() -> None:
    kept = opened(b"nfs")
    assert isinstance(ask("fsmount", FsmountArgs(5, 0, 0), contexts=kept).verdict, Continue)
    assert create(kept).verdict == Return()
    asked = ask("fsmount", FsmountArgs(5, 0, 0), contexts=kept)
    assert (asked.verdict, asked.call.denied, asked.call.why) == (Fail(13), True, "filesystem type 'nfs'")


@pytest.mark.parametrize(
    ("to_dfd", "to_path", "flags", "at"),
    [
        (AT_FDCWD, b"/mnt", 0, Anchor(b"/mnt")),
        (AT_FDCWD, b"", MoveMountFlag.MOVE_MOUNT_T_EMPTY_PATH, Anchor(b".")),
        (8, b"", MoveMountFlag.MOVE_MOUNT_T_EMPTY_PATH, Anchor(b"", 8)),
        (8, b"mnt", MoveMountFlag.MOVE_MOUNT_T_SYMLINKS, Anchor(b"mnt", 8)),
    ],
)
def test_where_a_mount_goes(to_dfd: int, to_path: bytes, flags: int, at: Anchor) -> None:
    args = MoveMountArgs(6, b"", to_dfd, to_path, TO | flags)
    asked = ask("move_mount", args, tracee=FakeTracee(taken={8: 80}), contexts=opened(b"proc", mounted=True))
    follow = bool(flags & MoveMountFlag.MOVE_MOUNT_T_SYMLINKS)
    assert (asked.verdict, asked.done) == (Return(), [("move_mount", b"proc", at, follow)])


@pytest.mark.parametrize(("from_path", "to_path"), [(b"x", b"/mnt"), (None, b"/mnt"), (b"", None), (b"", b"")])
def test_moves_that_name_no_mount_of_ours(from_path: bytes | None, to_path: bytes | None) -> None:
    asked = ask("move_mount", MoveMountArgs(6, from_path, AT_FDCWD, to_path, TO), contexts=opened(b"proc"))
    assert isinstance(asked.verdict, Continue)
    assert asked.done == []
