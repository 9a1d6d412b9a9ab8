"""Intercepted calls with bad pointers, lengths and flags: what the tracee sees is what the kernel alone would say.

The oracle is the same program in the same namespaces of the same container, without the filter.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from support import whole

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


@pytest.fixture(scope="module")
def box() -> Iterator[whole.Box]:
    with whole.host("runc") as host:
        yield host.box()


@pytest.mark.parametrize("abi", ["64", "32"])
@pytest.mark.parametrize("calls", ["pointers", "pointers_mounts"])
def test_every_answer_is_the_kernels_own(box: whole.Box, calls: str, abi: str) -> None:
    program = box.probe(calls)
    native = box.unfiltered(program, abi)
    filtered = box.exec(program, abi)
    assert native.returncode == filtered.returncode == 0, native.stderr + filtered.stderr
    pairs = zip(native.stdout.splitlines(), filtered.stdout.splitlines(), strict=True)
    different = [f"kernel  {one}\n    ours    {other}" for one, other in pairs if one != other]
    assert len(native.stdout.splitlines()) > 200
    assert not different, f"{len(different)} differences:\n    " + "\n    ".join(different)
    events = box.trace()
    assert not [event for event in events if event["how"] == "failed"]
