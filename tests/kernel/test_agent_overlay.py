"""Overlays that the agent mounts with the host's privilege for a container's root."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import target as support
from support.target import FIRST

from interceptor.wire import Anchor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.target import Target

    from interceptor.agent_pool import PinnedAgent

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(support.why_not() is not None, reason=str(support.why_not())),
]

LAYERS = b"lowerdir=/data/lower,upperdir=/data/upper,workdir=/data/work"


@pytest.fixture
def target() -> Iterator[Target]:
    with support.target() as made:

        def layers() -> None:
            for name in ("lower/dir", "lower2", "upper", "work"):
                Path(f"/data/{name}").mkdir(parents=True)
            for name in ("lower/file", "lower/dir/inner", "lower2/second"):
                Path(f"/data/{name}").write_text(name, encoding="ascii")

        made.inside(layers)
        yield made


@pytest.fixture
def agent(target: Target) -> Iterator[PinnedAgent]:
    with support.agent(target) as made:
        yield made


def names(directory: str) -> list[str]:
    return sorted(path.name for path in Path(directory).iterdir())


def overlay(agent: PinnedAgent, options: bytes, at: bytes = b"/mnt") -> None:
    agent.overlay(Anchor(at), source=b"overlay", flags=0, options=options)


def test_what_only_trusted_attributes_can_keep_is_kept(target: Target, agent: PinnedAgent) -> None:
    overlay(agent, LAYERS + b",redirect_dir=on,metacopy=on")

    def use() -> list[str]:
        os.chown("/mnt/file", 1000, 1000)  # metacopy: the data stays below
        Path("/mnt/dir").rename("/mnt/moved")  # redirect_dir
        Path("/mnt/dir").mkdir()  # opaque
        Path("/mnt/dir/new").mkdir()
        return names("/mnt/moved") + names("/mnt/dir")

    assert target.inside(use) == ["inner", "new"]
    upper = target.path("/data/upper")
    assert "trusted.overlay.metacopy" in os.listxattr(upper / "file")
    assert os.getxattr(upper / "moved", "trusted.overlay.redirect") == b"dir"
    assert os.getxattr(upper / "dir", "trusted.overlay.opaque") == b"y"
    assert (upper / "file").stat().st_uid == FIRST + 1000


def test_whiteouts(target: Target, agent: PinnedAgent) -> None:
    overlay(agent, LAYERS)
    target.inside(lambda: Path("/mnt/file").unlink())
    made = target.path("/data/upper/file").lstat()
    assert (made.st_mode & 0o170000, made.st_rdev) == (0o020000, 0)
    assert target.inside(lambda: names("/mnt")) == ["dir"]
