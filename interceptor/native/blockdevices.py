"""Block devices of the host's, and images behind its loop devices.

An image is attached once, however often it is mounted: two devices of one file are two filesystems to the kernel, which would
write over each other. Detached it is by the kernel, with its last use (LO_FLAGS_AUTOCLEAR).

Source: loop(4); Linux drivers/block/loop.c; Documentation/ABI, /sys/block/loopN/loop/backing_file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from interceptor.loops import LoopFlag, LoopInfo
from interceptor.native.fd import Fd

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONFIGURE, _GET_STATUS64, _CTL_GET_FREE = 0x4C0A, 0x4C05, 0x4C82
"""LOOP_* (linux/loop.h)."""
_BUFFER = bytes(232)
_DEVICE_AND_INODE = struct.Struct("=2Q")
"""The first of struct loop_info64."""
ATTEMPTS = 32

_one_at_a_time = threading.Lock()


@contextlib.contextmanager
def device_of(path: str, *, read_only: bool) -> Iterator[int]:
    """The number (dev_t) of the block device at `path`, or of the loop device of the image there; it exists at least until the
    end of the block. OSError: ENOTBLK for what is neither; EROFS for an image that is attached for reading, when it is to be
    written.
    """
    flags = (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC
    kind = Path(path).stat()
    if stat.S_ISBLK(kind.st_mode):
        yield kind.st_rdev
    elif stat.S_ISREG(kind.st_mode):
        with Fd(os.open(path, flags)) as image, _attached(image.fileno(), read_only=read_only) as device:
            yield os.fstat(device.fileno()).st_rdev
    else:
        raise OSError(errno.ENOTBLK, "neither a block device nor an image", path)


def _attached(image: int, *, read_only: bool) -> Fd:
    with _one_at_a_time:
        return _found(image, read_only=read_only) or _attach(image, read_only=read_only)


def _found(image: int, *, read_only: bool) -> Fd | None:
    """The loop device that the whole of an image is attached to already."""
    named, status = os.fsencode(Path(f"/proc/self/fd/{image}").readlink()), os.fstat(image)
    for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            name = entry.read_bytes().rstrip(b"\n")
            device = Fd(os.open(f"/dev/{entry.parts[3]}", os.O_RDONLY | os.O_CLOEXEC))
            data = fcntl.ioctl(device.fileno(), _GET_STATUS64, _BUFFER)
        except OSError:  # detached meanwhile
            continue
        found = LoopInfo.unpack(data)
        # On btrfs the numbers are others than stat(2) says, and in another mount namespace the name is.
        if found.whole and (name == named or _DEVICE_AND_INODE.unpack_from(data) == (status.st_dev, status.st_ino)):
            if found.flags & LoopFlag.READ_ONLY and not read_only:
                raise OSError(errno.EROFS, "the image is attached for reading only")
            return device
    return None


def _attach(image: int, *, read_only: bool) -> Fd:
    flags = LoopFlag.AUTOCLEAR | (LoopFlag.READ_ONLY if read_only else LoopFlag(0))
    name = os.fsencode(Path(f"/proc/self/fd/{image}").readlink())[:63]
    config = struct.pack("=II", image, 0) + LoopInfo(flags, name=name).pack() + bytes(64)
    with Fd(os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)) as control:
        for _ in range(ATTEMPTS):  # somebody else may take it first
            number = fcntl.ioctl(control.fileno(), _CTL_GET_FREE)
            device = Fd(os.open(f"/dev/loop{number}", os.O_RDWR | os.O_CLOEXEC))
            try:
                fcntl.ioctl(device.fileno(), _CONFIGURE, config)
            except OSError as error:
                device.close()
                if error.errno != errno.EBUSY:
                    raise
            else:
                return device
    raise OSError(errno.EBUSY, "no free loop device")
