"""Loop devices as programs see them: their names, and struct loop_info64.

Source: loop(4); Linux include/uapi/linux/loop.h, drivers/block/loop.c.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from struct import Struct

CONTROL = -1
"""In the place of a number: /dev/loop-control."""

_DEVICE = re.compile(rb"/dev/loop(?:(?P<number>[0-9]{1,4})|-control)\Z")


def number(path: bytes) -> int | None:
    """Which loop device a path ends in, CONTROL, or None for none."""
    found = _DEVICE.search(path)
    if found is None:
        return None
    return CONTROL if found["number"] is None else int(found["number"])


def path(device: int) -> bytes:
    """Where a device lies, from the container's root."""
    return b"/dev/loop-control" if device == CONTROL else b"/dev/loop%d" % device


class LoopFlag(enum.IntFlag):
    """LO_FLAGS_* (linux/loop.h)."""

    READ_ONLY = 1
    AUTOCLEAR = 4
    """Detached when nobody uses it any more."""
    PARTSCAN = 8
    DIRECT_IO = 16


@dataclass(frozen=True, slots=True)
class LoopInfo:
    """What of struct loop_info64 means something here."""

    flags: LoopFlag
    offset: int = 0
    size_limit: int = 0
    encryption: int = 0
    name: bytes = b""
    number: int = 0

    @property
    def whole(self) -> bool:
        """All of a file, as it is."""
        return not (self.offset or self.size_limit or self.encryption)

    def pack(self) -> bytes:
        return _INFO.pack(0, 0, 0, self.offset, self.size_limit, self.number, 0, 0, self.flags, self.name, b"", b"", b"")

    @classmethod
    def unpack(cls, data: bytes) -> LoopInfo:
        _, _, _, offset, limit, device, encryption, _, flags, name, _, _, _ = _INFO.unpack(data)
        return cls(LoopFlag(flags), offset, limit, encryption, name.rstrip(b"\0"), device)


_INFO = Struct("=5Q4I64s64s32s16s")
"""struct loop_info64: __u64 lo_device, lo_inode, lo_rdevice, lo_offset, lo_sizelimit; __u32 lo_number, lo_encrypt_type,
lo_encrypt_key_size, lo_flags; __u8 lo_file_name[64], lo_crypt_name[64], lo_encrypt_key[32]; __u64 lo_init[2].
"""
INFO_SIZE = _INFO.size


@dataclass(frozen=True, slots=True)
class LoopConfig:
    """struct loop_config."""

    fd: int
    block_size: int
    info: LoopInfo

    @classmethod
    def unpack(cls, data: bytes) -> LoopConfig:
        fd, block_size = _HEAD.unpack_from(data)
        return cls(fd, block_size, LoopInfo.unpack(data[_HEAD.size : _HEAD.size + INFO_SIZE]))


_HEAD = Struct("=iI")
CONFIG_SIZE = _HEAD.size + INFO_SIZE + 64
"""With __u64 __reserved[8]."""
