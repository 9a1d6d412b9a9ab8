"""Calls that libseccomp does not know: no profile can say anything of them, and they are no way around a policy."""

from __future__ import annotations

import errno
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import whole

from interceptor.args import X32_SYSCALL_BIT, Arch
from interceptor.registry import YOUNG, resolve

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the probe makes x86-64, i386 and x32 calls"),
]

HEADER = Path("/usr/include/asm-generic/unistd.h")
UNKNOWN = [name for name in YOUNG if resolve(name, Arch.X86_64) is None]
POLICIES = {
    "attributes": "extends: [xattr]\nselectable: true\n",
    "refused": "extends: [default]\nselectable: true\ncalls: {open_tree_attr: [{do: {deny: EACCES}}]}\n",
}


@pytest.fixture(params=["runc", "crun"], scope="module")
def host(request: pytest.FixtureRequest) -> Iterator[whole.Host]:
    with whole.host(request.param, POLICIES) as host:
        yield host


def errnos(box: whole.Box, numbers: list[int], abi: str = "64") -> list[str]:
    asked = "".join(" ".join([abi, str(number), *["-1"] * 6]) + "\\n" for number in numbers)
    said = box.sh(f"printf '{asked}' | {box.probe('syscall_probe')}")
    return [errno.errorcode.get(-int(line), line) for line in said.splitlines()]


def test_numbers_are_the_kernels() -> None:
    for name, number in YOUNG.items():
        assert all(resolve(name, arch) in (None, number) for arch in Arch)
        if HEADER.exists() and f"__NR_{name} " in HEADER.read_text():
            assert f"__NR_{name} {number}" in HEADER.read_text()


@pytest.mark.skipif(not UNKNOWN, reason="libseccomp knows them all")
def test_what_a_policy_decides_about_is_enosys(host: whole.Host) -> None:
    numbers = [YOUNG[name] for name in UNKNOWN]
    kernel = errnos(host.box(), numbers)
    attributes, refused = host.box("attributes"), host.box("refused")
    by_policy = {"attributes": [n for n in UNKNOWN if "xattr" in n], "refused": ["open_tree_attr"]}
    for box, name in ((attributes, "attributes"), (refused, "refused")):
        expected = [
            "ENOSYS" if call in by_policy[name] else answer for call, answer in zip(UNKNOWN, kernel, strict=True)
        ]
        assert errnos(box, numbers) == expected
    for abi, mark in (("32", 0), ("64", X32_SYSCALL_BIT)):
        found = errnos(attributes, [YOUNG[name] | mark for name in by_policy["attributes"] if name in UNKNOWN], abi)
        assert set(found) == {"ENOSYS"}
