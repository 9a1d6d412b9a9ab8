"""chown(2) and its like: a file of the host's keeps its owner, everything else is the kernel's."""

from __future__ import annotations

import pytest
from support.fakes import FakeAgent, FakeTracee, ask

from interceptor.handlers.chown import ChownArgs, FchownArgs, FchownatArgs
from interceptor.ports import AT_FDCWD, Way
from interceptor.verdict import Continue, Return
from interceptor.wire import Anchor

OURS = b"the container's"


@pytest.mark.parametrize(
    ("name", "args", "where"),
    [
        ("chown", ChownArgs(b"/sys/x", 0, 0), (Anchor(b"/sys/x"), Way.FOLLOW)),
        ("lchown32", ChownArgs(b"/sys/x", 0, 0), (Anchor(b"/sys/x"), Way.NOFOLLOW)),
        ("fchown", FchownArgs(7, 0, 0), (Anchor(b"", 7), Way.DESCRIPTOR)),
        ("fchownat", FchownatArgs(7, b"x", 0, 0, 0x100), (Anchor(b"x", 7), Way.NOFOLLOW)),
        ("fchownat", FchownatArgs(7, b"", 0, 0, 0x1000), (Anchor(b"", 7), Way.DESCRIPTOR)),
        ("fchownat", FchownatArgs(AT_FDCWD, b"x", 0, 0, 0), (Anchor(b"x"), Way.FOLLOW)),
    ],
)
def test_a_file_of_the_hosts_keeps_its_owner(name: str, args: object, where: tuple[Anchor, Way]) -> None:
    asked = ask(name, args)
    assert asked.verdict == Return()
    assert asked.done == [("may_chown", *where)]
    assert "keeps its owner" in asked.call.why


def test_a_file_of_the_containers_is_the_kernels_to_give() -> None:
    assert isinstance(ask("chown", ChownArgs(b"/f", 1, 1), agent=FakeAgent(gives=OURS)).verdict, Continue)


@pytest.mark.parametrize(
    "args", [FchownatArgs(AT_FDCWD, b"", 0, 0, 0x1000), FchownatArgs(3, b"", 0, 0, 0), FchownatArgs(3, b"x", 0, 0, 1)]
)
def test_what_the_kernel_refuses_or_decides_it_is_left(args: FchownatArgs) -> None:
    asked = ask("fchownat", args)
    assert isinstance(asked.verdict, Continue)
    assert not asked.done


def test_a_nested_user_namespace_is_not_humoured() -> None:
    who = FakeTracee(in_nested_user_namespace=True)
    assert isinstance(ask("fchown", FchownArgs(7, 0, 0), tracee=who).verdict, Continue)
