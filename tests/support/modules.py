"""Files that look like kernel modules."""

from __future__ import annotations

import struct


def image(name: str, *, kind: int = 1) -> bytes:
    """An ELF object whose .modinfo says `name`; `kind` is its e_type (ET_REL: 1)."""
    information = b"license=GPL\0name=" + name.encode() + b"\0vermagic=x\0"
    names = b"\0.modinfo\0.shstrtab\0"
    contents = [(0, 0, b""), (1, 1, information), (10, 3, names)]
    body, rows, at = b"", b"", 64
    for label, section, content in contents:
        rows += struct.pack("<2I4Q2I2Q", label, section, 0, 0, at, len(content), 0, 0, 1, 0)
        body += content
        at += len(content)
    header = struct.pack(
        "<4sBBB9x2HI3QI6H", b"\x7fELF", 2, 1, 1, kind, 62, 1, 0, 0, at, 0, 64, 0, 0, 64, len(contents), 2
    )  # fmt: skip
    return header + body + rows
