"""The decoder: registers and copied memory to values, with the kernel's own errnos."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Annotated, ClassVar

import pytest

from interceptor.args import Arch, Buffer, Fd, Int, Path, Pointer, Signature, UInt, ULong, quote
from interceptor.handlers.mount import MountArgs
from interceptor.handlers.sethostname import NameArgs
from interceptor.handlers.umount2 import Umount2Args

POISON = 0xDEADBEEF_00000000


def reader(*pieces):
    """A Reader that gives `pieces` one after the other, and remembers what was wanted."""

    def read(wants):
        read.wants = list(wants)
        return pieces[: len(wants)]

    read.wants = []
    return read


@dataclass(frozen=True, slots=True)
class Numbers:
    fd: Fd
    count: UInt
    word: ULong
    address: Pointer
    signed: Int


def test_containers_share_one_decoder():
    assert Signature.of(Numbers).decoder(Arch.X86_64) is Signature.of(Numbers).decoder(Arch.X86_64)
    assert Signature.of(Numbers).decoder(Arch.X86_64) is not Signature.of(Numbers).decoder(Arch.I386)


def test_poisoned_upper_halves_do_not_count():
    registers = (POISON | 0xFFFFFFFF, POISON | 7, 5, 6, POISON | 0x80000000, POISON)
    decoded = Signature.of(Numbers).decode(registers, Arch.X86_64, reader())
    assert decoded == Numbers(fd=-1, count=7, word=5, address=6, signed=-(2**31))


def test_a_long_is_as_wide_as_the_architecture():
    registers = (0, 0, POISON | 5, POISON | 6, 0, 0)
    assert Signature.of(Numbers).decode(registers, Arch.X86_64, reader()).word == POISON | 5
    decoded = Signature.of(Numbers).decode(registers, Arch.I386, reader())
    assert (decoded.word, decoded.address) == (5, 6)


def test_mount_reads_its_strings_in_one_batch():
    read = reader(b"proc\0", b"none\0", b"/proc\0")
    decoded = Signature.of(MountArgs).decode((0x1000, 0x2000, 0x3000, 2, 0, 0), Arch.X86_64, read)
    assert decoded == MountArgs(b"none", b"/proc", b"proc", 2, None)
    assert [address for address, _, _ in read.wants] == [0x3000, 0x1000, 0x2000], "as do_mount() copies them"
    assert Signature.of(MountArgs).render(decoded) == '"none", "/proc", "proc", MS_NOSUID, NULL'


@pytest.mark.parametrize(
    ("pieces", "number"),
    [
        ((b"t\0", b"a\0", None), errno.EFAULT),
        ((b"t\0", b"a\0", b"/" * 4096), errno.ENAMETOOLONG),
        ((b"t\0", b"a\0", b"\0"), errno.ENOENT),
        ((b"t\0", b"a" * 4096, b"/x\0"), errno.EINVAL),
        ((b"t\0", b"a\0", b"/unterminated"), errno.EFAULT),
        ((b"t\0", None, b"/" * 4096), errno.EFAULT),
        ((b"t" * 4096, None, b"/x\0"), errno.EINVAL),
    ],
)
def test_memory_that_cannot_be_a_string_fails_as_in_the_kernel(pieces, number):
    """Type, source and target, in the order in which the kernel copies them."""
    with pytest.raises(OSError) as caught:
        Signature.of(MountArgs).decode((1, 2, 3, 0, 0, 0), Arch.X86_64, reader(*pieces))
    assert caught.value.errno == number


def test_mount_data_may_end_at_an_unmapped_page():
    decoded = Signature.of(MountArgs).decode(
        (1, 2, 3, 0, 5, 0), Arch.X86_64, reader(b"c\0", b"a\0", b"size=1", b"/b\0")
    )
    assert decoded.data == b"size=1"


@dataclass(frozen=True)
class BufferArgs:
    name: Annotated[bytes, Buffer("length", 64)]
    length: Int


def test_a_buffer_is_exactly_as_long_as_its_length_says():
    read = reader(b"na\0me")
    assert Signature.of(BufferArgs).decode((9, POISON | 5, 0, 0, 0, 0), Arch.X86_64, read) == BufferArgs(b"na\0me", 5)
    assert read.wants == [(9, 5, False)]
    with pytest.raises(OSError) as caught:
        Signature.of(BufferArgs).decode((9, 65, 0, 0, 0, 0), Arch.X86_64, read)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(OSError) as caught:
        Signature.of(BufferArgs).decode((9, 0xFFFFFFFF, 0, 0, 0, 0), Arch.X86_64, read)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    ("length", "pieces", "name"),
    [(5, (b"na\0me",), b"na\0me"), (5, (b"na",), None), (5, (None,), None), (65, (), b""), (-1, (), b"")],
)
def test_a_lenient_buffer_leaves_its_mistakes_to_the_handler(length, pieces, name):
    decoded = Signature.of(NameArgs).decode((9, length & 0xFFFFFFFF, 0, 0, 0, 0), Arch.X86_64, reader(*pieces))
    assert decoded == NameArgs(name, length)


@pytest.mark.parametrize(("flags", "number"), [(2, errno.EFAULT), (2 | 1 << 20, errno.EINVAL), (POISON | 2, errno.EFAULT)])
def test_flags_that_do_not_exist_are_told_before_memory_that_is_not_there(flags, number):
    with pytest.raises(OSError) as caught:
        Signature.of(Umount2Args).decode((9, flags, 0, 0, 0, 0), Arch.X86_64, reader(None))
    assert caught.value.errno == number
    there = Signature.of(Umount2Args).decode((9, flags, 0, 0, 0, 0), Arch.X86_64, reader(b"/x\0"))
    assert there.target == b"/x", "a later kernel may know more flags"


def test_an_args_class_is_a_frozen_dataclass_of_known_types():
    @dataclass
    class Thawed:
        fd: Fd

    @dataclass(frozen=True)
    class Untyped:
        fd: int

    @dataclass(frozen=True)
    class Seven:
        a: Int
        b: Int
        c: Int
        d: Int
        e: Int
        f: Int
        g: Int

    @dataclass(frozen=True)
    class Ordered:
        one: Path
        two: Path
        COPIED: ClassVar = ("two", "three")

    expected = {Ordered: "COPIED.*one, two", Thawed: "frozen", Untyped: r"Untyped\.fd", Seven: "six registers"}
    for wrong, message in expected.items():
        with pytest.raises(TypeError, match=message):
            Signature.of(wrong)


def test_flags_unknown_to_us_are_shown_in_hex():
    assert "MS_RDONLY|MS_NOSUID|0x80000000" in Signature.of(MountArgs).render(
        MountArgs(None, b"/", None, 0x80000003, None)
    )


def test_pointers_are_addresses_where_memory_was_not_read():
    shown = Signature.of(MountArgs).render_registers((0, 0x7F00, 0x10, 0, 0, 0), Arch.X86_64)
    assert shown == "NULL, 0x7f00, 0x10, 0, NULL"


def test_quote_is_a_c_literal():
    assert quote(b'a"b\\c\n\x01\xff') == '"a\\"b\\\\c\\n\\001\\377"'
    assert quote(b"x" * 300).endswith('"...')


def test_names_are_resolved_through_annotated():
    @dataclass(frozen=True)
    class Mixed:
        path: Path
        data: Annotated[bytes, Buffer("size", 16)]
        size: Int

    assert [f.name for f in Signature.of(Mixed).pointers] == ["path", "data"]
