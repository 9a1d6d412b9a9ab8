"""What belongs to the host (Ctrl-Alt-Del, swap, accounting, quotas, the kernel log): answers that harm nobody."""

from __future__ import annotations

import errno

import pytest
from support.fakes import FakeTracee, ask
from support.sources import REPOSITORY

from interceptor import registry
from interceptor.args import Arch
from interceptor.handlers.acct import AcctArgs
from interceptor.handlers.quotactl import QuotactlArgs, QuotactlFdArgs
from interceptor.handlers.reboot import Command, Magic1, Magic2, RebootArgs
from interceptor.handlers.swapon import SwapoffArgs, SwaponArgs
from interceptor.handlers.syslog import BUFFER_SIZE, Action, SyslogArgs
from interceptor.policy_file import load_all
from interceptor.ports import Cap
from interceptor.stanza import outside, reach, rules
from interceptor.verdict import Continue, Fail, Return

CAD_OFF, CAD_ON = Command
MAGIC1, MAGIC2 = Magic1.LINUX_REBOOT_MAGIC1, Magic2.LINUX_REBOOT_MAGIC2
SHIPPED = load_all([REPOSITORY / "policies"])


@pytest.mark.parametrize("cmd", [CAD_OFF, CAD_ON])
def test_ctrl_alt_del_is_switched_without_an_effect(cmd: int) -> None:
    asked = ask("reboot", RebootArgs(MAGIC1, MAGIC2, cmd, 0))
    assert asked.verdict == Return()
    assert asked.call.why


@pytest.mark.parametrize(("first", "second"), [(0, MAGIC2), (MAGIC1, 0), (MAGIC1, MAGIC1)])
def test_the_wrong_magic_is_einval_as_in_the_kernel(first: int, second: int) -> None:
    assert ask("reboot", RebootArgs(first, second, CAD_ON, 0)).verdict == Fail(errno.EINVAL)


@pytest.mark.parametrize(
    ("cmd", "left"), [(CAD_OFF, False), (CAD_ON, False), (0x01234567, True), (0x4321FEDC, True), (0xCDEF0123, True)]
)
def test_restart_halt_and_power_off_stay_in_the_kernel(cmd: int, left: bool) -> None:
    row = registry.load()["reboot"]
    for poison in (0, 0xDEADBEEF << 32):
        assert outside(reach(row), (MAGIC1, MAGIC2, cmd | poison, 0, 0, 0)) is left


def test_swapoff_succeeds_and_swapon_is_the_kernels() -> None:
    assert ask("swapoff", SwapoffArgs(b"/swapfile")).verdict == Return()
    assert isinstance(ask("swapon", SwaponArgs(b"/swapfile", 0)).verdict, Continue)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("acct", AcctArgs(b"/var/log/pacct")),
        ("acct", AcctArgs(None)),
        ("quotactl", QuotactlArgs(0x80000700, b"/dev/vda", 0, 0)),
        ("quotactl_fd", QuotactlFdArgs(3, 0x80000700, 0, 0)),
    ],
)
def test_accounting_and_quotas_are_as_on_a_kernel_without_them(name: str, args: object) -> None:
    asked = ask(name, args)
    assert asked.verdict == Fail(errno.ENOSYS)
    assert "the host's" in asked.call.why


@pytest.mark.parametrize("policy", ["default", "systemd", "docker"])
def test_the_filter_alone_answers_what_is_constant_and_leaves_swapon_alone(policy: str) -> None:
    found = rules(registry.load(), SHIPPED.get(policy))
    actions = {name: (rule["action"], rule.get("errnoRet")) for rule in found for name in rule["names"]}
    for name in ("acct", "quotactl", "quotactl_fd"):
        assert actions[name] == ("SCMP_ACT_ERRNO", errno.ENOSYS)
    assert "swapon" not in actions


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (SyslogArgs(Action.CLOSE, 0, 0), Return()),
        (SyslogArgs(Action.OPEN, 0, 0), Return()),
        (SyslogArgs(Action.READ_ALL, 0x1000, 100), Return()),
        (SyslogArgs(Action.READ_CLEAR, 0x1000, 0), Return()),
        (SyslogArgs(Action.READ_ALL, 0, 100), Fail(errno.EINVAL)),
        (SyslogArgs(Action.READ_ALL, 0x1000, -1), Fail(errno.EINVAL)),
        (SyslogArgs(Action.READ_ALL, 0xFFFFFFFF81000000, 100), Fail(errno.EFAULT)),
        (SyslogArgs(Action.CLEAR, 0, 0), Return()),
        (SyslogArgs(Action.CONSOLE_OFF, 0, 0), Return()),
        (SyslogArgs(Action.CONSOLE_ON, 0, 0), Return()),
        (SyslogArgs(Action.CONSOLE_LEVEL, 0, 8), Return()),
        (SyslogArgs(Action.CONSOLE_LEVEL, 0, 9), Fail(errno.EINVAL)),
        (SyslogArgs(Action.SIZE_UNREAD, 0, 0), Return()),
        (SyslogArgs(Action.SIZE_BUFFER, 0, 0), Return(BUFFER_SIZE)),
        (SyslogArgs(11, 0, 0), Fail(errno.EINVAL)),
        (SyslogArgs(-1, 0, 0), Fail(errno.EINVAL)),
    ],
)
def test_the_kernel_log_is_empty(args: SyslogArgs, expected: object) -> None:
    assert ask("syslog", args).verdict == expected


def test_reading_on_would_wait_for_ever_and_is_the_kernels() -> None:
    assert isinstance(ask("syslog", SyslogArgs(Action.READ, 0x1000, 100)).verdict, Continue)


def test_without_cap_syslog_only_what_is_everybodys() -> None:
    without = FakeTracee(lacks=frozenset({Cap.SYSLOG}))
    assert ask("syslog", SyslogArgs(Action.READ_ALL, 0x1000, 100), tracee=without).verdict == Return()
    assert isinstance(ask("syslog", SyslogArgs(Action.CLEAR, 0, 0), tracee=without).verdict, Continue)


def test_every_call_exists_on_every_architecture() -> None:
    rows = registry.load()
    for name in ("reboot", "swapon", "swapoff", "acct", "quotactl", "syslog"):
        assert all(rows[name].number(arch) is not None for arch in Arch), name
