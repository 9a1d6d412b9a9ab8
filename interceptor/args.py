"""Registers to values: the declarative decoder, renderer and vocabulary of system call arguments.

A handler's args class is a frozen dataclass whose fields stand in register order; each field's type is one of the
aliases below (an `Annotated` with a `Kind`). From it follow the decoder (what is read from the tracee, how wide,
which errno when it cannot be), the strace-like rendering and the names that policy rules may use.

Memory is read in one batch per call, before anything is decided, so that a string has one value for its whole life
here, whatever the tracee writes meanwhile.

Source: syscall(2) for the calling conventions; Linux fs/namespace.c copy_mount_string(), copy_mount_options(),
fs/namei.c getname_flags() for the limits and their errnos.
"""

from __future__ import annotations

import enum
import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, NamedTuple, get_type_hints

PATH_MAX = 4096
PAGE_SIZE = 4096


class Arch(enum.IntEnum):
    """AUDIT_ARCH_* (linux/audit.h) of the architectures that a tracee may have."""

    X86_64 = 0xC000003E
    I386 = 0x40000003
    AARCH64 = 0xC00000B7

    @property
    def register_mask(self) -> int:
        """What of a register counts: the upper half of a 32-bit task's is not its own."""
        return 0xFFFF_FFFF if self is Arch.I386 else 0xFFFF_FFFF_FFFF_FFFF

    @classmethod
    def here(cls) -> Sequence[Arch]:
        """Those that a tracee on this machine may have."""
        return {"x86_64": (cls.X86_64, cls.I386), "aarch64": (cls.AARCH64,)}.get(os.uname().machine, tuple(cls))


X32_SYSCALL_BIT = 0x4000_0000
"""__X32_SYSCALL_BIT (asm/unistd.h): an x32 call has x86-64's AUDIT_ARCH and this bit in `nr`; refused with ENOSYS."""


class Directory(enum.IntEnum):
    """Instead of a descriptor (linux/fcntl.h)."""

    AT_FDCWD = -100


class Kind:
    """How one register becomes a value. Subclasses are values: immutable and compared by content."""

    pointer: ClassVar[bool] = False

    def value(self, register: int, arch: Arch) -> Any:
        raise NotImplementedError

    def render(self, value: Any) -> str:
        return str(value)


@dataclass(frozen=True)
class Integer(Kind):
    """A number of `bits` width as C would truncate it; `bits=0` is `long`, the architecture's own width.

    `names` are the constants that it is compared with: not bits, but one value or another.
    """

    bits: int
    signed: bool = False
    hexadecimal: bool = False
    names: type[enum.IntEnum] | None = None

    def value(self, register: int, arch: Arch) -> int:
        bits = self.bits or arch.register_mask.bit_length()
        value = register & ((1 << bits) - 1)
        return value - (1 << bits) if self.signed and value >> (bits - 1) else value

    def render(self, value: int) -> str:
        name = next((m.name for m in self.names or () if m == value), None)
        return name or (hex(value) if self.hexadecimal else str(value))


@dataclass(frozen=True)
class Flags(Kind):
    """A set of flags: an unsigned number with an `enum.IntFlag` that names its bits.

    `first`: the kernel refuses bits that have no name before it looks at any pointer. So where memory is not readable either,
    it is EINVAL; what is readable is for the handler to decide, as a later kernel may know more flags.
    """

    names: type[enum.IntFlag]
    bits: int = 0
    first: bool = False

    def value(self, register: int, arch: Arch) -> int:
        return register & ((1 << self.bits) - 1 if self.bits else arch.register_mask)

    def render(self, value: int) -> str:
        """``MS_NOSUID|MS_NODEV|0x80000000``, as strace does."""
        left, parts = value, []
        for member in self.names:
            if member.value and left & member.value == member.value:
                parts.append(member.name or hex(member.value))
                left &= ~member.value
        if left or not parts:
            parts.append(hex(left) if left else "0")
        return "|".join(parts)


