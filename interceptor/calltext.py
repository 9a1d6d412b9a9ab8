"""A system call as strace writes it, read back: ``mount("proc", "/x", "proc", MS_NOSUID, NULL)`` → registers and memory.

Strict: a call that the registry does not know, a wrong number of arguments, a flag that the call has not, or text
behind the end are errors with their column, never a guess. What `interceptor trace` prints can be read again; a result
behind the call (`` = 0 …``) is passed over.

Source: strace(1); the C literals of ISO C11 6.4.4 and 6.4.5.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from interceptor.args import Address, Arch, Buffer, Flags, Integer, Kind, String
from interceptor.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from interceptor.args import Field, Want
    from interceptor.registry import Syscall

PLACES = 0x10000
"""Distance of the made-up addresses at which the strings of a call lie."""

NUMBERS: Mapping[str, int] = {
    **{name: value for name, value in vars(stat).items() if name.startswith("S_I") and isinstance(value, int)},
}
"""Names that may stand for a number anywhere (fcntl.h, sys/stat.h)."""


@dataclass(frozen=True, slots=True)
class CallText:
    """One call, as the kernel would see it."""

    row: Syscall
    registers: tuple[int, ...]
    memory: Mapping[int, bytes] = field(default_factory=dict)
    """Address → what lies there, without the NUL behind it."""

    def read(self, wants: Sequence[Want]) -> list[bytes | None]:
        """args.Reader of that memory."""
        return [self._piece(*want) for want in wants]

    def _piece(self, address: int, limit: int, terminated: bool) -> bytes | None:
        if address not in self.memory:
            return None
        return (self.memory[address] + b"\0" if terminated else self.memory[address])[:limit]


def parse(text: str, rows: Mapping[str, Syscall]) -> CallText:
    """Raises ConfigError with the column of the mistake."""
    reader = _Reader(text)
    name = reader.take(_NAME, "the name of a system call")
    if name not in rows:
        raise reader.error(f"{name} is not intercepted; what is: {', '.join(sorted(rows))}", 0)
    reader.take(_OPEN, "'('")
    fields = rows[name].signature.fields
    registers, memory = [0] * 6, {}
    for number, argument in enumerate(fields):
        if number:
            reader.take(_COMMA, f"',' and {argument.name}: {name} has {len(fields)} arguments")
        value = reader.argument(argument)
        if isinstance(value, bytes):
            address = PLACES * (number + 1)
            memory[address], value = value, address
        registers[argument.register] = value & _WORD
    reader.take(_CLOSE, f"')': {name} has {len(fields)} arguments" if fields else "')'")
    reader.end()
    parsed = CallText(rows[name], tuple(registers), memory)
    _check_lengths(parsed, reader)
    return parsed


_WORD = (1 << 64) - 1
_NAME, _OPEN, _CLOSE, _COMMA = (re.compile(rf"\s*({p})") for p in (r"[a-z_][a-z0-9_]*", r"\(", r"\)", ","))
_STRING = re.compile(r'\s*"((?:[^"\\\n]|\\.)*)"(\.\.\.)?')
_NUMBER = re.compile(r"\s*(-?(?:0[xX][0-9A-Fa-f]+|0[oO]?[0-7]+|[1-9][0-9]*|0))(?![0-9A-Za-z_])")
_WORDS = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)")
_DEVICE = re.compile(r"\s*makedev\(\s*(0x[0-9a-fA-F]+|[0-9]+)\s*,\s*(0x[0-9a-fA-F]+|[0-9]+)\s*\)")
_STRUCT = re.compile(r"\s*(\{[^{}]*\}|\[[^\[\]]*\])")
_OR = re.compile(r"\s*\|")
_REST = re.compile(r"\s*(=.*)?\Z", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|x([0-9A-Fa-f]{1,2})|(.))", re.DOTALL)
_ESCAPED = {"a": 7, "b": 8, "t": 9, "n": 10, "v": 11, "f": 12, "r": 13, "e": 27, '"': 34, "'": 39, "?": 63, "\\": 92}


class _Reader:
    """What is left of the text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def error(self, what: str, at: int | None = None) -> ConfigError:
        return ConfigError(f"{self.text!r}, column {(self.at if at is None else at) + 1}: {what}")

    def found(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self.text, self.at)
        if match:
            self.at = match.end()
        return match

    def take(self, pattern: re.Pattern[str], what: str) -> str:
        match = self.found(pattern)
        if match is None:
            raise self.error(f"expected {what}")
        return match[1]

    def end(self) -> None:
        if not self.found(_REST):
            raise self.error("something behind the call; a result begins with '='")

    def argument(self, argument: Field) -> int | bytes:
        """A register's value, or the bytes that it points to."""
        kind = argument.kind
        start = self.at
        if isinstance(kind, String | Buffer):
            return self._pointed(argument)
        if isinstance(kind, Address):
            return 0 if self._null() else PLACES if self.found(_STRUCT) or self.found(_STRING) else self._sum(argument)
        value = self._sum(argument)
        bits = kind.bits if isinstance(kind, Integer | Flags) else 64
        if bits and not -(1 << (bits - 1)) <= value < 1 << bits:
            raise self.error(f"{argument.name} is {value}; it has {bits} bits", start)
        return value

    def _null(self) -> bool:
        before = self.at
        match = self.found(_WORDS)
        if match and match[1] == "NULL":
            return True
        self.at = before
        return False

    def _pointed(self, argument: Field) -> int | bytes:
        if self._null():
            return 0
        start = self.at
        match = self.found(_STRING)
        if match is None:
            raise self.error(f"expected {argument.name}: a string in double quotes, or NULL")
        if match[2]:
            raise self.error(f"{argument.name} was cut short when it was printed; the whole of it is needed", start)
        value = self._unescape(match[1], start)
        if b"\0" in value and isinstance(argument.kind, String):
            raise self.error(f"{argument.name} has a NUL inside, where it would end", start)
        return value

    def _unescape(self, body: str, start: int) -> bytes:
        """Escapes are bytes; everything else is text, of which the kernel would get the UTF-8."""
        out, at = b"", 0
        for match in _ESCAPE.finditer(body):
            octal, hexadecimal, other = match.groups()
            if other is not None and other not in _ESCAPED:
                raise self.error(f"unknown escape \\{other}", start)
            code = _ESCAPED[other] if other is not None else int(octal, 8) if octal else int(hexadecimal, 16)
            if code > 0xFF:  # noqa: PLR2004 - a byte
                raise self.error(f"\\{octal} is more than a byte", start)
            out += body[at : match.start()].encode("utf-8", "surrogateescape") + bytes([code])
            at = match.end()
        return out + body[at:].encode("utf-8", "surrogateescape")

    def _sum(self, argument: Field) -> int:
        """Numbers and names, or-ed."""
        value = self._term(argument)
        while self.found(_OR):
            value |= self._term(argument)
        return value

    def _term(self, argument: Field) -> int:
        start = self.at
        if match := self.found(_NUMBER):
            return _number(match[1])
        if match := self.found(_DEVICE):
            return os.makedev(_number(match[1]), _number(match[2]))
        match = self.found(_WORDS)
        if match is None:
            raise self.error(f"expected {argument.name}: {_expected(argument.kind)}")
        names = {**NUMBERS, **_names(argument.kind)}
        if match[1] not in names:
            raise self.error(f"{match[1]} is no {argument.name}; {_expected(argument.kind)}", start)
        return names[match[1]]


def _names(kind: Kind) -> dict[str, int]:
    names = getattr(kind, "names", None)
    return {name: int(value) for name, value in names.__members__.items()} if names else {}


def _expected(kind: Kind) -> str:
    names = ", ".join(_names(kind))
    return f"a number, or names joined by '|' ({names})" if names else "a number"


def _number(text: str) -> int:
    """C's notation, in which a leading 0 means octal, and Python's 0o."""
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
    if len(digits) > 1 and digits[0] == "0" and digits[1].isdigit():
        return sign * int(digits, 8)
    return sign * int(digits, 0)


def _check_lengths(parsed: CallText, reader: _Reader) -> None:
    """A buffer is as long as the argument that says so: anything else would be another call."""
    fields = {f.name: f for f in parsed.row.signature.fields}
    for argument in fields.values():
        if isinstance(argument.kind, Buffer):
            length = fields[argument.kind.length]
            said = length.kind.value(parsed.registers[length.register], Arch.X86_64)
            given = len(parsed.memory.get(parsed.registers[argument.register], b""))
            if said != given:
                raise reader.error(f"{argument.name} has {given} bytes, but {length.name} is {said}", 0)
