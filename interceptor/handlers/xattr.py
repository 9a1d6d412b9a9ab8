"""setxattr(2), getxattr(2), listxattr(2), removexattr(2) and their l-, f- and -at forms: trusted.* for the container's root.

Attributes of that class are what overlay layers and some daemons keep their marks in. The kernel shows and gives them to
root of the host only; lent are those of the container's own files (owner and group are ids of its own), so that what is set
is also read, listed and removed. They are real attributes: an overlay that is mounted for the container sees them. All
other names stay with the kernel, which C tells by the name's beginning where policy asks for ``trusted.*``.

Off unless a policy has a rule for a call: see policies/xattr.yaml.

Source: setxattr(2), getxattr(2), listxattr(2), removexattr(2), xattr(7); Linux fs/xattr.c xattr_permission(),
setxattr_copy(), import_xattr_name(), path_setxattrat().
"""

from __future__ import annotations

import enum
import errno
import struct
from dataclasses import dataclass
from typing import Annotated, ClassVar

from interceptor.args import PAGE_SIZE, DirFd, Fd, Flags, Integer, OptionalCStr, Path, Pointer, String
from interceptor.ports import AT_FDCWD, Call, Cap, Namespace, Way
from interceptor.registry import Needs, Redo, handles
from interceptor.verdict import Continue, Return, Verdict
from interceptor.wire import Anchor

TRUSTED = b"trusted."
NAME_MAX, SIZE_MAX, LIST_MAX = 255, 65536, 65536
"""XATTR_NAME_MAX, XATTR_SIZE_MAX, XATTR_LIST_MAX (linux/limits.h)."""


class XattrFlag(enum.IntFlag):
    """XATTR_* (linux/xattr.h)."""

    XATTR_CREATE = 1
    XATTR_REPLACE = 2


class AtFlag(enum.IntFlag):
    """AT_* (linux/fcntl.h) that these calls take."""

    AT_SYMLINK_NOFOLLOW = 0x100
    AT_EMPTY_PATH = 0x1000


SET_FLAGS = int(XattrFlag.XATTR_CREATE | XattrFlag.XATTR_REPLACE)
AT_FLAGS = int(AtFlag.AT_SYMLINK_NOFOLLOW | AtFlag.AT_EMPTY_PATH)

Name = Annotated[bytes, String(limit=NAME_MAX + 1, too_long=errno.ERANGE, empty=errno.ERANGE)]
Size = Annotated[int, Integer(0)]
SetFlags = Annotated[int, Flags(XattrFlag, bits=32, first=True)]
AtFlags = Annotated[int, Flags(AtFlag, bits=32, first=True)]


@dataclass(frozen=True, slots=True)
class SetArgs:
    """The five registers of setxattr(2) and lsetxattr(2)."""

    path: Path
    name: Name
    value: Pointer
    size: Size
    flags: SetFlags

    COPIED: ClassVar = ("name", "path")


@dataclass(frozen=True, slots=True)
class FsetArgs:
    """The five registers of fsetxattr(2)."""

    fd: Fd
    name: Name
    value: Pointer
    size: Size
    flags: SetFlags


@dataclass(frozen=True, slots=True)
class GetArgs:
    """The four registers of getxattr(2) and lgetxattr(2)."""

    path: Path
    name: Name
    value: Pointer
    size: Size

    COPIED: ClassVar = ("name", "path")


@dataclass(frozen=True, slots=True)
class FgetArgs:
    """The four registers of fgetxattr(2)."""

    fd: Fd
    name: Name
    value: Pointer
    size: Size


@dataclass(frozen=True, slots=True)
class ListArgs:
    """The three registers of listxattr(2) and llistxattr(2)."""

    path: Path
    list: Pointer
    size: Size


@dataclass(frozen=True, slots=True)
class FlistArgs:
    """The three registers of flistxattr(2)."""

    fd: Fd
    list: Pointer
    size: Size


@dataclass(frozen=True, slots=True)
class RemoveArgs:
    """The two registers of removexattr(2) and lremovexattr(2)."""

    path: Path
    name: Name

    COPIED: ClassVar = ("name", "path")


@dataclass(frozen=True, slots=True)
class FremoveArgs:
    """The two registers of fremovexattr(2)."""

    fd: Fd
    name: Name


@dataclass(frozen=True, slots=True)
class ValueAtArgs:
    """The six registers of setxattrat(2) and getxattrat(2); `uargs` is a struct xattr_args of `usize` bytes."""

    dfd: DirFd
    path: OptionalCStr
    at_flags: AtFlags
    name: Name
    uargs: Pointer
    usize: Size

    COPIED: ClassVar = ("name", "path")


@dataclass(frozen=True, slots=True)
class ListAtArgs:
    """The five registers of listxattrat(2)."""

    dfd: DirFd
    path: OptionalCStr
    at_flags: AtFlags
    list: Pointer
    size: Size


