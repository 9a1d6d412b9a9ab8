"""The FUSE server of fuse.c: one thread for all mounts, content from Python only when a snapshot has expired.

Source: fuse(4); fuse.h for what readers may rely on.
"""

from __future__ import annotations

import errno
import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from interceptor.errors import InterceptorError
from interceptor.native import mounts
from interceptor.native._native import ffi, lib
from interceptor.native.fd import Fd

if TYPE_CHECKING:
    from collections.abc import Iterable

    from interceptor.ports import Keeper

VALID_NS = 10_000_000
"""How long a snapshot is shown. With the kernel's rounding to its clock tick nobody sees one older than 20 ms."""
KEPT = "fuse"
"""The kind under which a keeper holds the device of a mount."""
WATCHES = "watch"
"""The kind under which it holds what poll(2) of an open file waits for."""
WATCHED: int = lib.IC_FUSE_WATCHED
"""Of a file's mode: what is written to it says what poll(2) is to wait for (fuse.h)."""
FIRST_NODE = 2
"""Inode numbers of files begin here; 1 is the directory."""


class Source(Protocol):
    """What a mount's files contain. Both are called on the server's thread, one at a time."""

    def content(self, node: int) -> bytes:
        """The whole content; OSError's errno for readers that have no older one."""

    def written(self, node: int, data: bytes, *, tid: int, uid: int) -> Fd | None:
        """Somebody wrote `data` (`tid`, `uid`: host's numbers). OSError's errno goes to the writer. For a file that is WATCHED,
        the answer is what has POLLPRI when the open file is to have it.
        """


class Server:
    """All mounts of one process. Methods may be called on any thread, except from a Source."""

    def __init__(self, valid_ns: int = VALID_NS) -> None:
        ask = ffi.new(
            "struct ic_fuse_ask *",
            {"content": lib.ic_python_content, "written": lib.ic_python_written, "watched": lib.ic_python_watched},
        )
        self._server: Any = lib.ic_fuse_server(ask, valid_ns)
        if self._server == ffi.NULL:
            raise InterceptorError(f"the FUSE server cannot start: {os.strerror(ffi.errno)}")
        self._names: set[int] = set()
        self._threads = [
            threading.Thread(target=loop, args=(self._server,), name=name, daemon=True)
            for loop, name in ((lib.ic_fuse_serve, "fuse"), (lib.ic_fuse_sweep, "fuse pages"))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def requests(self) -> int:
        """Requests answered so far."""
        return int(lib.ic_fuse_requests(self._server))

    def mount(
        self,
        source: Source,
        *,
        name: str,
        owner: tuple[int, int],
        direct: bool,
        kept: tuple[Keeper, str] | None = None,
    ) -> Mount:
        """A new superblock, detached. `name` is what mountinfo shows as its source; `owner` has host ids. With `kept`, a
        keeper and a key, it outlives this process: see `inherit`.
        """
        with Fd(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)) as device:
            options = [
                ("source", name), ("subtype", "interceptor"), ("fd", str(device.fileno())), ("rootmode", "40000"),
                ("user_id", "0"), ("group_id", "0"), ("allow_other", None), ("default_permissions", None),
            ]  # fmt: skip
            attributes = mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV | mounts.MOUNT_ATTR_NOEXEC
            tree = mounts.fresh("fuse", options, attributes=attributes | (0 if direct else mounts.MOUNT_ATTR_RDONLY))
            number = _register(source, kept)
            _check(lib.ic_fuse_add(self._server, number, device.fileno(), direct, *owner), f"serving {name}")
            if kept is not None:
                kept[0].keep(KEPT, kept[1], device.fileno())
            device.take()
        self._names.add(number)
        return Mount(self, number, tree, kept)

    def inherit(
        self, source: Source, fd: int, *, owner: tuple[int, int], direct: bool, kept: tuple[Keeper, str]
    ) -> Mount:
        """A mount that an earlier process served by `fd`, which is taken over. Nothing is served before `Mount.begin`."""
        number = _register(source, kept)
        with Fd(fd) as device:
            _check(lib.ic_fuse_inherit(self._server, number, device.fileno(), direct, *owner), f"serving {kept[1]}")
            device.take()
        self._names.add(number)
        return Mount(self, number, None, kept)

    def begin(self, number: int) -> None:
        _check(lib.ic_fuse_begin(self._server, number), "serving an inherited mount")

    def close(self) -> None:
        """Ends every mount. Idempotent."""
        lib.ic_fuse_stop(self._server)
        for thread in self._threads:
            thread.join()
        for number in tuple(self._names):
            self.remove(number)

    def remove(self, number: int) -> None:
        """Ends one mount; idempotent."""
        lib.ic_fuse_remove(self._server, number)
        _sources.pop(number, None)
        _keepings.pop(number, None)
        self._names.discard(number)

    def add(self, number: int, files: Iterable[tuple[int, str, int]]) -> None:
        for node, name, mode in files:
            _check(lib.ic_fuse_file(self._server, number, node, name.encode(), mode), f"file {name}")

    def watch(self, number: int, node: int, fh: int, kh: int, fd: int) -> None:
        _check(lib.ic_fuse_watch(self._server, number, node, fh, kh, fd), "watching for an open file")


