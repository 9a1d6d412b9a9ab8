"""The kinds of sysctl against the kernel's own handlers, on sysctls that a fresh network and user namespace has of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from runtime.procfs.values.sysctl_kinds import INT_MAX, Ints, Unsigned

if TYPE_CHECKING:
    from runtime.procfs.values.sysctl_kinds import Kind

pytestmark = [pytest.mark.root, pytest.mark.kernel]

WRITTEN = [
    b"1", b"1\n", b" 7", b"\t\n\v\f\r 7 ", b"7 8", b"7 8 9 10", b"7\t8\n9", b"7 x", b"x", b"-1", b"-0", b"+1", b"--1", b"- 1",
    b"0x1f", b"0x", b"0X1F", b"010", b"08", b"0", b"00", b"1x", b"1,2", b"1\x00", b"1\x002", b"\n", b" ", b"1\v", b"1\xa0",
    b"\xa07", b"255", b"256", b"65535", b"65536", b"2147483647", b"2147483648", b"-2147483648", b"-2147483649",
    b"4294967295", b"4294967296", b"9223372036854775808", b"18446744073709551615", b"18446744073709551616",
    b"000000000000000000007", b"00000000000000000000007", b"1" * 21, b"1e3", b"1.5", b"\xff",
    b" " * 5000 + b"1", b"5" + b" " * 5000,
]  # fmt: skip

NATIVE = {
    "/proc/sys/net/ipv4/tcp_max_syn_backlog": Ints(),
    "/proc/sys/net/ipv4/tcp_rmem": Ints(1, count=3),
    "/proc/sys/net/ipv4/ip_default_ttl": Unsigned(1, 255),
    "/proc/sys/net/core/somaxconn": Ints(0),
    "/proc/sys/user/max_user_namespaces": Unsigned(high=INT_MAX),
}
"""Rows of the kernel's tables with the handlers that our kinds stand for; namespaced, so that the host's are not touched."""

ASK = """
import json, os, sys
def ask(path, before, written):
    with open(path, "wb", 0) as file:
        file.write(before)
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, written)
        number = 0
    except OSError as error:
        number = error.errno
    os.close(fd)
    with open(path, "rb") as file:
        return number, file.read().hex()
rows = json.load(sys.stdin)
json.dump([ask(path, bytes.fromhex(before), bytes.fromhex(written)) for path, before, written in rows], sys.stdout)
"""


def kernel(rows: list[tuple[str, bytes, bytes]]) -> list[tuple[int, bytes]]:
    """What the kernel answers to each write, and shows afterwards."""
    done = subprocess.run(
        ["unshare", "--user", "--net", "--map-root-user", sys.executable, "-c", ASK],
        input=json.dumps([(path, before.hex(), written.hex()) for path, before, written in rows]),
        check=True, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    return [(number, bytes.fromhex(shown)) for number, shown in json.loads(done.stdout)]


def ours(kind: Kind, before: bytes, written: bytes) -> tuple[int, bytes]:
    try:
        return 0, kind(before, written)
    except OSError as error:
        return error.errno or 0, before


@pytest.mark.parametrize(("path", "kind"), NATIVE.items(), ids=lambda value: str(value).rpartition("/")[2])
def test_a_kind_answers_what_the_kernels_handler_answers(path: str, kind: Kind) -> None:
    before = b"4096\t87380\t6291456\n" if "rmem" in path else b"64\n"
    answered = kernel([(path, before, written) for written in WRITTEN])
    wrong = {}
    for written, (number, shown) in zip(WRITTEN, answered, strict=True):
        mine = ours(kind, before, written)
        # Of a vector with a bad number the kernel keeps what came before it; that difference is meant.
        if mine[0] != number or (not number and mine[1] != shown):
            wrong[written[:40]] = {"kernel": (number, shown), "ours": mine}
    assert wrong == {}
