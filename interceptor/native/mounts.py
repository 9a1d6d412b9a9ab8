"""The mount system calls as Python functions: descriptors in, `Fd` owners out, OSError with the call and the path.

Thin on purpose: what is combined out of them stands in `runtime`. Source: mount_setattr(2), open_tree(2),
move_mount(2), fsopen(2), openat2(2), statx(2), umount2(2).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from interceptor.native._native import ffi, lib
from interceptor.native.fd import Fd

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

AT_FDCWD: int = lib.AT_FDCWD
MOUNT_ATTR_RDONLY: int = lib.MOUNT_ATTR_RDONLY
MOUNT_ATTR_NOSUID: int = lib.MOUNT_ATTR_NOSUID
MOUNT_ATTR_NODEV: int = lib.MOUNT_ATTR_NODEV
MOUNT_ATTR_NOEXEC: int = lib.MOUNT_ATTR_NOEXEC
MOUNT_ATTR_NOSYMFOLLOW: int = lib.MOUNT_ATTR_NOSYMFOLLOW
MS_PRIVATE: int = lib.MS_PRIVATE
MS_SHARED: int = lib.MS_SHARED
MNT_DETACH: int = lib.MNT_DETACH
PROC_MAGIC: int = lib.PROC_SUPER_MAGIC
SYSFS_MAGIC: int = lib.SYSFS_MAGIC

Path = str | bytes

_NONE = ffi.NULL
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE = 0, 1, 6
_LOG_BYTES = 1024


@dataclass(frozen=True, slots=True)
class MountRoot:
    """What statx(2) knows of a path's mount."""

    mount_id: int
    """STATX_MNT_ID: the number of /proc/PID/mountinfo."""
    is_root: bool
    """The path is the root of that mount."""


def open_tree(
    path: Path, *, dirfd: int = AT_FDCWD, clone: bool = True, recursive: bool = False, follow: bool = True
) -> Fd:
    """A detached clone of the mount at `path` (or, without `clone`, an O_PATH descriptor); "" is `dirfd` itself."""
    flags = (lib.OPEN_TREE_CLONE if clone else 0) | (lib.AT_RECURSIVE if recursive else 0)
    flags |= (0 if follow else lib.AT_SYMLINK_NOFOLLOW) | (0 if path else lib.AT_EMPTY_PATH)
    return Fd(_check(lib.ic_open_tree(dirfd, _bytes(path), flags), "open_tree", path))


def clones(directory: int, names: Sequence[Path]) -> list[Fd]:
    """A detached clone of the mount at each of `names` below `directory`, with what is mounted in it; all or none."""
    trees = ffi.new("int []", len(names))
    paths = [ffi.new("char[]", _bytes(name)) for name in names]
    _check(lib.ic_clone_all(directory, ffi.new("char *[]", paths), len(names), trees), "open_tree", names[0] if names else "")
    return [Fd(tree) for tree in trees]


def cover(directory: int, trees: Mapping[str, Fd]) -> Mapping[str, int]:
    """Attaches each detached mount over its path, which must stay below `directory` and contain no symbolic link at all.
    Answers the errno for those that were not attached: EBUSY where something is mounted already.
    """
    errors = ffi.new("int []", len(trees))
    paths = [ffi.new("char[]", _bytes(path)) for path in trees]
    lib.ic_cover_all(directory, ffi.new("char *[]", paths), [tree.fileno() for tree in trees.values()], len(trees), errors)
    return {path: error for path, error in zip(trees, errors, strict=True) if error}


def move_mount(tree: int, path: Path, *, dirfd: int = AT_FDCWD) -> None:
    """Attaches the detached mount `tree` at `path`; "" is `dirfd` itself."""
    flags = lib.MOVE_MOUNT_F_EMPTY_PATH | (0 if path else lib.MOVE_MOUNT_T_EMPTY_PATH)
    _check(lib.ic_move_mount(tree, b"", dirfd, _bytes(path), flags), "move_mount", path)


def set_attributes(
    path: Path,
    *,
    dirfd: int = AT_FDCWD,
    attributes: int = 0,
    user_namespace: int | None = None,
    propagation: int = 0,
    recursive: bool = False,
) -> None:
    """mount_setattr(2): sets MOUNT_ATTR_* `attributes`, id-maps by `user_namespace`, changes `propagation`
    (MS_PRIVATE…).

    "" is the mount of `dirfd`. EINVAL for a filesystem that cannot be id-mapped; EPERM for a mount that is already.
    """
    flags = (lib.AT_RECURSIVE if recursive else 0) | (0 if path else lib.AT_EMPTY_PATH)
    wanted = attributes | (0 if user_namespace is None else lib.MOUNT_ATTR_IDMAP)
    owner = -1 if user_namespace is None else user_namespace
    _check(lib.ic_mount_setattr(dirfd, _bytes(path), flags, wanted, 0, propagation, owner), "mount_setattr", path)


