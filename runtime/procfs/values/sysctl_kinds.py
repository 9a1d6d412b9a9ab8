"""How the kernel reads what is written to a sysctl: the handlers of its ctl_table rows, as functions of bytes.

A kind takes what the file shows and what is written to it, and answers what it shows from then on, or raises
OSError(EINVAL) where the kernel would. One difference is meant: of a vector with a bad number the kernel keeps the numbers
before it, and here nothing changes.

Source: Linux kernel/sysctl.c, do_proc_dointvec(), do_proc_douintvec(), do_proc_doulongvec_minmax(), proc_get_long(),
_proc_do_string(); lib/kstrtox.c.
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from typing import Final, Protocol

INT_MIN: Final = -(1 << 31)
INT_MAX: Final = (1 << 31) - 1
UINT_MAX: Final = (1 << 32) - 1
LONG_MAX: Final = (1 << 63) - 1
ULONG_MAX: Final = (1 << 64) - 1

_SPACE: Final = b" \t\n\v\f\r\xa0"
"""isspace() of the kernel (lib/ctype.c)."""
_MOST: Final = 4095
"""PAGE_SIZE - 1: what of a write is looked at."""
_NUMBER: Final = re.compile(rb"(-?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)(?=[ \t\n]|\Z)")
"""proc_get_long(): base 0, and only whitespace may follow."""
_LONGEST: Final = 21
"""TMPBUFLEN - 1 characters are looked at; a number that fills them is refused."""


class Kind(Protocol):
    """A row's handler."""

    def __call__(self, now: bytes, written: bytes) -> bytes: ...


def _invalid(written: bytes, right: str) -> OSError:
    return OSError(errno.EINVAL, f"{written[:64]!r} is not {right}")


def _numbers(written: bytes, count: int, right: str) -> list[int]:
    """Up to `count` numbers; what follows them is not looked at. There must be one."""
    found: list[int] = []
    rest = written[:_MOST].lstrip(_SPACE)
    while rest and len(found) < count:
        match = _NUMBER.match(rest)
        if match is None or len(match[0]) >= _LONGEST:
            raise _invalid(written, right)
        digits = match[2]
        base = 16 if digits[:2].lower() == b"0x" else 8 if digits.startswith(b"0") else 10
        value = int(digits, base)
        if value > ULONG_MAX:
            raise _invalid(written, right)
        found.append(-value if match[1] else value)
        rest = rest[match.end() :].lstrip(_SPACE)
    if not found:
        raise _invalid(written, right)
    return found


@dataclass(frozen=True, slots=True)
class Ints:
    """proc_dointvec(), proc_dointvec_minmax(): `int`s, as many as `count`; those that are not written stay."""

    low: int = INT_MIN
    high: int = INT_MAX
    count: int = 1

    def __call__(self, now: bytes, written: bytes) -> bytes:
        right = f"{self.count} integers, each" if self.count > 1 else "an integer"
        right += f" from {self.low} to {self.high}"
        numbers = _numbers(written, self.count, right)
        if not all(self.low <= number <= self.high for number in numbers):
            raise _invalid(written, right)
        kept = now.split()[len(numbers) :]
        return b"\t".join([*(b"%d" % number for number in numbers), *kept]) + b"\n"


@dataclass(frozen=True, slots=True)
class Unsigned:
    """proc_douintvec_minmax(), proc_doulongvec_minmax(): one number that may not have a sign."""

    low: int = 0
    high: int = UINT_MAX

    def __call__(self, now: bytes, written: bytes) -> bytes:
        del now
        right = f"a number from {self.low} to {self.high}"
        number = _numbers(written, 1, right)[0]
        if written.lstrip(_SPACE).startswith(b"-") or not self.low <= number <= self.high:
            raise _invalid(written, right)
        return b"%d\n" % number


@dataclass(frozen=True, slots=True)
class Text:
    """proc_dostring(): up to a newline or NUL; what exceeds `size` - 1 bytes is cut off, silently as the kernel does."""

    size: int

    def __call__(self, now: bytes, written: bytes) -> bytes:
        del now
        return re.split(rb"[\n\0]", written, maxsplit=1)[0][: self.size - 1] + b"\n"


@dataclass(frozen=True, slots=True)
class Latched:
    """A value that stays once it is at its highest (yama_dointvec_minmax())."""

    low: int
    high: int

    def __call__(self, now: bytes, written: bytes) -> bytes:
        locked = now.strip() == b"%d" % self.high
        return Ints(self.high if locked else self.low, self.high)(now, written)


@dataclass(frozen=True, slots=True)
class Parameter:
    """A module's unsigned parameter: kstrtouint(), which wants the number alone and at most one newline after it."""

    low: int = 0

    def __call__(self, now: bytes, written: bytes) -> bytes:
        text = written.removesuffix(b"\n").removeprefix(b"+")
        if not _NUMBER.fullmatch(text):
            raise _invalid(written, f"a number alone, from {self.low} to {UINT_MAX}")
        return Unsigned(self.low, UINT_MAX)(now, text)
