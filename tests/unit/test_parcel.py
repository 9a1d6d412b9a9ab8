"""Descriptors in a socket's queue: they outlive who put them there, and are given up at once."""

from __future__ import annotations

import os

from interceptor.native.fd import Fd
from interceptor.native.parcel import Parcel


def other_end_closed(pipe: Fd) -> bool:
    """Whether nobody has the writing end of `pipe`."""
    try:
        return os.read(pipe.fileno(), 1) == b""
    except BlockingIOError:
        return False


def test_what_is_in_it_is_open_until_one_of_its_owners_takes_it_out() -> None:
    reading, writing = map(Fd, os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK))
    with reading:
        with writing:
            parcel = Parcel.of(b"what it is", [writing.fileno()])
        keepers = Parcel.behind(os.dup(parcel.fileno()))
        for _ in range(2):
            message, (copy,) = keepers.look()
            assert message == b"what it is"
            Fd(copy).close()
        assert not other_end_closed(reading)
        parcel.close()
        assert other_end_closed(reading)
        assert keepers.look() == (b"", [])
        parcel.close()
        keepers.close()
