"""init_module(2), finit_module(2), delete_module(2): modules are the host's; of the container's file only the name counts.

Programs load what they are about to use (iptables, dockerd, kubelet, systemd-modules-load) and want to know whether it
works. So a module that is loaded or built in is a success, and one that policy lists (`limits: modules:`) is loaded by the
host's own modprobe: the host's file, with the host's parameters. Nothing of the container's reaches the kernel but a name.
The name is the one that the file says of itself, in its section .modinfo; parsed in Python, a few bounded reads of it.

A compressed file is ENOSYS, as on a kernel without finit_module(2): kmod then decompresses it itself and asks again by
init_module(2). modprobe(8) looks first whether a module is in /sys/module, and needs the container's own
/lib/modules/RELEASE to know any other by name; without it, it fails before it calls anything.
Left to the kernel: callers in nested user namespaces.

Source: init_module(2), delete_module(2); Linux kernel/module/main.c find_module_all(), setup_load_info(); elf(5).
"""

from __future__ import annotations

import enum
import errno
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from interceptor.args import PAGE_SIZE, Fd, Flags, Pointer, String, ULong
from interceptor.ports import Call, Cap, Namespace
from interceptor.registry import Needs, Redo, handles
from interceptor.verdict import Continue, Fail, Return, Verdict

Parameters = Annotated[bytes | None, String(limit=PAGE_SIZE, lenient=True)]


class ModuleFlag(enum.IntFlag):
    """MODULE_INIT_* (linux/module.h)."""

    MODULE_INIT_IGNORE_MODVERSIONS = 1
    MODULE_INIT_IGNORE_VERMAGIC = 2
    MODULE_INIT_COMPRESSED_FILE = 4


class DeleteFlag(enum.IntFlag):
    """What delete_module(2) looks at (fcntl.h)."""

    O_NONBLOCK = 0o4000
    O_TRUNC = 0o1000


@dataclass(frozen=True, slots=True)
class InitModuleArgs:
    """The three registers of init_module(2)."""

    module_image: Pointer
    len: ULong
    param_values: Parameters


@dataclass(frozen=True, slots=True)
class FinitModuleArgs:
    """The three registers of finit_module(2)."""

    fd: Fd
    param_values: Parameters
    flags: Annotated[int, Flags(ModuleFlag, bits=32)]


@dataclass(frozen=True, slots=True)
class DeleteModuleArgs:
    """The two registers of delete_module(2)."""

    name: Annotated[bytes, String(limit=PAGE_SIZE)]
    flags: Annotated[int, Flags(DeleteFlag, bits=32)]


NEEDS = Needs(Cap.SYS_MODULE, owner_of=Namespace.MOUNT)


@handles(
    "finit_module",
    needs=NEEDS,
    redo=Redo.HARMLESS,
    note="Success for what is loaded or built in; the host's own module of that name by `limits: modules:`; others EPERM.",
)
def finit_module(call: Call, args: FinitModuleArgs) -> Verdict:
    if call.tracee.in_nested_user_namespace:
        return _nested()
    if args.flags & ~sum(ModuleFlag):
        return Fail(errno.EINVAL)
    if args.flags & ModuleFlag.MODULE_INIT_COMPRESSED_FILE:
        call.why = "flags: the caller is to decompress the file itself, and to use init_module(2)"
        return Fail(errno.ENOSYS)
    fd = call.tracee.take(args.fd)
    return _load(call, module_name(lambda offset, size: call.agent.read_file(fd, offset, size)), args.param_values)


@handles("init_module", needs=NEEDS, redo=Redo.HARMLESS, note="As finit_module.")
def init_module(call: Call, args: InitModuleArgs) -> Verdict:
    if call.tracee.in_nested_user_namespace:
        return _nested()

    def read(offset: int, size: int) -> bytes:
        size = min(size, args.len - offset)
        return call.tracee.read(args.module_image + offset, size) if size > 0 else b""

    return _load(call, module_name(read), args.param_values)


