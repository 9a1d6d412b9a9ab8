"""The owner of one file descriptor: closes it once, and is -1 afterwards.

A number that was closed may mean another file a moment later; an owner that forgets its number cannot close that one.
Plain ints travel only as borrowed arguments, for the length of one call.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType


class Fd:
    """Takes ownership of `number`. A context manager; `take()` gives the ownership away."""

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        """The number, borrowed; ValueError after close() or take()."""
        if self._number < 0:
            raise ValueError("this descriptor was closed or given away")
        return self._number

    @property
    def closed(self) -> bool:
        return self._number < 0

    def take(self) -> int:
        """The number; from now on the caller closes it."""
        number, self._number = self.fileno(), -1
        return number

    def duplicate(self) -> Fd:
        return Fd(os.dup(self.fileno()))

    def close(self) -> None:
        number, self._number = self._number, -1
        if number >= 0:
            os.close(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Fd({self._number})"

    def __del__(self) -> None:
        self.close()
