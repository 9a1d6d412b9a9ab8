"""setxattr(2) and its like: what is asked of the agent, what is the kernel's, and in which order mistakes are found."""

from __future__ import annotations

import errno

import pytest
from support.fakes import Asked, FakeAgent, FakeTracee, ask

from interceptor.handlers import xattr
from interceptor.ports import AT_FDCWD, Way
from interceptor.verdict import Continue, Return
from interceptor.wire import Anchor

NAME, ROOM = b"trusted.x", 0x1000


def tracee(**facts: object) -> FakeTracee:
    return FakeTracee(memory={ROOM: b"value-and-more"}, **facts)  # type: ignore[arg-type]


def test_a_value_is_copied_once_and_set() -> None:
    asked = ask("setxattr", xattr.SetArgs(b"/f", NAME, ROOM, 5, 1), tracee=tracee())
    assert asked.verdict == Return()
    assert asked.done == [("set_xattr", Anchor(b"/f"), NAME, b"value", 1, Way.FOLLOW)]


@pytest.mark.parametrize(
    ("size", "flags", "number"), [(65537, 0, errno.E2BIG), (5, 4, errno.EINVAL), (65537, 4, errno.EINVAL)]
)
def test_flags_are_checked_before_the_size(size: int, flags: int, number: int) -> None:
    with pytest.raises(OSError) as raised:
        ask("setxattr", xattr.SetArgs(b"/f", NAME, ROOM, size, flags), tracee=tracee())
    assert raised.value.errno == number


def get(size: int, value: bytes = b"abc") -> tuple[Asked, FakeTracee]:
    who = tracee()
    return ask("lgetxattr", xattr.GetArgs(b"/f", NAME, ROOM, size), tracee=who, agent=FakeAgent(gives=value)), who


def test_what_there_is_is_written_where_the_caller_said() -> None:
    asked, who = get(16)
    assert asked.verdict == Return(3)
    assert asked.done == [("get_xattr", Anchor(b"/f"), NAME, Way.NOFOLLOW)]
    assert who.memory[ROOM] == b"abc"


def test_a_size_of_0_only_asks() -> None:
    asked, who = get(0)
    assert asked.verdict == Return(3)
    assert who.memory[ROOM] == b"value-and-more"


def test_what_does_not_fit_is_not_written() -> None:
    with pytest.raises(OSError, match="size"):
        get(2)


@pytest.mark.parametrize("name", [b"user.x", b"trusted", b"security.capability"])
def test_other_names_are_the_kernels(name: bytes) -> None:
    asked = ask("fremovexattr", xattr.FremoveArgs(3, name))
    assert isinstance(asked.verdict, Continue)
    assert not asked.done


def test_a_nested_user_namespace_gets_the_kernels_answer() -> None:
    who = FakeTracee(in_nested_user_namespace=True)
    assert isinstance(ask("removexattr", xattr.RemoveArgs(b"/f", NAME), tracee=who).verdict, Continue)
    assert isinstance(ask("listxattr", xattr.ListArgs(b"/f", ROOM, 9), tracee=who).verdict, Continue)


def test_a_list_that_is_not_ours_to_give_is_the_kernels() -> None:
    assert isinstance(ask("flistxattr", xattr.FlistArgs(3, ROOM, 9)).verdict, Continue)
    assert ask("flistxattr", xattr.FlistArgs(3, ROOM, 9), agent=FakeAgent(gives=b"a\0"), tracee=tracee()).verdict == Return(2)


@pytest.mark.parametrize(
    ("dfd", "path", "at_flags", "where"),
    [
        (AT_FDCWD, b"f", 0, (Anchor(b"f"), Way.FOLLOW)),
        (5, b"f", 0x100, (Anchor(b"f", 5), Way.NOFOLLOW)),
        (5, b"", 0x1000, (Anchor(b"", 5), Way.DESCRIPTOR)),
        (5, None, 0x1000, (Anchor(b"", 5), Way.DESCRIPTOR)),
        (AT_FDCWD, None, 0x1000, (Anchor(b"."), Way.FOLLOW)),
    ],
)
def test_the_at_forms_say_where(dfd: int, path: bytes | None, at_flags: int, where: tuple[Anchor, Way]) -> None:
    asked = ask("removexattrat", xattr.RemoveAtArgs(dfd, path, at_flags, NAME))
    assert asked.done == [("remove_xattr", where[0], NAME, where[1])]


@pytest.mark.parametrize(
    ("path", "at_flags", "number"), [(b"f", 1, errno.EINVAL), (b"", 0, errno.ENOENT), (None, 0, errno.EFAULT)]
)
def test_the_at_forms_refuse_what_the_kernel_refuses(path: bytes | None, at_flags: int, number: int) -> None:
    with pytest.raises(OSError) as raised:
        ask("removexattrat", xattr.RemoveAtArgs(3, path, at_flags, NAME))
    assert raised.value.errno == number


@pytest.mark.parametrize(
    ("uargs", "usize", "number"),
    [(b"", 8, errno.EINVAL), (b"", 5000, errno.E2BIG), (bytes(16) + b"\1" + bytes(7), 24, errno.E2BIG)],
)
def test_a_structure_of_another_size(uargs: bytes, usize: int, number: int) -> None:
    who = FakeTracee(memory={ROOM: uargs})
    with pytest.raises(OSError) as raised:
        ask("setxattrat", xattr.ValueAtArgs(3, b"f", 0, NAME, ROOM, usize), tracee=who)
    assert raised.value.errno == number


def test_setxattrat_reads_its_structure() -> None:
    uargs = (0x2000).to_bytes(8, "little") + (3).to_bytes(4, "little") + (2).to_bytes(4, "little")
    who = FakeTracee(memory={ROOM: uargs + bytes(8), 0x2000: b"abcdef"})
    asked = ask("setxattrat", xattr.ValueAtArgs(AT_FDCWD, b"f", 0, NAME, ROOM, 24), tracee=who)
    assert asked.done == [("set_xattr", Anchor(b"f"), NAME, b"abc", 2, Way.FOLLOW)]
