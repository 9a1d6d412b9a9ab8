"""What people and programs read of a record."""

from __future__ import annotations

import enum
import errno
import json
import re
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Annotated, Any

import pytest

from interceptor.args import Arch, Flags, OptionalCStr, OptionalData, Path, Signature
from interceptor.printable import printable
from interceptor.trace import How, Record
from interceptor.trace.event import errno_name, event, mask
from interceptor.trace.render import Printer
from interceptor.verdict import AddFd, Continue, Fail, Return, Verdict

NOON = 1_790_000_000 * 1_000_000_000


class MS(enum.IntFlag):
    MS_NOSUID = 2
    MS_NODEV = 4


@dataclass(frozen=True, slots=True)
class MountArgs:
    source: OptionalCStr
    target: Path
    fstype: OptionalCStr
    flags: Annotated[int, Flags(MS)]
    data: OptionalData


@dataclass(frozen=True, slots=True)
class OptionArgs:
    """Of fsconfig(2), what is text."""

    key: OptionalCStr
    value: OptionalCStr


ROWS: Any = {
    "mount": SimpleNamespace(signature=Signature.of(MountArgs)),
    "fsconfig": SimpleNamespace(signature=Signature.of(OptionArgs)),
}
PROC = MountArgs(b"proc", b"/proc", b"proc", 6, None)


def record(
    *,
    args: Any = PROC,
    verdict: Verdict | None = Return(0),  # noqa: B008 - a frozen value
    how: How = How.EMULATED,
    rule: str = "/etc/interceptor/policies/docker.yaml:12",
    why: str = "",
    call: str = "mount",
    comm: str = "systemd",
    arch: Arch = Arch.X86_64,
) -> Record:
    registers = (0x10, 0x20, 0, 2, 0, 0)
    when = NOON + 789_012_345
    return Record(when, "abcdef0123456789", 1234, comm, call, args, registers, arch, verdict, how, rule, 38.4, why)


def lines(one: Record, title: str | None = "web", printer: Printer | None = None) -> list[str]:
    printer = printer or Printer(day=time.strftime("%F", time.localtime(NOON // 10**9)))
    return printer.lines(event(one, ROWS, title))


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_a_line_reads_like_strace() -> None:
    [line] = lines(record())
    process, call = line[:42].rstrip(), line[43:]
    assert process == "14:13:20.789012 web systemd[1234]"
    assert call == 'mount("proc", "/proc", "proc", MS_NOSUID|MS_NODEV, NULL) = 0 <emulated> docker.yaml:12 38µs'


@pytest.mark.parametrize(
    ("verdict", "how", "shown"),
    [
        (Return(3), How.EMULATED, "= 3 <emulated>"),
        (Fail(errno.EBUSY), How.EMULATED, "= -1 EBUSY (Device or resource busy) <emulated>"),
        (AddFd(9), How.GONE, "= ? <gone>"),
        (Continue("flags only"), How.CONTINUED, "= ? <continued>"),
        (Continue("a rule says so"), How.NATIVE, "= ? <native-by-policy>"),
        (None, How.GONE, "= ? <gone>"),
    ],
)
def test_results(verdict: Verdict | None, how: How, shown: str) -> None:
    [line] = lines(record(verdict=verdict, how=how))
    assert shown in line


def test_an_emulated_call_that_fails_says_what_the_errno_does_not() -> None:
    line, explanation = lines(record(verdict=Fail(errno.EINVAL), why="squashfuse ended with status 1: no superblock"))
    assert "EINVAL" in line
    assert explanation.endswith("└─ squashfuse ended with status 1: no superblock")
    assert len(lines(record(verdict=Fail(errno.ENOENT), why="No such file or directory"))) == 1


def test_a_denial_says_which_rule_why_and_what_would_help() -> None:
    line, explanation = lines(record(verdict=Fail(errno.EPERM), how=How.DENIED, why='fstype is "proc"'))
    assert "= -1 EPERM (Operation not permitted) <denied> docker.yaml:12" in line
    assert explanation.startswith(" " * 16 + "└─ ")
    assert "refused by /etc/interceptor/policies/docker.yaml:12" in explanation
    assert 'fstype is "proc"' in explanation
    assert "to allow it: change that line" in explanation


def test_a_shipped_policy_is_extended_rather_than_changed() -> None:
    _, explanation = lines(record(verdict=Fail(errno.EPERM), how=How.DENIED, rule="default.yaml:40"))
    assert "refused by default.yaml:40" in explanation
    assert "say otherwise in a policy of /etc/interceptor/policies that extends this one" in explanation


def test_a_refusal_of_the_kernel_does_not_send_people_to_the_policy() -> None:
    denied = record(verdict=Fail(errno.EPERM), how=How.DENIED, rule="kernel: no CAP_SYS_ADMIN")
    line, explanation = lines(denied)
    assert "<denied> kernel: no CAP_SYS_ADMIN" in line
    assert "capability" in explanation
    assert "to allow it" not in explanation


def test_a_fault_of_ours_is_explained() -> None:
    line, explanation = lines(record(verdict=Fail(errno.EIO), how=How.FAILED, why="the agent died"))
    assert "= -1 EIO" in line
    assert explanation.endswith("the agent died")


def test_columns_stand_in_line() -> None:
    printer = Printer(day="2026-09-21")
    events = [event(record(args=MountArgs(None, b"/x", None, 0, None)), ROWS, n) for n in ("web", "database")]
    printer.widen(events)
    [one], [two] = (printer.lines(e) for e in events)
    assert one.index("mount(") == two.index("mount(")
    assert one.index(" = 0") == two.index(" = 0")


def test_the_date_is_printed_when_it_changes() -> None:
    printer = Printer(day="2026-01-01")
    assert lines(record(), printer=printer)[0] == "-- 2026-09-21 --"
    assert len(lines(record(), printer=printer)) == 1


def test_colours_are_only_colours() -> None:
    coloured = lines(record(), printer=Printer(colour=True, day="2026-09-21"))[0]
    assert "\x1b[32m<emulated>\x1b[0m" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == lines(record())[0]


def test_a_tracee_cannot_drive_the_terminal() -> None:
    hostile = record(comm="\x1b[2J\nroot", args=MountArgs(b"\x1b[2J\r", b"/\xff\n", None, 0, None), why="\x1b]0;x\x07")
    text = "".join(lines(hostile._replace(how=How.DENIED, verdict=Fail(errno.EPERM)), title="we\x1bb"))
    assert printable(text) == text
    assert "\\x1b[2J\\nroot" in text


def test_unread_memory_shows_addresses() -> None:
    [line] = lines(record(args=None, verdict=Fail(errno.EFAULT)))
    assert "mount(0x10, 0x20, NULL, MS_NOSUID, NULL)" in line


def test_a_call_without_a_row_shows_registers() -> None:
    [line] = lines(record(args=None, call="syscall_999", verdict=Fail(errno.ENOSYS), arch=Arch.I386))
    assert "syscall_999(0x10, 0x20, 0x0, 0x2, 0x0, 0x0)" in line


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"user=a,password=se,,cret,vers=3", b"user=a,password=***,vers=3"),
        (b"pass=x", b"pass=***"),
        (b"PASSWORD2=x,ro", b"PASSWORD2=***,ro"),
        (b"name=admin,secret=AQ==", b"name=admin,secret=***"),
        (b"credentials=/root/.smb,uid=0", b"credentials=***,uid=0"),
        (b"cred=x", b"cred=***"),
        (b"https://me:hunter2@host/dav", b"https://me:***@host/dav"),
        (b"lowerdir=/a:/b,upperdir=/pass,workdir=/w", b"lowerdir=/a:/b,upperdir=/pass,workdir=/w"),
        (b"mode=0755,size=65536k", b"mode=0755,size=65536k"),
    ],
)
def test_secrets_are_masked(data: bytes, shown: bytes) -> None:
    assert mask(data) == shown


