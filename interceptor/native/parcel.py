"""Descriptors that outlive this process and yet are given up at once.

What the keeper holds a duplicate of is open until it has heard that it should not be, and a mount is busy so long. So what lies
in the queue of a socket is the descriptor, and the keeper holds the socket: who takes the message out of it has the only copy.

Source: unix(7), SCM_RIGHTS; recv(2), MSG_PEEK.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Self

from interceptor.native import sockets

if TYPE_CHECKING:
    from collections.abc import Sequence

MESSAGE_MAX = 4096


class Parcel:
    """A message with descriptors, in the queue of the socket `box`."""

    def __init__(self, box: socket.socket) -> None:
        self._box = box

    @classmethod
    def of(cls, message: bytes, fds: Sequence[int]) -> Self:
        """The descriptors stay the caller's, too."""
        hand, box = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with hand:
            socket.send_fds(hand, [message], fds)
        return cls(box)

    @classmethod
    def behind(cls, fd: int) -> Self:
        """One that an earlier process made; takes ownership of its socket."""
        return cls(socket.socket(fileno=fd))

    def fileno(self) -> int:
        return self._box.fileno()

    def look(self) -> tuple[bytes, list[int]]:
        """The message and duplicates of the descriptors, the caller's to close. It all stays where it is."""
        return self._receive(socket.MSG_PEEK)

    def empty(self) -> None:
        """Nothing of it is open any more when this returns, wherever the socket is. Idempotent."""
        sockets.close(self._receive(0)[1])

    def close(self) -> None:
        """The same, and the socket is closed. Idempotent."""
        if self._box.fileno() >= 0:
            self.empty()
            self._box.close()

    def _receive(self, flags: int) -> tuple[bytes, list[int]]:
        """Nothing where nothing is left: the other end is closed."""
        message, ancillary, _, _ = self._box.recvmsg(MESSAGE_MAX, sockets.ANCILLARY, flags | sockets.RECEIVE_FLAGS)
        return message, sockets.descriptors(ancillary)
