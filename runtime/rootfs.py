"""The container's root filesystem, owned by the container without a chown and without a copy.

An engine's overlay is mounted anew from the same layers, each id-mapped, the upper included, by the container's root
kuid with our capabilities: what is written has disk uid 0, whiteouts and opaque marks are ordinary, so diff, commit
and cp see nothing unusual and nothing has to be undone. The new overlay also covers the engine's mount point, so
that engine and container look at the same one. Any other root filesystem is a directory: an id-mapped clone of it.

Weighed against chown (minutes for a large image, and undone at every stop), shiftfs (not upstream) and id-mapping
only the lower layers (the upper would carry ids of a range that another container gets tomorrow).
Source: Linux Documentation/filesystems/overlayfs.rst, idmappings.rst; fs/overlayfs/super.c, ovl_fill_super().
"""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from interceptor.errors import ConfigError
from interceptor.native import mounts
from interceptor.native.fd import Fd
from runtime import overlay
from runtime.mountinfo import Mount, topmost

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from interceptor.container import IdRange
    from runtime.idmapped import Clones
    from runtime.overlay import Overlay

WORK = "interceptor-work"
"""Our overlay's work directory, beside the engine's: one work directory serves one mount."""


@dataclass(frozen=True, slots=True)
class Rootfs:
    """Where a container's root filesystem was put, as far as it must be found again."""

    engine: str
    """The engine's own directory or mount point: root.path of config.json, resolved."""
    upper: str | None = None
    """The layer that the container writes to; None for a directory and for an overlay without one."""
    layer: str | None = None
    """The engine's directory of that layer, which it removes with the container."""
    covers: bool = False
    """Ours lies over `engine` too."""


def describe(path: str, table: Sequence[Mount]) -> tuple[Rootfs, Overlay | None]:
    """What `path` (absolute) is: the engine's overlay, or a directory. Touches nothing."""
    engine = os.path.realpath(path)
    if not os.path.isdir(engine):
        raise ConfigError(f"config.json: root.path {path!r} is no directory")
    mount = topmost(table, engine)
    if mount is None or mount.fstype != "overlay" or mount.root != "/":
        return Rootfs(engine), None
    layers = overlay.read(mount)
    if layers.upper is None:
        return Rootfs(engine, covers=True), layers
    return Rootfs(engine, layers.upper, os.path.dirname(layers.upper), covers=True), layers