@dataclass(frozen=True, slots=True)
class RemoveAtArgs:
    """The four registers of removexattrat(2)."""

    dfd: DirFd
    path: OptionalCStr
    at_flags: AtFlags
    name: Name

    COPIED: ClassVar = ("name", "path")


NEEDS = Needs(Cap.SYS_ADMIN, owner_of=Namespace.MOUNT)
NOTE = "trusted.* of the container's own files; all other names are the kernel's."
ALSO = "As setxattr."
YOUNG = "As setxattr; ENOSYS where libseccomp (before 2.6), or the runtime's own, does not know the call."


@handles("setxattr", needs=NEEDS, redo=Redo.DETECTABLE, optional=True, io_uring=True, note=NOTE)
def setxattr(call: Call, args: SetArgs) -> Verdict:
    return _set(call, args.name, _path(call, args.path), Way.FOLLOW, (args.value, args.size, args.flags))


@handles("lsetxattr", needs=NEEDS, redo=Redo.DETECTABLE, optional=True, note=ALSO)
def lsetxattr(call: Call, args: SetArgs) -> Verdict:
    return _set(call, args.name, _path(call, args.path), Way.NOFOLLOW, (args.value, args.size, args.flags))


@handles("fsetxattr", needs=NEEDS, redo=Redo.DETECTABLE, optional=True, io_uring=True, note=ALSO)
def fsetxattr(call: Call, args: FsetArgs) -> Verdict:
    given = (args.value, args.size, args.flags)
    return _no_descriptor(args.fd) or _set(call, args.name, _descriptor(call, args.fd), Way.DESCRIPTOR, given)


@handles("getxattr", needs=NEEDS, redo=Redo.HARMLESS, optional=True, io_uring=True, note=ALSO)
def getxattr(call: Call, args: GetArgs) -> Verdict:
    return _get(call, args.name, _path(call, args.path), Way.FOLLOW, (args.value, args.size))


@handles("lgetxattr", needs=NEEDS, redo=Redo.HARMLESS, optional=True, note=ALSO)
def lgetxattr(call: Call, args: GetArgs) -> Verdict:
    return _get(call, args.name, _path(call, args.path), Way.NOFOLLOW, (args.value, args.size))


@handles("fgetxattr", needs=NEEDS, redo=Redo.HARMLESS, optional=True, io_uring=True, note=ALSO)
def fgetxattr(call: Call, args: FgetArgs) -> Verdict:
    return _no_descriptor(args.fd) or _get(call, args.name, _descriptor(call, args.fd), Way.DESCRIPTOR, (args.value, args.size))


@handles("listxattr", needs=NEEDS, redo=Redo.HARMLESS, optional=True, note=ALSO)
def listxattr(call: Call, args: ListArgs) -> Verdict:
    return _list(call, _path(call, args.path), Way.FOLLOW, (args.list, args.size))


@handles("llistxattr", needs=NEEDS, redo=Redo.HARMLESS, optional=True, note=ALSO)
def llistxattr(call: Call, args: ListArgs) -> Verdict:
    return _list(call, _path(call, args.path), Way.NOFOLLOW, (args.list, args.size))


@handles("flistxattr", needs=NEEDS, redo=Redo.HARMLESS, optional=True, note=ALSO)
def flistxattr(call: Call, args: FlistArgs) -> Verdict:
    return _no_descriptor(args.fd) or _list(call, _descriptor(call, args.fd), Way.DESCRIPTOR, (args.list, args.size))


@handles("removexattr", needs=NEEDS, redo=Redo.DETECTABLE, optional=True, note=ALSO)
def removexattr(call: Call, args: RemoveArgs) -> Verdict:
    return _remove(call, args.name, _path(call, args.path), Way.FOLLOW)


@handles("lremovexattr", needs=NEEDS, redo=Redo.DETECTABLE, optional=True, note=ALSO)
def lremovexattr(call: Call, args: RemoveArgs) -> Verdict:
    return _remove(call, args.name, _path(call, args.path), Way.NOFOLLOW)


@handles("fremovexattr", needs=NEEDS, redo=Redo.DETECTABLE, optional=True, note=ALSO)
def fremovexattr(call: Call, args: FremoveArgs) -> Verdict:
    return _no_descriptor(args.fd) or _remove(call, args.name, _descriptor(call, args.fd), Way.DESCRIPTOR)


@handles("setxattrat", needs=NEEDS, redo=Redo.DETECTABLE, optional=True, young=True, note=YOUNG)
def setxattrat(call: Call, args: ValueAtArgs) -> Verdict:
    return _set(call, args.name, *_at(call, args), _uargs(call, args))


