"""sethostname(2), setdomainname(2): for whom the name is set."""

from __future__ import annotations

import errno

import pytest
from support.fakes import FakeTracee, ask

from interceptor.handlers.sethostname import NameArgs
from interceptor.ports import Namespace
from interceptor.verdict import Fail, Return

CALLS = [("sethostname", "set_hostname"), ("setdomainname", "set_domainname")]


def tracee(*, capable: bool, uid: int, owns: bool) -> FakeTracee:
    return FakeTracee(capabilities={Namespace.UTS: capable}, uid_inside=uid, owned={Namespace.UTS: owns})


@pytest.mark.parametrize(("name", "action"), CALLS)
@pytest.mark.parametrize(
    ("capable", "uid", "owns", "allowed"),
    [
        (True, 0, True, True),
        (True, 1000, True, True),  # as the kernel says
        (False, 0, True, True),  # what is lent
        (False, 0, False, False),  # somebody else's UTS namespace: the host's, say
        (False, 1000, True, False),
        (False, 65534, True, False),
    ],
)
def test_who_may(name: str, action: str, capable: bool, uid: int, owns: bool, allowed: bool) -> None:
    asked = ask(name, NameArgs(b"a\0b", 3), tracee=tracee(capable=capable, uid=uid, owns=owns))
    if allowed:
        assert asked.verdict == Return(0)
        assert asked.done == [(action, b"a\0b")]
    else:
        assert asked.verdict == Fail(errno.EPERM)
        assert asked.done == []
        assert "only the container's root" in asked.call.why


@pytest.mark.parametrize(("args", "number"), [(NameArgs(None, 3), errno.EFAULT), (NameArgs(b"", 65), errno.EINVAL)])
def test_mistakes_are_told_to_who_may_set_a_name(args: NameArgs, number: int) -> None:
    with pytest.raises(OSError) as caught:
        ask("sethostname", args, tracee=tracee(capable=True, uid=0, owns=True))
    assert caught.value.errno == number
    assert ask("sethostname", args, tracee=tracee(capable=False, uid=1000, owns=True)).verdict == Fail(errno.EPERM)


@pytest.mark.parametrize(("name", "action"), CALLS)
def test_an_empty_name_is_a_name(name: str, action: str) -> None:
    assert ask(name, NameArgs(b"", 0)).done == [(action, b"")]