def test_no_form_shows_a_secret() -> None:
    option = event(record(call="fsconfig", args=OptionArgs(b"password", b"hunter2")), ROWS)
    assert option["args"] == {"key": "password", "value": "***"}
    plain = event(record(call="fsconfig", args=OptionArgs(b"vers", b"3")), ROWS)
    assert plain["args"] == {"key": "vers", "value": "3"}
    secret = event(record(args=MountArgs(b"//s/x", b"/m", b"cifs", 0, b"user=u,password=hunter2")), ROWS)
    assert "hunter2" not in json.dumps(secret)
    assert secret["args"]["data"] == "user=u,password=***"
    assert '"user=u,password=***"' in secret["arguments"]


def test_json_keys_are_those_documented() -> None:
    args = MountArgs(b"\xff", b"/p", None, 2, None)
    denied = event(record(verdict=Fail(errno.EPERM), how=How.DENIED, args=args), ROWS)
    assert json.loads(json.dumps(denied)) == {
        "time": "2026-09-21T14:13:20.789012Z",
        "time_ns": NOON + 789_012_345,
        "container": "abcdef0123456789",
        "name": "abcdef012345",
        "tid": 1234,
        "comm": "systemd",
        "arch": "x86_64",
        "call": "mount",
        "arguments": '"\\377", "/p", NULL, MS_NOSUID, NULL',
        "args": {"source": "\\xff", "target": "/p", "fstype": None, "flags": 2, "data": None},
        "result": -1,
        "errno": "EPERM",
        "error": "Operation not permitted",
        "how": "denied",
        "rule": "/etc/interceptor/policies/docker.yaml:12",
        "why": "",
        "micros": 38.4,
        "remedy": denied["remedy"],
    }


@pytest.mark.parametrize(
    ("number", "name"),
    [(errno.EPERM, "EPERM"), (95, "EOPNOTSUPP"), (11, "EAGAIN"), (35, "EDEADLK"), (4095, "ERRNO_4095")],
)
def test_errnos_have_the_kernels_names(number: int, name: str) -> None:
    assert errno_name(number) == name
