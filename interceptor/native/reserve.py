"""Zeroed memory for C that is not touched before it is used: ffi.new() writes every byte of what it gives.

An idle container costs a page or two then, not the whole of its buffers (bench/memory.py).
"""

from __future__ import annotations

from typing import Any

from interceptor.native._native import ffi, lib


class Reserved:
    """`size` bytes of it; `pointer` is valid as long as this object lives."""

    __slots__ = ("_memory", "pointer")

    def __init__(self, kind: str, size: int) -> None:
        """`pointer` has the C type `kind`. MemoryError when the kernel gives none."""
        memory = lib.ic_reserve(size)
        if memory == ffi.NULL:
            raise MemoryError(f"{size} bytes for {kind}")
        self._memory = ffi.gc(memory, lambda old: lib.ic_release(old, size), size)
        self.pointer: Any = ffi.cast(kind, self._memory)
