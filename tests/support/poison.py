"""Every call of the registry with arguments as no program should give them: the cases, and the program that makes them.

What a case is made of follows from the args class: each field in turn gets the values of its kind while the others are
good, and each two of them bad ones at once, which shows whom the kernel looks at first. Good values follow from the field's
name, or stand in GOOD. So a call that is new in the registry has its cases without a word here.
"""

from __future__ import annotations

import errno
import itertools
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from interceptor.args import Address, Arch, Buffer, Flags, Integer, String
from interceptor.registry import resolve

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from interceptor.args import Field
    from interceptor.registry import Syscall

POISON = 0xDEADBEEF_00000000
"""Garbage in the upper half of a register whose lower half counts."""
PAGE = 4096
ROOM = 512
"""Pages for what lies nowhere in particular."""
ALL = 0xFFFF_FFFF_FFFF_FFFF
AT_FDCWD = -100 & ALL
DIRECTORY, FILE, PATH_ONLY, TMPFS, PROC, OVERLAY, TMPFS_MADE, PROC_MADE, MOUNT, PROC_MOUNT = range(3, 13)
"""The program's descriptors, in the order in which `prepared` opens them."""

Value = int | bytes | str
"""An argument: a number, memory that is pointed to, or a string."""

END, MAP, PROTECT, PUT, TRY, DO, UNDO = range(7)
"""The words of poison.c."""
READ, WRITE = 1, 2

REPORT = struct.Struct("=q9I65s65s2x")
"""struct report; i386 aligns a long long to 4 bytes, but it is the first."""


class Report(NamedTuple):
    """What came of one call, and what there is afterwards."""

    result: int
    status: int
    after: tuple[object, ...]

    def __str__(self) -> str:
        """``EPERM``, or ``ok``."""
        if self.status:
            return f"killed by signal {self.status & 127}"
        return errno.errorcode.get(-self.result, str(self.result)) if self.result < 0 else "ok"


def reports(output: bytes) -> list[Report]:
    """What the program writes."""
    size = REPORT.size
    rows = [REPORT.unpack(output[at : at + size]) for at in range(0, len(output), size)]
    return [Report(row[0], row[1], tuple(row[2:])) for row in rows]