@handles("getxattrat", needs=NEEDS, redo=Redo.HARMLESS, optional=True, young=True, note=YOUNG)
def getxattrat(call: Call, args: ValueAtArgs) -> Verdict:
    value, size, flags = _uargs(call, args)
    if flags:
        raise OSError(errno.EINVAL, "flags")
    return _get(call, args.name, *_at(call, args), (value, size))


@handles("listxattrat", needs=NEEDS, redo=Redo.HARMLESS, optional=True, young=True, note=YOUNG)
def listxattrat(call: Call, args: ListAtArgs) -> Verdict:
    return _list(call, *_at(call, args), (args.list, args.size))


@handles("removexattrat", needs=NEEDS, redo=Redo.DETECTABLE, optional=True, young=True, note=YOUNG)
def removexattrat(call: Call, args: RemoveAtArgs) -> Verdict:
    return _remove(call, args.name, *_at(call, args))


def _path(call: Call, path: bytes) -> Anchor:
    return call.tracee.anchor(path)


def _descriptor(call: Call, fd: int) -> Anchor:
    return call.tracee.anchor(b"", fd)


def _no_descriptor(fd: int) -> Verdict | None:
    """The answer for a number that no descriptor has; AT_FDCWD may be the working directory, as the kernel says."""
    return Continue(because="it is no descriptor, which the kernel says") if fd < 0 else None


def _at(call: Call, args: ValueAtArgs | ListAtArgs | RemoveAtArgs) -> tuple[Anchor, Way]:
    """Where the file is. NULL is an empty path, which AT_EMPTY_PATH makes the descriptor itself (getname_maybe_null())."""
    if args.at_flags & ~AT_FLAGS:
        raise OSError(errno.EINVAL, "at_flags")
    if args.path is None and not args.at_flags & AtFlag.AT_EMPTY_PATH:
        raise OSError(errno.EFAULT, "path")
    if not args.path and not args.at_flags & AtFlag.AT_EMPTY_PATH:
        raise OSError(errno.ENOENT, "path")
    if not args.path:
        here = args.dfd == AT_FDCWD
        return (call.tracee.anchor(b"."), Way.FOLLOW) if here else (_descriptor(call, args.dfd), Way.DESCRIPTOR)
    how = Way.NOFOLLOW if args.at_flags & AtFlag.AT_SYMLINK_NOFOLLOW else Way.FOLLOW
    return call.tracee.anchor(args.path, args.dfd), how


_XATTR_ARGS = struct.Struct("=QII")
"""struct xattr_args (linux/xattr.h): value, size, flags."""


def _uargs(call: Call, args: ValueAtArgs) -> tuple[int, int, int]:
    if args.usize < _XATTR_ARGS.size:
        raise OSError(errno.EINVAL, "usize")
    if args.usize > PAGE_SIZE:
        raise OSError(errno.E2BIG, "usize")
    data = call.tracee.read(args.uargs, args.usize)
    if any(data[_XATTR_ARGS.size :]):
        raise OSError(errno.E2BIG, "uargs")
    value, size, flags = _XATTR_ARGS.unpack_from(data)
    return value, size, flags


def _kernels() -> Verdict:
    return Continue(because="names other than trusted.* are the kernel's to decide about, whatever they are by then")


def _set(call: Call, name: bytes, at: Anchor, how: Way, given: tuple[int, int, int]) -> Verdict:
    if _is_kernels(call, name):
        return _kernels()
    address, size, flags = given
    if flags & ~SET_FLAGS:
        raise OSError(errno.EINVAL, "flags")
    if size > SIZE_MAX:
        raise OSError(errno.E2BIG, "size")
    call.agent.set_xattr(at, name, call.tracee.read(address, size) if size else b"", flags=flags, how=how)
    return Return()


def _get(call: Call, name: bytes, at: Anchor, how: Way, room: tuple[int, int]) -> Verdict:
    if _is_kernels(call, name):
        return _kernels()
    return _answer(call, call.agent.get_xattr(at, name, how=how), *room)


def _list(call: Call, at: Anchor, how: Way, room: tuple[int, int]) -> Verdict:
    if call.tracee.in_nested_user_namespace:
        return _kernels()
    names = call.agent.list_xattr(at, how=how)
    if names is None:
        return Continue(because="a file of nobody in the container has no trusted attributes for it")
    return _answer(call, names, *room)


def _remove(call: Call, name: bytes, at: Anchor, how: Way) -> Verdict:
    if _is_kernels(call, name):
        return _kernels()
    call.agent.remove_xattr(at, name, how=how)
    return Return()


def _is_kernels(call: Call, name: bytes) -> bool:
    return not name.startswith(TRUSTED) or call.tracee.in_nested_user_namespace


def _answer(call: Call, data: bytes, address: int, size: int) -> Verdict:
    """Writes what there is into the caller's `size` bytes; of none it only asks how much there is."""
    if size:
        if len(data) > size:
            raise OSError(errno.ERANGE, "size")
        if data:
            call.tracee.write(address, data)
    return Return(len(data))
