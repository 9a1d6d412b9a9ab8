"""A record as JSON: what the control socket sends and `interceptor trace --json` prints, one object a call.

The keys are documented in docs/control.md and only ever added to. Text that a tracee chose is made printable on the way
out: bytes that are not UTF-8 become backslash escapes, secrets among mount options become asterisks.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from interceptor.trace.record import REFUSED, Record
from interceptor.verdict import Continue, Fail, Return, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from interceptor.args import Signature
    from interceptor.registry import Syscall

Event = dict[str, Any]

SECRET = re.compile(rb"(^|,)(pass\w*|cred\w*|secret\w*|key)=(?:,,|[^,])*", re.IGNORECASE)
"""Mount options of cifs, nfs, ceph and ecryptfs whose value nobody may read; cifs writes a comma in one as ``,,``."""
USERINFO = re.compile(rb"(://[^/@:]*):[^/@]*@")
"""``://user:password@host``, as FUSE programs take it as a mount's source."""


def event(record: Record, rows: Mapping[str, Syscall], title: str | None = None) -> Event:
    """`record` as the documented object. `rows` is the registry, `title` the container's name."""
    row = rows.get(record.call)
    args = None if record.args is None else _masked(record.args)
    return {
        "time": _utc(record.time_ns),
        "time_ns": record.time_ns,
        "container": record.container,
        "name": title or record.container[:12],
        "tid": record.tid,
        "comm": record.comm,
        "arch": record.arch.name.lower(),
        "call": record.call,
        "arguments": _arguments(record, args, row.signature if row else None),
        "args": _plain(args),
        **_result(record.verdict),
        "how": str(record.how),
        "rule": record.rule,
        "why": record.why or _because(record.verdict),
        "micros": round(record.micros, 1),
        **({"remedy": record.remedy or remedy(record)} if record.how in REFUSED or record.remedy else {}),
    }


def mask(value: bytes) -> bytes:
    """`value` with its secrets replaced by asterisks."""
    if b"=" in value:
        value = SECRET.sub(rb"\1\2=***", value)
    return USERINFO.sub(rb"\1:***@", value) if b"://" in value else value


def errno_name(number: int) -> str:
    """``EPERM``; the kernel's spelling where the C library has two names for one number."""
    return _SPELLED.get(number) or errno.errorcode.get(number, f"ERRNO_{number}")


_SPELLED = {errno.EOPNOTSUPP: "EOPNOTSUPP", errno.EDEADLK: "EDEADLK", errno.EAGAIN: "EAGAIN"}


BY_NATURE = "kernel: by its nature"
"""The rule of what is refused whatever anybody allows."""


def remedy(record: Record) -> str:
    """What would have allowed a denied call, for people."""
    if record.rule == BY_NATURE:
        return "no policy can allow it"
    if record.rule.startswith("kernel:"):
        return (
            "the kernel refuses this to the caller as well and no policy lends it: "
            "the caller needs that capability in its container, e.g. by docker run --cap-add"
        )
    if not record.rule.startswith("/"):
        return "to allow it: say otherwise in a policy of /etc/interceptor/policies that extends this one"
    return "to allow it: change that line, or put a rule before it that matches this call"


def _utc(time_ns: int) -> str:
    """RFC 3339 with microseconds."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%FT%T}.{rest // 1000:06}Z"


def _arguments(record: Record, args: Any, signature: Signature | None) -> str:
    """The argument list as strace prints it; hexadecimal registers for a call that no handler has declared."""
    if signature is None:
        return ", ".join(hex(r & record.arch.register_mask) for r in record.registers)
    if args is None:
        return signature.render_registers(record.registers, record.arch)
    return signature.render(args)


def _masked(args: Any) -> Any:
    """`args` without secrets; the same object when it has none."""
    values = {f.name: getattr(args, f.name) for f in dataclasses.fields(args)}
    masked = {name: mask(v) for name, v in values.items() if isinstance(v, bytes)}
    if isinstance(key := values.get("key"), bytes) and mask(key + b"=x") != key + b"=x" and masked.get("value"):
        masked["value"] = b"***"  # fsconfig(2): one option in two arguments
    changed = {name: v for name, v in masked.items() if v != values[name]}
    return dataclasses.replace(args, **changed) if changed else args


def _plain(args: Any) -> dict[str, Any] | None:
    """The decoded args by name: numbers, strings and null."""
    if args is None:
        return None
    values = {f.name: getattr(args, f.name) for f in dataclasses.fields(args)}
    return {n: v.decode(errors="backslashreplace") if isinstance(v, bytes) else v for n, v in values.items()}


def _result(verdict: Verdict | None) -> Event:
    """``result``: the value, or null where only the kernel knows it; ``errno`` and its meaning, or null."""
    result: Event = {"result": None, "errno": None, "error": None}
    match verdict:
        case Return(value):
            result["result"] = value
        case Fail(number):
            result |= {"result": -1, "errno": errno_name(number), "error": os.strerror(number)}
        case _:
            pass
    return result


def _because(verdict: Verdict | None) -> str:
    return verdict.because if isinstance(verdict, Continue) else ""