class Memory:
    """The program's memory, at addresses that both ABIs have. The same content lies at one place."""

    def __init__(self) -> None:
        self.words: list[bytes] = []
        self._next = 0x2000_0000
        self._placed: dict[tuple[str, bytes], int] = {}
        self.nothing = self._pages(1, 0)
        self._room = self._pages(ROOM)
        self._end = self._room + ROOM * PAGE

    def _pages(self, count: int, protection: int = READ | WRITE, data: bytes = b"", at: int = 0) -> int:
        """An address `at` bytes into `count` fresh pages that hold `data` there; the page behind them is not mapped."""
        start = self._next
        self._next += (count + 1) * PAGE
        self.words.append(words(MAP, start, count * PAGE))
        if data:
            self._put(start + at, data)
        if protection != READ | WRITE:
            self.words.append(words(PROTECT, start, count * PAGE, protection))
        return start + at

    def _put(self, at: int, data: bytes) -> None:
        self.words.append(words(PUT, at, len(data)) + data.ljust(-len(data) % 8 + len(data), b"\0"))

    def _once(self, how: str, data: bytes, count: int, at: int, protection: int = READ | WRITE) -> int:
        if (how, data) not in self._placed:
            self._placed[how, data] = self._pages(count, protection, data, at)
        return self._placed[how, data]

    def _packed(self, how: str, data: bytes, at: int) -> int:
        """At `at` bytes into a page of one piece of memory that all share: a process of few pieces is quickly copied."""
        if (how, data) not in self._placed:
            start = self._room + at
            self._room += (at + len(data) + PAGE - 1) // PAGE * PAGE
            assert self._room <= self._end, "make ROOM larger"
            self._put(start, data)
            self._placed[how, data] = start
        return self._placed[how, data]

    def plain(self, data: bytes) -> int:
        return self._packed("plain", data, 0)

    def at_end(self, data: bytes) -> int:
        """Its last byte is the last that is mapped."""
        count = (len(data) + PAGE - 1) // PAGE or 1
        return self._once("at end", data, count, count * PAGE - len(data))

    def crossing(self, data: bytes) -> int:
        return self._packed("crossing", data, PAGE - len(data) // 2)

    def read_only(self, data: bytes) -> int:
        return self._once("read-only", data, len(data) // PAGE + 1, 0, READ)


def words(*values: int) -> bytes:
    return struct.pack(f"={len(values)}Q", *(value & ALL for value in values))


# What is good -------------------------------------------------------------------------------------------------------

STRINGS: Mapping[str, str] = {"pathname": "node", "target": "mnt", "to_path": "mnt", "from_path": ""}
NUMBERS: Mapping[str, int] = {
    "fd": FILE, "dirfd": DIRECTORY, "dfd": DIRECTORY, "from_dfd": MOUNT, "to_dfd": AT_FDCWD,
    "size": 16, "len": 16, "length": 5, "usize": 16,
}  # fmt: skip
"""By the field's name; other strings are "file", other numbers 0, other memory 512 zeros."""

TIMES = tuple({"buf": struct.pack("=I", modes) + bytes(508)} for modes in (0, 2, 0x4000, 0x8001, 0x100))
OVERLAYS = "lowerdir=directory,upperdir=upper,workdir=work"
ATTRIBUTE = {"path": "file", "name": "trusted.poison"}
SET = {**ATTRIBUTE, "value": "value", "size": 5}
UARGS = {"dfd": AT_FDCWD, **ATTRIBUTE}
NODES = ({"mode": 0o20666, "dev": 0x103}, {"mode": 0o20666}, {"mode": 0o60666, "dev": 0x800})
OWNER = {"pathname": "file", "owner": 1, "group": 1}

MODULE = b"\x7fELF\2\1\1" + bytes(505)

GOOD: Mapping[str, Sequence[Mapping[str, Value]]] = {
    **dict.fromkeys(("adjtimex", "clock_adjtime", "clock_adjtime64"), TIMES),
    "mount": (
        {"fstype": "tmpfs", "data": "size=1m"},
        {"fstype": "proc", "data": ""},
        {"fstype": "sysfs", "data": ""},
        {"fstype": "overlay", "data": OVERLAYS},
        {"fstype": "nonsense", "data": ""},
    ),
    "fsopen": ({"fsname": "tmpfs"}, {"fsname": "proc"}, {"fsname": "overlay"}, {"fsname": "nonsense"}),
    "fsconfig": tuple(
        {"fd": context, **rest}
        for context in (TMPFS, PROC, OVERLAY)
        for rest in (
            {"cmd": 1, "key": "source", "value": "x"},
            {"cmd": 0, "key": "ro", "value": 0},
            {"cmd": 6, "key": 0, "value": 0},
        )
    ),
    "fsmount": tuple({"fd": context} for context in (TMPFS, PROC, OVERLAY, TMPFS_MADE, PROC_MADE)),
    "move_mount": ({"flags": 4}, {"flags": 4, "from_dfd": PROC_MOUNT}, {"from_dfd": AT_FDCWD, "from_path": "directory"}),
    "open_tree": ({"filename": "directory", "dfd": AT_FDCWD}, {"filename": "directory", "dfd": AT_FDCWD, "flags": 1}),
    "fspick": ({"path": "mnt", "dfd": AT_FDCWD},),
    "mount_setattr": ({"path": "mnt", "dfd": AT_FDCWD, "usize": 32},),
    **dict.fromkeys(("sethostname", "setdomainname"), ({"name": "abcde"},)),
    "mknod": NODES,
    "mknodat": NODES,
    **dict.fromkeys(("chown", "lchown", "chown32", "lchown32", "fchown", "fchown32"), (OWNER,)),
    "fchownat": ({**OWNER, "pathname": "../file"}, {"dirfd": FILE, "pathname": "", "owner": 1, "group": 1, "flags": 0x1000}),
    **dict.fromkeys(("setxattr", "lsetxattr", "fsetxattr"), (SET, {**SET, "name": "user.poison"})),
    **dict.fromkeys(
        ("getxattr", "lgetxattr", "fgetxattr", "removexattr", "lremovexattr", "fremovexattr", "removexattrat"),
        (UARGS, {**UARGS, "name": "user.poison"}),
    ),
    **dict.fromkeys(("listxattr", "llistxattr", "flistxattr", "listxattrat"), ({"path": "file", "dfd": AT_FDCWD, "size": 64},)),
    "reboot": tuple({"magic1": 0xFEE1DEAD, "magic2": 0x28121969, "cmd": cmd} for cmd in (0, 0x89ABCDEF)),
    "sched_getaffinity": ({"len": 128},),
    "sched_setparam": ({"param": struct.pack("=i", 5)}, {"param": bytes(4)}),
    "sched_setattr": tuple(
        {"attr": struct.pack("=IIQiIQQQII", size, policy, 0, nice, 5 if policy else 0, 0, 0, 0, 0, 0) + bytes(64)}
        for size, policy, nice in ((48, 0, -3), (0, 0, -3), (56, 1, 0), (56, 2, 0), (120, 0, -3), (40, 0, 0))
    ),
    "setrlimit": ({"resource": 7}, {"resource": 7, "rlim": struct.pack("=QQ", 1 << 20, 1 << 20)}),
    "prlimit64": ({"resource": 7, "new_limit": struct.pack("=QQ", 1 << 20, 1 << 20)}, {"resource": 7}),
    "ioctl": tuple({"op": op} for op in (0x4C00, 0x4C01, 0x4C05, 0x4C0A, 0x4C82)),
    "init_module": ({"len": 512}, {"len": 512, "module_image": MODULE}),
    "sched_setscheduler": tuple({"policy": policy, "param": struct.pack("=i", 5)} for policy in (0, 1, 2)),
    "setpriority": ({"prio": -3 & ALL}, {"prio": 5}),
    "ioprio_set": ({"which": 1, "ioprio": 0x2004},),
    "seccomp": ({"operation": 1, "flags": 8},),
    "syslog": tuple({"type": kind} for kind in range(12)),
}  # fmt: skip
"""Call → sets of good arguments, as far as they are not what their names say."""


def good(row: Syscall) -> Iterator[dict[str, Value]]:
    """The sets of good arguments of a call, each complete. Fields that this form of the call has not are left out."""
    for given in GOOD.get(row.name, ({},)):
        yield {f.name: given[f.name] if f.name in given else _by_name(f) for f in row.signature.fields}


def _by_name(one: Field) -> Value:
    if isinstance(one.kind, String | Buffer):
        return STRINGS.get(one.name, "file")
    return bytes(512) if isinstance(one.kind, Address) else NUMBERS.get(one.name, 0)


# What is bad --------------------------------------------------------------------------------------------------------

NUMBERS_TRIED = (
    0, 1 << 30, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, ALL, 1 << 32, POISON,
)  # fmt: skip
SIZES_TRIED = (1, 4, 5, 6, 15, 17, 31, 32, 33, 64, 65, 4096, 4097, 65536, 65537, POISON | 6)
FDS_TRIED = (99, DIRECTORY, FILE, PATH_ONLY, TMPFS, MOUNT, AT_FDCWD, AT_FDCWD & 0xFFFF_FFFF)
TRIED: Mapping[str, Sequence[int]] = {
    **dict.fromkeys(("size", "len", "length", "usize"), SIZES_TRIED),
    **dict.fromkeys(("fd", "dirfd", "dfd", "from_dfd", "to_dfd"), FDS_TRIED),
    "mode": (0o20000, 0o20777, 0o27777, 0o20000 | 1 << 16, POISON | 0o20644, 0o170000, 0o30600, 0o100644, 0o10600, 0o140600),
    "dev": (0x103, 0x105, 0xAE5, 0xAC8, 0x800, POISON | 0x103),
    "owner": (1, POISON | 1),
    "group": (1, POISON | 1),
    "cmd": tuple(range(10)),
    "op": (0x80000100, 0x80000101, 0x80000700, *range(0x4C00, 0x4C0B)),
    "resource": (3, 7, 8, 14, 15, 16),
    "clk_id": (1, 2, 7, 11),
    "policy": (1, 2, 3, 5, 6, 7, 0x4000_0001),
    "which": (1, 2, 3, 4),
    "prio": (-5 & ALL, -6 & ALL, -20 & ALL, -21 & ALL, 19, 20, -1 & 0xFFFF_FFFF),
    "ioprio": (0x2003, 0x2004, 0x2007, 0x2008, 0x4000, 0x6000, 0x8000),
    "flags": (0xC0ED_0000, 0xC0ED_0001),
    "attr_flags": (0x10, 0x20, 0x30, 0x40, 0x70, 0x100000, 0x200000),
}  # fmt: skip
"""Further values, by the field's name."""
PATHS = (
    "node", "node/", "./node", "directory/../node", "directory", "directory/", "directory/.", "file/node", "file/",
    "nowhere/node", "link", "link/", "dangling", "dangling/", "loop/node", "to-directory", "to-directory/node", "mnt/",
)  # fmt: skip
NAMES = (
    "user.poison", "trusted", "trusted.", "trusted.nothing", "nonsense", "trusted.\xff", "x" * 255, "trusted." + "x" * 247,
    "x" * 256,
)  # fmt: skip
STRINGS_TRIED: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(("path", "pathname", "target", "to_path", "filename", "specialfile"), PATHS),
    "name": NAMES,
}
ENDS = (1, 3, 4, 7, 8, 15, 16, 31, 32, 63, 64, 103, 104, 111, 112, 127, 128, 207, 208)
"""How many bytes are there before memory ends: structures of all sizes fit just, or not quite."""


def tried(one: Field, value: Value, memory: Memory, arch: Arch) -> Iterator[tuple[str, int]]:
    """What one register holds in turn, with its label."""
    kind = one.kind
    if kind.pointer or isinstance(kind, Address):
        yield from _pointers(one, value, memory, arch)
        return
    assert isinstance(value, int)
    numbers = {*NUMBERS_TRIED, *TRIED.get(one.name, ()), (value + 1) & ALL, value | POISON}
    if isinstance(kind, Flags):
        numbers |= {1 << bit for bit in range(kind.bits or 64)} | {value | 1 << bit for bit in range(32)}
    if one.name == "resource":  # without CPU time, resource 0, the caller would end at the next tick
        numbers = {number for number in numbers if number & 0xFFFF_FFFF}
    width = arch.register_mask if one.kind != Integer(0) else ALL
    for number in sorted(numbers):
        if number <= width or number & ALL == number:
            yield f"{number:#x}", number


def _pointers(one: Field, value: Value, memory: Memory, arch: Arch) -> Iterator[tuple[str, int]]:
    data = _bytes(value)
    yield from (("NULL", 0), ("1", 1), ("not mapped", 0x1000), ("PROT_NONE", memory.nothing), ("all ones", arch.register_mask))
    if arch is Arch.X86_64:
        yield from (("kernel", 0xFFFF_FFFF_8100_0000), ("not canonical", 0x7FFF_FFFF_FFFF_0000))
        yield "end of user space", (1 << 47) - PAGE
    else:
        yield "kernel", 0xFFFF_E000
    yield "upper half", memory.plain(data) | POISON
    yield "ends with the page", memory.at_end(data)
    yield "crosses pages", memory.crossing(data)
    yield "read-only", memory.read_only(data)
    if isinstance(one.kind, Address):
        yield from ((f"{size} bytes", memory.at_end(data[:size])) for size in ENDS if size < len(data))
        return
    yield "empty", memory.plain(b"\0")
    yield "open at the end", memory.at_end(b"xyz")
    yield from ((f"{size} long", memory.at_end(b"x" * size + b"\0")) for size in (254, 255, 256, 257, 4094, 4095, 4096, 5000))
    yield "5000 open", memory.at_end(b"x" * 5000)
    yield "no end", memory.at_end(b"x" * 3 * PAGE)
    yield from ((repr(text)[:24], memory.plain(_bytes(text))) for text in STRINGS_TRIED.get(one.name, ()))


def both(one: Field, memory: Memory) -> Sequence[tuple[str, int]]:
    """What two registers hold at once."""
    if one.kind.pointer:
        return ("unreadable", 1), ("5000 long", memory.at_end(b"x" * 5000 + b"\0")), ("empty", memory.plain(b"\0"))
    return (("unreadable", 1),) if isinstance(one.kind, Address) else (("-1", ALL),)


def _bytes(value: Value) -> bytes:
    if isinstance(value, int):
        return b"x\0"  # of a good value NULL
    return value if isinstance(value, bytes) else value.encode("latin-1") + b"\0"


# The list -----------------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """One call that is tried. `what` names the set of good arguments and what is changed."""

    call: str
    what: str

    def __str__(self) -> str:
        return f"{self.call}: {self.what}"


@dataclass
class Script:
    """What the program shall do; its reports are of `cases`, in their order."""

    arch: Arch
    own: Arch
    """Of the program; calls are made by the other ABI where `arch` is another."""
    memory: Memory = field(default_factory=Memory)
    cases: list[Case] = field(default_factory=list)
    _body: list[bytes] = field(default_factory=list)

    def text(self) -> bytes:
        return b"".join([*self.memory.words, *self._body, words(END)])

    def do(self, name: str, *values: Value, how: int = DO) -> None:
        """A call that is not looked at; a number of more than 32 bits is one of the own ABI."""
        self._call(how, self.own, name, [self.register(value) for value in values])

    def register(self, value: Value) -> int:
        return value & ALL if isinstance(value, int) else self.memory.plain(_bytes(value))

    def trial(self, row: Syscall, what: str, registers: Sequence[int], undo: Sequence[tuple[Any, ...]] = ()) -> None:
        self.cases.append(Case(row.name, what))
        self._call(TRY, self.arch, row.name, registers)
        for name, *values in undo:
            held = [registers[value.at] & self.arch.register_mask if isinstance(value, Of) else value for value in values]
            self.do(name, *held, how=UNDO)

    def _call(self, how: int, arch: Arch, name: str, registers: Sequence[int]) -> None:
        number = resolve(name, arch)
        assert number is not None, name
        abi = 64 if arch is Arch.X86_64 else 32
        self._body.append(words(how, abi, number, *registers, *[0xDEAD] * (6 - len(registers))))


MNT_DETACH = 2
NAMES_UNDONE = tuple(("setxattr", "file", name, "value", 5, 0) for name in ("trusted.poison", "user.poison"))
NAMED = (("sethostname", "box", 3), ("setdomainname", "example", 7))
OWNED = tuple(("lchown", at, 0, 0) for at in ("file", "link", "directory", "mnt"))
TMPFS_THERE = (("mount", "none", "mnt", "tmpfs", 0, 0),)


@dataclass(frozen=True)
class Of:
    """What register `at` of the call held that was tried."""

    at: int


UNDO_CALLS: Mapping[str, Sequence[tuple[Any, ...]]] = {
    "mount": (("umount2", Of(1), MNT_DETACH),),
    "move_mount": (("umount2", Of(3), MNT_DETACH), ("umount2", "directory", MNT_DETACH)),
    "umount2": TMPFS_THERE,
    "mknod": (("unlink", Of(0)),),
    "mknodat": (("unlinkat", Of(0), Of(1), 0),),
    **dict.fromkeys(("sethostname", "setdomainname"), NAMED),
    **{f"{form}setxattr": ((f"{form}removexattr", Of(0), Of(1)),) for form in ("", "l", "f")},
    **{f"{form}removexattr": ((f"{form}setxattr", Of(0), Of(1), "value", 5, 0),) for form in ("", "l", "f")},
    **dict.fromkeys(("chown", "lchown", "fchown", "chown32", "lchown32", "fchown32", "fchownat"), OWNED),
}  # fmt: skip
"""Call → what undoes its success."""
BEFORE: Mapping[str, Sequence[tuple[Value, ...]]] = {
    **dict.fromkeys(("umount2", "fspick", "mount_setattr"), TMPFS_THERE),
    **dict.fromkeys((f"{form}{what}xattr" for what in ("get", "list", "remove") for form in ("", "l", "f")), NAMES_UNDONE),
    **dict.fromkeys(("getxattrat", "listxattrat", "removexattrat"), NAMES_UNDONE),
    **dict.fromkeys(
        ("setxattr", "lsetxattr", "fsetxattr", "setxattrat"), tuple(("removexattr", "file", call[2]) for call in NAMES_UNDONE)
    ),
}
"""Call → what is done before it is tried."""
AFTER = dict.fromkeys(("umount2", "fspick", "mount_setattr"), (("umount2", "mnt", MNT_DETACH),))

CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x1000_0000
ROOT, USER, NESTED = "root", "user", "nested"
WHO: Mapping[str, Sequence[tuple[Value, ...]]] = {
    ROOT: (),
    USER: (("setgroups", 0, 0), ("setresgid", 1000, 1000, 1000), ("setresuid", 1000, 1000, 1000)),
    NESTED: (("unshare", CLONE_NEWUSER | CLONE_NEWNS),),
}
"""Who makes the calls → how the program becomes that."""


def prepared(who: str, arch: Arch, own: Arch) -> Script:
    """A script whose program has its files and descriptors in its working directory, and is `who`."""
    script = Script(arch, own)
    script.do("close_range", 3, 0xFFFF_FFFF, 0)
    script.do("setpgid", 0, 0)
    script.do("close", 0)
    script.do("umask", 0o027)
    for name in ("directory", "mnt", "upper", "work"):
        script.do("mkdir", name, 0o755)
    script.do("mknod", "file", 0o100644, 0)
    for name, target in (("link", "file"), ("dangling", "nowhere"), ("loop", "loop"), ("to-directory", "directory")):
        script.do("symlink", target, name)
    for call in NAMED:
        script.do(str(call[0]), *call[1:])
    script.do("open", "directory", 0o200000)  # as 0: what a test gets for nothing is the same everywhere
    script.do("open", "directory", 0o200000)
    script.do("open", "file", 2)
    script.do("open", "file", 0o10000000)
    for fstype in ("tmpfs", "proc", "overlay", "tmpfs", "proc"):
        script.do("fsopen", fstype, 0)
    for made in (TMPFS_MADE, PROC_MADE):
        script.do("fsconfig", made, 6, 0, 0, 0)
    for made in (TMPFS_MADE, PROC_MADE):
        script.do("fsmount", made, 0, 0)
    for call in WHO[who]:
        script.do(str(call[0]), *call[1:])
    return script


def poisoned(rows: Mapping[str, Syscall], who: str, arch: Arch, own: Arch, *, bad: bool = True) -> Script:
    """Everything, or without `bad` the good arguments only."""
    script = prepared(who, arch, own)
    for row in rows.values():
        if row.number(arch) is None:
            continue
        for call in BEFORE.get(row.name, ()):
            script.do(str(call[0]), *call[1:])
        for number, values in enumerate(good(row)):
            _try_good(script, row, f"good {number}", values)
            if bad:
                _try_bad(script, row, f"good {number}", values)
        for call in AFTER.get(row.name, ()):
            script.do(str(call[0]), *call[1:])
    return script


def _try_good(script: Script, row: Syscall, label: str, values: Mapping[str, Value]) -> None:
    registers = [script.register(values[f.name]) for f in row.signature.fields]
    script.trial(row, label, registers, UNDO_CALLS.get(row.name, ()))


def _try_bad(script: Script, row: Syscall, label: str, values: Mapping[str, Value]) -> None:
    fields, undo = row.signature.fields, UNDO_CALLS.get(row.name, ())
    registers = [script.register(values[f.name]) for f in fields]
    for one in fields:
        for what, register in tried(one, values[one.name], script.memory, script.arch):
            changed = [*registers]
            changed[one.register] = register
            script.trial(row, f"{label}, {one.name} {what}", changed, undo)
    for one, other in itertools.combinations(fields, 2):
        for (what, bad), (also, worse) in itertools.product(both(one, script.memory), both(other, script.memory)):
            changed = [*registers]
            changed[one.register], changed[other.register] = bad, worse
            script.trial(row, f"{label}, {one.name} {what} and {other.name} {also}", changed, undo)