def attach(found: tuple[Rootfs, Overlay | None], at: str, clones: Clones, ids: IdRange, undo: ExitStack) -> None:
    """Puts the root filesystem at `at`; what is not below `at` and must go again is pushed on `undo`."""
    rootfs, layers = found
    if layers is None:
        with Fd(os.open(at, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as point:
            clones.bind(rootfs.engine, point, "config.json: root.path", recursive=True)
        return
    work = _make_work(layers, undo)
    try:
        if layers_by_descriptor():
            with ExitStack() as held:
                tree = held.enter_context(_by_descriptor(layers, work, clones, ids, held))
                mounts.move_mount(tree.fileno(), at)
        else:
            _by_path(layers, work, clones, ids, at)
    except OSError as error:
        raise ConfigError(
            f"cannot mount the container's root filesystem from its {len(layers.lower)} layers, the first of which is "
            f"{layers.lower[0]}: {error.strerror or error}"
        ) from error
    with mounts.open_tree(at) as again:
        undo.callback(uncover, rootfs.engine)
        mounts.move_mount(again.fileno(), rootfs.engine)


@cache
def layers_by_descriptor() -> bool:
    """Linux 6.13 and later: fs/overlayfs/params.c, fsparam_file_or_string()."""
    with Fd(os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as root:
        return mounts.takes_descriptor("overlay", "lowerdir+", root.fileno())


def uncover(engine: str) -> None:
    """Takes ours away from the engine's mount point; the engine's own mount is seen again."""
    try:
        mounts.unmount(engine)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise


def remove_work(upper: str | None) -> None:
    """Removes our work directory; the engine's layer is then as the engine made it."""
    if upper is not None:
        shutil.rmtree(os.path.join(os.path.dirname(upper), WORK), ignore_errors=True)


def _make_work(layers: Overlay, undo: ExitStack) -> str | None:
    if layers.upper is None:
        return None
    work = os.path.join(os.path.dirname(layers.upper), WORK)
    shutil.rmtree(work, ignore_errors=True)
    os.mkdir(work, 0o700)
    undo.callback(remove_work, layers.upper)
    return work


def _by_descriptor(layers: Overlay, work: str | None, clones: Clones, ids: IdRange, held: ExitStack) -> Fd:
    """A detached overlay of layers that nobody can see."""
    below = _Mapped(clones, held, [*layers.lower, *layers.data, *((layers.upper, work) if work else ())])
    options: list[tuple[str, int | str | None]] = [("index", "off")]
    options += [("lowerdir+", below.layer(path)) for path in layers.lower]
    options += [("datadir+", below.layer(path)) for path in layers.data]
    if layers.upper and work:
        options += [("upperdir", below.layer(layers.upper)), ("workdir", below.layer(work))]
    options += layers.options
    return mounts.overlay(options, uid=ids.first, gid=ids.first)


def _by_path(layers: Overlay, work: str | None, clones: Clones, ids: IdRange, at: str) -> None:
    """The same for older kernels: each layer is attached under a short name for as long as mount(2) takes.

    mount(2) takes one page of options, and layers have long names; hence a directory of their own, which becomes the
    cwd.
    """
    if layers.data:
        raise ConfigError(f"{layers.data[0]} is a data-only layer, which needs Linux 6.13 or later here")
    directory = f"{os.path.dirname(at)}/layers"
    os.mkdir(directory, 0o700)
    attached: list[str] = []
    try:
        for number, path in enumerate(layers.lower):
            attached.append(_attach_layer(clones, path, f"{directory}/{number}"))
        options = ["index=off", "lowerdir=" + ":".join(map(str, range(len(layers.lower))))]
        if layers.upper and work:
            attached.append(_attach_layer(clones, os.path.dirname(work), f"{directory}/top"))
            options += [f"upperdir=top/{os.path.basename(layers.upper)}", f"workdir=top/{WORK}"]
        options += [key if value is None else f"{key}={value}" for key, value in layers.options]
        os.chdir(directory)
        mounts.overlay_at(at, ",".join(options), uid=ids.first, gid=ids.first)
    finally:
        os.chdir("/")
        for point in attached:
            mounts.unmount(point)
            os.rmdir(point)
        os.rmdir(directory)


def _attach_layer(clones: Clones, path: str, at: str) -> str:
    os.mkdir(at)
    with clones.directory(path, "config.json: root.path: a layer") as tree:
        mounts.move_mount(tree.fileno(), at)
    return at


class _Mapped:
    """Layers as O_PATH descriptors below id-mapped clones: one clone per host mount, because upper and work must lie
    on one, and because every clone that goes costs the kernel a grace period.
    """

    def __init__(self, clones: Clones, held: ExitStack, paths: Iterable[str]) -> None:
        self._held = held
        self._real = {path: os.path.realpath(path) for path in paths}
        self._mounts = {path: mounts.mount_root(real).mount_id for path, real in self._real.items()}
        self._tops: dict[int, tuple[str, Fd]] = {}
        for mount_id in set(self._mounts.values()):
            top = os.path.commonpath([self._real[path] for path, number in self._mounts.items() if number == mount_id])
            tree = held.enter_context(clones.directory(top, "config.json: root.path: a layer"))
            self._tops[mount_id] = (top, tree)

    def layer(self, path: str) -> int:
        top, tree = self._tops[self._mounts[path]]
        relative = os.path.relpath(self._real[path], top)
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        return self._held.enter_context(Fd(os.open(relative, flags, dir_fd=tree.fileno()))).fileno()