def fresh(fstype: str, options: Iterable[tuple[str, str | None]] = (), *, attributes: int = 0) -> Fd:
    """A detached mount of a new superblock: fsopen, fsconfig, fsmount. An option without a value is a flag."""
    with Fd(_check(lib.ic_fsopen(fstype.encode()), "fsopen", fstype)) as context:
        for key, value in options:
            command, text = (_FSCONFIG_SET_FLAG, _NONE) if value is None else (_FSCONFIG_SET_STRING, value.encode())
            found = lib.ic_fsconfig(context.fileno(), command, key.encode(), text, 0)
            _check(found, f"fsconfig {fstype} {key}", value or "")
        _check(lib.ic_fsconfig(context.fileno(), _FSCONFIG_CMD_CREATE, _NONE, _NONE, 0), "fsconfig create", fstype)
        return Fd(_check(lib.ic_fsmount(context.fileno(), attributes), "fsmount", fstype))


def overlay(options: Iterable[tuple[str, int | str | None]], *, uid: int, gid: int, attributes: int = 0) -> Fd:
    """A detached overlay whose mounter is `uid`:`gid` with our capabilities (see ic_mount_overlay).

    An option is a descriptor (a layer), a string, or None for a flag. The OSError carries the kernel's own explanation.
    """
    rows = list(options)
    keys = [ffi.new("char[]", key.encode()) for key, _ in rows]
    values = [ffi.new("char[]", os.fsencode(value)) if isinstance(value, str) else _NONE for _, value in rows]
    fds = [value if isinstance(value, int) else -1 for _, value in rows]
    log = ffi.new("char[]", _LOG_BYTES)
    mounted = lib.ic_mount_overlay(
        uid, gid, ffi.new("char *[]", keys), ffi.new("char *[]", values), fds, len(rows), attributes, log, _LOG_BYTES
    )
    if mounted < 0:
        said = os.fsdecode(ffi.string(log)).strip()
        raise OSError(-mounted, f"overlay: {os.strerror(-mounted)}" + (f" ({said})" if said else ""))
    return Fd(mounted)


def overlay_at(target: Path, options: str, *, uid: int, gid: int) -> None:
    """mount(2) of an overlay by the same mounter; relative paths start at this thread's cwd."""
    _check(lib.ic_mount_overlay_at(uid, gid, _bytes(target), os.fsencode(options)), "mount overlay", target)


def takes_descriptor(fstype: str, key: str, fd: int) -> bool:
    """Whether fsconfig(FSCONFIG_SET_FD) accepts a descriptor as option `key` of `fstype`."""
    return bool(lib.ic_takes_descriptor(fstype.encode(), key.encode(), fd) == 0)


def open_in_root(root: int, path: Path, flags: int) -> Fd:
    """openat2(2) as a process chroot'ed to `root` would open `path`; magic links are refused."""
    resolve = lib.RESOLVE_IN_ROOT | lib.RESOLVE_NO_MAGICLINKS
    return Fd(_check(lib.ic_openat2(root, _bytes(path), flags, resolve), "openat2", path))


def open_beneath(directory: int, path: Path, flags: int) -> Fd:
    """openat2(2) of a relative `path` that must stay below `directory` and contain no symbolic link at all."""
    resolve = lib.RESOLVE_BENEATH | lib.RESOLVE_NO_SYMLINKS
    return Fd(_check(lib.ic_openat2(directory, _bytes(path), flags, resolve), "openat2", path))


def mount_root(path: Path, *, dirfd: int = AT_FDCWD) -> MountRoot:
    """The mount that `path` lies on; "" is `dirfd` itself."""
    number, is_root = ffi.new("uint64_t *"), ffi.new("int *")
    _check(lib.ic_mount_id(dirfd, _bytes(path), 0 if path else lib.AT_EMPTY_PATH, number, is_root), "statx", path)
    return MountRoot(number[0], bool(is_root[0]))


def filesystem_type(fd: int) -> int:
    """statfs(2)'s f_type: PROC_MAGIC and the like."""
    found = ffi.new("uint64_t *")
    _check(lib.ic_filesystem_type(fd, found), "fstatfs", "")
    return int(found[0])


def unmount(path: Path, *, detach: bool = True) -> None:
    """umount2(2) of the topmost mount at `path`, never through a symbolic link."""
    _check(lib.ic_umount2(_bytes(path), lib.UMOUNT_NOFOLLOW | (lib.MNT_DETACH if detach else 0)), "umount2", path)


def lock(fd: int) -> None:
    """flock(2), exclusive, waiting; ends with the last copy of the open file description."""
    _check(lib.ic_lock(fd), "flock", "")


def _bytes(path: Path) -> bytes:
    return os.fsencode(path)


def _check(value: int, call: str, path: Path) -> int:
    if value < 0:
        raise OSError(-value, f"{call}: {os.strerror(-value)}", os.fsdecode(path))
    return value