@handles(
    "delete_module",
    needs=NEEDS,
    note="ENOENT for what is not loaded; others EPERM, also where policy has them loaded: the host may use them.",
)
def delete_module(call: Call, args: DeleteModuleArgs) -> Verdict:
    if call.tracee.in_nested_user_namespace:
        return _nested()
    name = args.name.decode("ascii", "replace").replace("-", "_")
    if not call.modules.present(name):
        return Fail(errno.ENOENT)
    return call.deny(errno.EPERM, f"name: module {name} is the host's", allow="calls: {delete_module: [{do: pretend}]}")


def _nested() -> Verdict:
    return Continue(because="modules are lent to the container's own user namespace only; the kernel refuses others")


def _load(call: Call, name: str | None, parameters: bytes | None) -> Verdict:
    if name is None:
        call.why = "the file is no module, or does not say its name"
        return Fail(errno.ENOEXEC)
    ignored = "; its parameters are the host's" if parameters else ""
    if call.modules.present(name):
        call.why = f"module {name} is there already{ignored}"
        return Return()
    listed = call.policy.limits.module(name)
    if listed is None:
        allow = f"limits: {{modules: [{name}]}}"
        return call.deny(
            errno.EPERM, f"module {name} is not among `limits: modules:` of the container's policy", allow=allow
        )
    call.rule = listed.rule
    call.modules.load(name)
    call.why = f"the host has loaded its module {name}{ignored}"
    return Return()


# What a module's file says of itself

Read = Callable[[int, int], bytes]
"""(offset, size) → as much of it as there is."""

_HEADER = struct.Struct("<4sBBB9x2H4x3Q4x6H")
"""Elf64_Ehdr: magic, class, byte order, version; type, machine; entry, phoff, shoff; ehsize … shstrndx."""
_SECTION = struct.Struct("<2I4Q2I2Q")
"""Elf64_Shdr: name, type; flags, addr, offset, size; link, info; addralign, entsize."""
ELFCLASS64, ELFDATA2LSB, ET_REL, SHT_STRTAB, SHT_NOBITS = 2, 1, 1, 3, 8
SECTIONS_MAX = 1 << 15
FILE_MAX = 1 << 40
NAMES_MAX = 1 << 20
INFORMATION_MAX = 1 << 16
NAME_MAX = 55


class Section(NamedTuple):
    """What counts of an Elf64_Shdr: bytes in the file."""

    name: int
    type: int
    offset: int
    size: int


def module_name(read: Read) -> str | None:
    """The name in a module's .modinfo; None for what is no module of this form. What it costs is bounded: a megabyte for
    names of sections, two for their headers.
    """
    header = read(0, _HEADER.size)
    if len(header) < _HEADER.size:
        return None
    magic, width, order, _, kind, _, _, _, offset, _, _, _, each, count, names_at = _HEADER.unpack(header)
    if (magic, width, order, kind, each) != (b"\x7fELF", ELFCLASS64, ELFDATA2LSB, ET_REL, _SECTION.size):
        return None
    if not 0 < names_at < count <= SECTIONS_MAX or offset > FILE_MAX:
        return None
    sections = _sections(read(offset, count * _SECTION.size))
    names = _content(read, sections[names_at], NAMES_MAX) if len(sections) == count else b""
    for section in sections:
        if names[section.name : section.name + 9] == b".modinfo\0":
            return _name_of(_content(read, section, INFORMATION_MAX))
    return None


def _sections(table: bytes) -> list[Section]:
    whole = table[: len(table) - len(table) % _SECTION.size]
    return [Section(row[0], row[1], row[4], row[5]) for row in _SECTION.iter_unpack(whole)]


def _content(read: Read, section: Section, limit: int) -> bytes:
    if section.type == SHT_NOBITS or section.size > limit or section.offset > FILE_MAX:
        return b""
    return read(section.offset, section.size)


def _name_of(information: bytes) -> str | None:
    for entry in information.split(b"\0"):
        if entry.startswith(b"name="):
            name = entry[5:]
            word = name.replace(b"-", b"_")
            return word.decode() if 0 < len(word) <= NAME_MAX and word.replace(b"_", b"a").isalnum() else None
    return None