class Mount:
    """One superblock. `tree` is its detached mount, until somebody attaches it; None for an inherited one."""

    def __init__(self, server: Server, number: int, tree: Fd | None, kept: tuple[Keeper, str] | None = None) -> None:
        self._server = server
        self._number = number
        self._kept = kept
        self.tree = tree

    def begin(self) -> None:
        """Serves an inherited mount, whose files have been added."""
        self._server.begin(self._number)

    def add(self, files: Iterable[tuple[int, str, int]]) -> None:
        """Files as (inode number, name, permission bits); those that exist stay. Of a direct mount, what nobody may write is
        read whole (fuse.h).
        """
        self._server.add(self._number, files)

    def watch_again(self, key: str, fd: int) -> None:
        """Goes on with what an earlier process kept as `key` of an inherited mount; `fd` is taken over. A key of another mount
        is none of ours: ValueError.
        """
        prefix, *numbers = key.rsplit("/", 3)
        keeping = _keepings[self._number]
        if prefix != keeping.key:
            raise ValueError(key)
        node, fh, kh = map(int, numbers)
        keeping.watches[fh] = key
        self._server.watch(self._number, node, fh, kh, fd)

    def close(self) -> None:
        """Ends the connection: what is still mounted somewhere answers ENOTCONN. Idempotent."""
        if self.tree is not None:
            self.tree.close()
        if self._kept is not None:
            self._kept[0].drop(KEPT, self._kept[1])
            for key in _keepings[self._number].watches.values() if self._number in _keepings else ():
                self._kept[0].drop(WATCHES, key)
        self._server.remove(self._number)


@dataclass(slots=True)
class _Keeping:
    keeper: Keeper
    key: str
    watches: dict[int, str] = field(default_factory=dict)
    """Open files that wait for something → the key under which that is kept."""


_sources: dict[int, Source] = {}
_keepings: dict[int, _Keeping] = {}
_last = 0
_pending: dict[int, bytes] = {}
"""What did not fit into the buffer and is asked for again at once (fuse.h)."""
_lock = threading.Lock()


def _register(source: Source, kept: tuple[Keeper, str] | None) -> int:
    global _last  # noqa: PLW0603 - C knows a mount by a number; an address could come again
    with _lock:
        _last += 1
        _sources[_last] = source
        if kept is not None:
            _keepings[_last] = _Keeping(*kept)
        return _last


@ffi.def_extern(error=-errno.EIO)  # type: ignore[untyped-decorator]
def ic_python_content(mount: int, node: int, buffer: Any, size: int) -> int:
    try:
        data = _pending.pop(mount, None) or _sources[mount].content(node)
    except KeyError:
        return -errno.ENOENT
    except OSError as error:
        return _negative(error)
    if len(data) > size:
        _pending[mount] = data
    else:
        ffi.memmove(buffer, data, len(data))
    return len(data)


@ffi.def_extern(error=-errno.EIO)  # type: ignore[untyped-decorator]
def ic_python_written(mount: int, node: int, data: Any, size: int, tid: int, uid: int) -> int:
    try:
        watched = _sources[mount].written(node, bytes(ffi.buffer(data, size)), tid=tid, uid=uid)
    except KeyError:
        return -errno.ENOENT
    except OSError as error:
        return _negative(error)
    return watched.take() if watched is not None else 0


@ffi.def_extern()  # type: ignore[untyped-decorator]
def ic_python_watched(mount: int, node: int, fh: int, kh: int, fd: int) -> None:
    keeping = _keepings.get(mount)
    if keeping is None:
        return
    before = keeping.watches.pop(fh, None)
    if before is not None:
        keeping.keeper.drop(WATCHES, before)
    if fd >= 0:
        key = keeping.watches[fh] = f"{keeping.key}/{node}/{fh}/{kh}"
        keeping.keeper.keep(WATCHES, key, fd)


def _negative(error: OSError) -> int:
    """Its errno as C wants it; what is none (a library's own number) as EIO."""
    number = error.errno or errno.EIO
    return -(number if number in errno.errorcode else errno.EIO)


def _check(result: int, what: str) -> None:
    if result < 0:
        raise OSError(-result, f"{what}: {os.strerror(-result)}")