@dataclass(frozen=True)
class String(Kind):
    """A NUL-terminated string in the tracee's memory, copied once; bytes, because the kernel knows no encoding.

    `limit` counts the NUL, as the kernel's own limits do. `too_long` is the kernel's errno for a string without a
    NUL within it; `partial` takes what is readable up to an unmapped page instead of EFAULT (copy_mount_options()).
    `lenient` takes None for whatever is no string, for calls that read a pointer or not as other arguments say: the kernel
    is then left to say what is wrong, and when. `unreadable` is what it takes instead
    where that is not the same as NULL.
    """

    limit: int = PATH_MAX
    null: bool = False
    too_long: int = errno.EINVAL
    empty: int | None = None
    partial: bool = False
    lenient: bool = False
    unreadable: bytes | None = None
    pointer: ClassVar[bool] = True

    def value(self, register: int, arch: Arch) -> int:
        return register & arch.register_mask

    def render(self, value: bytes | None) -> str:
        return "NULL" if value is None else "?" if value == UNREADABLE else quote(value)


UNREADABLE = b"\0"
"""What no string in memory can be: for `unreadable`."""


@dataclass(frozen=True)
class Buffer(Kind):
    """`length` bytes (the name of another field) in the tracee's memory, at most `limit`.

    `lenient` takes None for what cannot be read, and nothing for a length that is none: the handler says what is wrong.
    """

    length: str
    limit: int
    lenient: bool = False
    pointer: ClassVar[bool] = True

    def value(self, register: int, arch: Arch) -> int:
        return register & arch.register_mask

    def render(self, value: bytes | None) -> str:
        return "?" if value is None else quote(value)


@dataclass(frozen=True)
class Address(Kind):
    """A pointer that we do not follow."""

    def value(self, register: int, arch: Arch) -> int:
        return register & arch.register_mask

    def render(self, value: int) -> str:
        return hex(value) if value else "NULL"


Int = Annotated[int, Integer(32, signed=True)]
UInt = Annotated[int, Integer(32)]
ULong = Annotated[int, Integer(0, hexadecimal=True)]
Fd = Annotated[int, Integer(32, signed=True)]
DirFd = Annotated[int, Integer(32, signed=True, names=Directory)]
"""``int dfd`` of openat(2) and its like: a descriptor, or AT_FDCWD."""
Pointer = Annotated[int, Address()]
Path = Annotated[bytes, String(too_long=errno.ENAMETOOLONG, empty=errno.ENOENT)]
"""``const char __user *`` read by getname()."""
OptionalCStr = Annotated[bytes | None, String(null=True)]
"""``const char __user *`` read by strndup_user(…, PATH_MAX); NULL is a value."""
MaybeStr = Annotated[bytes | None, String(null=True, lenient=True)]
"""``const char __user *`` that the kernel reads or not, as other arguments say: None for NULL and for what is no string."""
OptionalData = Annotated[bytes | None, String(limit=PAGE_SIZE - 1, null=True, partial=True)]
"""mount(2)'s `data`: read as far as it goes, text up to the first NUL; path_mount() puts one at the end of the page."""


def quote(value: bytes) -> str:
    """A C string literal, at most 256 bytes of it, as strace prints it."""
    shown = value[:256]
    body = "".join(chr(b) if b in _PRINTABLE and b not in b'"\\' else _ESCAPES.get(b, f"\\{b:03o}") for b in shown)
    return f'"{body}"' + ("..." if len(value) > len(shown) else "")


_PRINTABLE = range(32, 127)
_ESCAPES = {0x0A: "\\n", 0x09: "\\t", 0x0D: "\\r", 0x22: '\\"', 0x5C: "\\\\"}


Want = tuple[int, int, bool]
"""One piece of memory to copy: (address, limit, terminated): at most `limit` bytes; up to and with a NUL when `terminated`.
"""


Reader = Callable[[Sequence[Want]], Sequence[bytes | None]]
"""Copies pieces of the tracee's memory. None is EFAULT. A piece that ends at an unmapped page is returned short; a
terminated piece holds its NUL when it has one, and otherwise what was readable."""


