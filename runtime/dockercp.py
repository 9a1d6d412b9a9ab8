"""Files that `docker cp` brings into a running container get owners that the container knows.

The engine writes as the host's root, through our overlay. There host ids are those of MARKER … on disk, which would be
nobody's inside: each such file is given to the same id of the container's. The engine says in its event stream when a
copy is complete; what it brought in can only be in the container's upper layer, and is recognised by its disk ids.

Weighed against fanotify on the overlay (every write of the container would pass through it) and on the engine's mount
(newer engines copy in a mount namespace of their own, whose mounts carry no marks).
"""

from __future__ import annotations

import os
import socket
import stat
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from interceptor.native import mounts
from interceptor.native.fd import Fd
from interceptor.native.namespaces import in_mount_namespace
from runtime import dockerd, process
from runtime.idmapped import MARKER, MARKERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from interceptor.container import IdRange
    from runtime.record import Record

log = structlog.get_logger(__name__)


def adopt(upper: str, view: str, ids: IdRange) -> int:
    """Gives files of `upper` with marker ids to the container, through its overlay at `view`; answers how many.

    The container may move things meanwhile: nothing is followed, and what no longer belongs to the host is left alone.
    """
    count = 0
    with Fd(os.open(view, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as root:
        for directory, names in _marked(upper):
            with suppress(OSError), mounts.open_beneath(root.fileno(), directory, os.O_PATH | os.O_DIRECTORY) as parent:
                count += sum(_adopt(parent, name, ids) for name in names)
    return count


def _adopt(parent: Fd, name: str, ids: IdRange) -> bool:
    """Acts on one inode from the look at its owner to the last change: what takes the name meanwhile gains nothing."""
    try:
        file = Fd(os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent.fileno()))
    except FileNotFoundError:
        return False
    with file:
        status = os.fstat(file.fileno())
        if status.st_uid >= MARKERS and status.st_gid >= MARKERS:
            return False
        uid = ids.first + status.st_uid if status.st_uid < MARKERS else -1
        gid = ids.first + status.st_gid if status.st_gid < MARKERS else -1
        if stat.S_ISLNK(status.st_mode):
            # By name: a link has no mode that a new owner could make use of.
            os.chown(name, uid, gid, dir_fd=parent.fileno(), follow_symlinks=False)
            return True
        path = f"/proc/thread-self/fd/{file.fileno()}"
        os.chown(path, uid, gid)
        if status.st_mode & (stat.S_ISUID | stat.S_ISGID) and stat.S_ISREG(status.st_mode):
            # chown(2) took them away; they are of the archive that the host's root chose to copy.
            os.chmod(path, status.st_mode & 0o7777)
    return True


def _marked(upper: str) -> Iterator[tuple[str, list[str]]]:
    """(directory relative to `upper`, names in it with marker ids)."""
    for directory, inner, files, fd in os.fwalk(upper):
        found = [name for name in [*inner, *files] if _has_marker(name, fd)]
        if found:
            yield os.path.relpath(directory, upper), found


def _has_marker(name: str, fd: int) -> bool:
    try:
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return MARKER <= status.st_uid < MARKER + MARKERS or MARKER <= status.st_gid < MARKER + MARKERS


class Watchers:
    """One thread per engine that has containers of ours; it ends with the last of them, or with the engine."""

    def __init__(self, view: Callable[[Record], str]) -> None:
        self._view = view
        self._lock = threading.Lock()
        self._engines: dict[int, _Engine] = {}

    def add(self, record: Record) -> None:
        """From now on copies into the container are seen to; also what was copied before that."""
        pid = record.engine_pid
        if pid is None or record.rootfs.upper is None or (started := process.start_time(pid)) is None:
            return
        with self._lock:
            engine = self._engines.get(pid)
            if engine is None or engine.started != started or engine.over:
                engine = self._engines[pid] = _Engine(pid, started, self._adopt)
            engine.add(record)

    def discard(self, record: Record) -> None:
        with self._lock:
            engine = self._engines.get(record.engine_pid or 0)
            if engine is not None and engine.discard(record.id):
                del self._engines[engine.pid]

    def _adopt(self, record: Record) -> None:
        namespace = process.mount_namespace(record.namespace)
        if namespace is None or record.rootfs.upper is None:
            return
        with namespace, in_mount_namespace(namespace.fileno()):
            count = adopt(record.rootfs.upper, self._view(record), record.ids)
        if count:
            log.info("copied files adopted", container=record.id, count=count)


class _Engine:
    """The thread of one engine."""

    def __init__(self, pid: int, started: int, adopt_in: Callable[[Record], None]) -> None:
        self.pid = pid
        self.started = started
        self.over = False
        self._adopt = adopt_in
        self._records: dict[str, Record] = {}
        self._connection: dockerd.Connection | None = None
        self._thread = threading.Thread(target=self._run, name=f"docker cp of engine {pid}", daemon=True)

    def add(self, record: Record) -> None:
        self._records[record.id] = record
        if self._thread.ident is None:
            self._thread.start()

    def discard(self, container_id: str) -> bool:
        """Whether it was the last one; then the thread ends."""
        self._records.pop(container_id, None)
        if self._records:
            return False
        self.over = True
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)
        return True

    def _run(self) -> None:
        try:
            path = dockerd.api_socket(self.pid)
            if path is None:
                log.warning("no API socket found: files of docker cp will be nobody's inside", engine=self.pid)
                return
            self._connection = dockerd.Connection(path, timeout=None)
            if not self.over:
                self._watch(self._connection)
        except OSError as error:
            log.info("an engine's event stream ended", engine=self.pid, why=str(error))
        except Exception:
            log.exception("watching for docker cp failed", engine=self.pid)
        finally:
            self.over = True
            if self._connection is not None:
                self._connection.close()

    def _watch(self, connection: dockerd.Connection) -> None:
        for container_id in dockerd.copies(connection):
            wanted = list(self._records.values()) if not container_id else [self._records.get(container_id)]
            for record in wanted:
                if record is not None:
                    with suppress(FileNotFoundError):
                        self._adopt(record)
