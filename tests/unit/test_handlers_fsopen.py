"""fsopen(2): ENOSYS for what mount(2) emulates, native for the rest, EPERM for nothing."""

from __future__ import annotations

import errno

import pytest
from support.fakes import FakeTracee, ask

from interceptor.handlers.fsopen import FsopenArgs
from interceptor.verdict import Continue, Fail


@pytest.mark.parametrize(
    ("fsname", "nested", "native"),
    [
        (b"tmpfs", False, True),
        (b"tmpfs", True, True),
        (b"nonsense", False, True),
        (b"", False, True),
        (b"proc", False, True),
        (b"proc", True, False),
        (b"sysfs", False, True),
        (b"sysfs", True, False),
        (b"overlay", False, False),
        (b"debugfs", False, False),
        (b"nfs", False, False),
        (b"\xff\xfe", False, True),
    ],
)
def test_who_opens_what(fsname: bytes, nested: bool, native: bool) -> None:
    asked = ask("fsopen", FsopenArgs(fsname, 1), tracee=FakeTracee(in_nested_user_namespace=nested))
    if native:
        assert isinstance(asked.verdict, Continue)
    else:
        assert asked.verdict == Fail(errno.ENOSYS)
        assert asked.call.why == f"fall back on mount(2) for {fsname.decode()}"
    assert asked.done == []
    assert asked.call.rule.startswith("default.yaml:")
