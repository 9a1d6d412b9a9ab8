"""Writes the C source of the cffi extension: ``build_cffi.py DECLARATIONS… OUTPUT`` (called by meson)."""

from __future__ import annotations

import sys
from pathlib import Path

from cffi import FFI


def main(arguments: list[str]) -> None:
    *declarations, output = map(Path, arguments)
    ffi = FFI()
    ffi.cdef("\n".join(path.read_text() for path in declarations))
    includes = "".join(f'#include "{path.stem}.h"\n' for path in declarations)
    ffi.set_source("interceptor.native._native", includes)
    ffi.emit_c_code(str(output))


if __name__ == "__main__":
    main(sys.argv[1:])
