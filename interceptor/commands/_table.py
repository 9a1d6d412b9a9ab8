"""Columns for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interceptor.printable import printable

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """Columns under a header, two blanks apart; those in `right` are aligned to the right."""
    cells = [list(header), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = (
        "  ".join(c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def duration(seconds: float) -> str:
    """Two units are enough: ``42s``, ``5m12s``, ``3h04m``, ``12d06h``."""
    minutes, second = divmod(max(0, int(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d{hour:02}h"
    if hour:
        return f"{hour}h{minute:02}m"
    return f"{minute}m{second:02}s" if minute else f"{second}s"