Decoder = Callable[[Sequence[int], Reader], Any]


class Field(NamedTuple):
    """One argument: its name, its register, its kind."""

    name: str
    register: int
    kind: Kind


@dataclass(frozen=True)
class Signature:
    """The decoder of one args class. `pointers` are its fields that are read from memory, in the kernel's order."""

    args: type[Any]
    fields: tuple[Field, ...]
    pointers: tuple[Field, ...]

    @classmethod
    def of(cls, args: type[Any]) -> Signature:
        """The signature that a frozen dataclass declares.

        Raises TypeError, naming the class and the field, when it is not of that form: a programmer's mistake.
        """
        if not is_dataclass(args) or not args.__dataclass_params__.frozen:  # type: ignore[attr-defined]
            raise TypeError(f"{args.__qualname__} must be a frozen dataclass: its fields are the registers of the call")
        hints = get_type_hints(args, include_extras=True)
        declared = tuple(Field(f.name, i, _kind(args, f.name, hints[f.name])) for i, f in enumerate(fields(args)))
        if len(declared) > 6:  # noqa: PLR2004 - struct seccomp_data has six
            raise TypeError(f"{args.__qualname__} has {len(declared)} fields; a system call has six registers")
        pointers = {f.name: f for f in declared if f.kind.pointer}
        copied = getattr(args, "COPIED", tuple(pointers))
        if sorted(copied) != sorted(pointers):
            raise TypeError(f"{args.__qualname__}.COPIED is {copied!r}; it must name every pointer: {', '.join(pointers)}")
        return cls(args, declared, tuple(pointers[name] for name in copied))

    def registers(self, registers: Sequence[int], arch: Arch) -> dict[str, Any]:
        """Field name → value as far as registers tell it: numbers, and addresses of what is pointed to."""
        return {f.name: f.kind.value(registers[f.register], arch) for f in self.fields}

    def decoder(self, arch: Arch) -> Decoder:
        """The decoder for one architecture: (registers, read) → an instance of the args class.

        It raises OSError with the kernel's errno (EFAULT, ENAMETOOLONG, EINVAL, ENOENT) for memory that cannot be what
        the call needs; of several, that of the field which the kernel copies first: in register order, or as a class
        attribute COPIED of the args class says.

        Made once and kept: all containers share it.
        """
        return _decoder(self, arch)

    def make_decoder(self, arch: Arch) -> Decoder:
        """A new one; see `decoder`."""
        make = self.args
        if not self.fields:
            nothing = make()
            return lambda _registers, _read: nothing
        convert = tuple(_converter(f.kind, arch) for f in self.fields)
        if not self.pointers:
            return lambda registers, _read: make(*[value(r) for value, r in zip(convert, registers, strict=False)])
        pointers = [(f.register, _wanted(f, self.fields, arch), f.kind) for f in self.pointers]
        first = [(f.register, unnamed) for f in self.fields if (unnamed := _refused_first(f.kind))]

        def decode(registers: Sequence[int], read: Reader) -> Any:
            values = [value(r) for value, r in zip(convert, registers, strict=False)]
            try:
                wants = [want(registers) for _, want, _ in pointers]
                pieces = iter(read([want for want in wants if want is not None]))
                for (at, _, kind), want in zip(pointers, wants, strict=True):
                    values[at] = _text(kind, next(pieces), want[1]) if want is not None else _absent(kind)
            except OSError as error:
                if any(values[at] & unnamed for at, unnamed in first):
                    raise OSError(errno.EINVAL, "flags that do not exist") from error
                raise
            return make(*values)

        return decode

    def decode(self, registers: Sequence[int], arch: Arch, read: Reader) -> Any:
        """One call decoded; see `decoder`."""
        return self.decoder(arch)(registers, read)

    def render(self, args: Any) -> str:
        """The argument list read aloud: ``"proc", "/proc", "proc", MS_NOSUID, NULL``."""
        return ", ".join(f.kind.render(getattr(args, f.name)) for f in self.fields)

    def render_registers(self, registers: Sequence[int], arch: Arch) -> str:
        """The same where memory was not read: a pointer is its address."""
        values = self.registers(registers, arch)
        return ", ".join((Address() if f.kind.pointer else f.kind).render(values[f.name]) for f in self.fields)


