"""Containers to attack from the inside, on each runtime."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from support import whole

if TYPE_CHECKING:
    from collections.abc import Iterator

LENT = "extends: [default, xattr]\nselectable: true\nlimits: {nice: -5, rlimits: {nofile: 65536}}\n"
SECRET = "what only the host may read"  # noqa: S105


@pytest.fixture(params=["runc", "crun"], scope="package")
def host(request: pytest.FixtureRequest) -> Iterator[whole.Host]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with whole.host(request.param, {"lent": LENT}) as made:
        (made.directory / "secret").write_text(SECRET)
        (made.directory / "kept").write_text("from the engine\n")
        yield made


@pytest.fixture(scope="package")
def lent(host: whole.Host) -> whole.Box:
    """A container whose root is lent nice values, limits and attributes; /kept was mounted from the start."""
    kept = {"destination": "/kept", "type": "bind", "source": str(host.directory / "kept"), "options": ["rbind"]}
    return host.box("lent", mounts=[kept])


@pytest.fixture(scope="package")
def box(host: whole.Host) -> whole.Box:
    """A container's root with every capability inside."""
    return host.box()
