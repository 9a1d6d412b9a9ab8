"""What may be written to a terminal: text that others chose, made harmless, and colours where they are welcome.

comm, container names and paths come from inside containers. A name with an escape sequence in it must not be able to
clear the screen of, or type commands for, the administrator who looks at a trace, a table or a log.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO


def printable(text: str) -> str:
    r"""`text` with everything that could move a cursor or change a colour as a backslash escape (``\x1b``, ``\n``)."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def wants_colour(output: TextIO) -> bool:
    """Whether `output` is coloured: a terminal that is not dumb, and NO_COLOR (no-color.org) unset or empty."""
    return output.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