@cache
def _decoder(signature: Signature, arch: Arch) -> Decoder:
    return signature.make_decoder(arch)


def _kind(args: type[Any], name: str, hint: Any) -> Kind:
    for extra in getattr(hint, "__metadata__", ()):
        if isinstance(extra, Kind):
            return extra
    raise TypeError(
        f"{args.__qualname__}.{name} is annotated {hint!r}; it must be one of the types of interceptor.args"
    )


@cache
def _converter(kind: Kind, arch: Arch) -> Callable[[int], Any]:
    """`kind.value` for one architecture; calls have many arguments of few kinds."""
    if isinstance(kind, String | Buffer | Address) or (isinstance(kind, Flags) and not kind.bits):
        return arch.register_mask.__and__
    return lambda register: kind.value(register, arch)


def _wanted(field: Field, fields: Sequence[Field], arch: Arch) -> Callable[[Sequence[int]], Want | None]:
    """What has to be copied for one pointer; None for a NULL that is a value and for an empty buffer."""
    at, kind, width = field.register, field.kind, arch.register_mask
    if isinstance(kind, Buffer):
        name, limit = kind.length, kind.limit
        count, convert = next((f.register, _converter(f.kind, arch)) for f in fields if f.name == name)

        def buffer(registers: Sequence[int]) -> Want | None:
            length = convert(registers[count])
            if not 0 <= length <= limit:
                if kind.lenient:
                    return None
                raise OSError(errno.EINVAL, f"{name} is {length}; at most {limit} are taken")
            return (registers[at] & width, length, False) if length else None

        return buffer
    assert isinstance(kind, String)  # noqa: S101 - the only other kind with pointer = True
    return _wanted_string(at, kind.null, kind.limit, width)


@cache
def _wanted_string(at: int, null: bool, bound: int, width: int) -> Callable[[Sequence[int]], Want | None]:
    def string(registers: Sequence[int]) -> Want | None:
        address = registers[at] & width
        return None if null and not address else (address, bound, True)

    return string


def _absent(kind: Kind) -> bytes | None:
    """The value of a pointer for which nothing is copied: NULL, or no bytes."""
    return None if isinstance(kind, String) else b""


def _refused_first(kind: Kind) -> int:
    """The bits that are refused before any pointer is looked at."""
    if not isinstance(kind, Flags) or not kind.first:
        return 0
    return ~sum(int(flag) for flag in kind.names)


def _leniently(kind: String | Buffer, piece: bytes | None, limit: int) -> bytes | None:
    """The value of one piece, or None for what is none."""
    if isinstance(kind, Buffer):
        return piece if piece is not None and len(piece) == limit else None
    body, nul, _ = (piece or b"").partition(b"\0")
    return body if nul else kind.unreadable


def _text(kind: Kind, piece: bytes | None, limit: int) -> bytes | None:
    """The value of one copied piece, or the kernel's errno for it."""
    assert isinstance(kind, String | Buffer)  # noqa: S101 - the only kinds with pointer = True
    if kind.lenient:
        return _leniently(kind, piece, limit)
    if piece is None:
        raise OSError(errno.EFAULT, "unreadable")
    if isinstance(kind, Buffer):
        if len(piece) < limit:
            raise OSError(errno.EFAULT, "unreadable")
        return piece
    body, nul, _ = piece.partition(b"\0")
    if not nul and not kind.partial:
        raise OSError(kind.too_long if len(piece) >= limit else errno.EFAULT, "not terminated")
    if not body and kind.empty is not None:
        raise OSError(kind.empty, "empty")
    return body
