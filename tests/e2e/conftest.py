"""What the end-to-end tests share: one data root, so that an image is imported once, and an engine for each variant."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from support.engine import Engine, reap_dead_engines, remains, shared_data_root, why_no_engine
from support.images import image
from support.runtime import over, why_not

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from support.variants import Variant

    Start = Callable[..., AbstractContextManager[Engine]]


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left_of_engines() -> Iterator[None]:
    """Before the first test remains of an earlier, killed run are removed; after the last one there are none."""
    if why_no_engine() is None:
        reap_dead_engines()
    yield
    assert remains() == []


@pytest.fixture(scope="session")
def data_root() -> Iterator[Path]:
    """A data root that engines use one after the other."""
    with shared_data_root() as directory:
        yield directory


@pytest.fixture(scope="session")
def start_engine(data_root: Path) -> Start:
    """Start an engine with our runtime registered and the variant's image imported; skip where that cannot be.

    Keyword arguments are environment variables of the runtime, and so of the supervisor that it starts.
    """

    @contextlib.contextmanager
    def start(variant: Variant, **environment: str) -> Iterator[Engine]:
        if reason := why_not(variant.underneath):
            pytest.skip(reason)
        tar = image(variant.image)
        runtimes = over(variant.underneath, **environment)
        with Engine(runtimes=runtimes, cgroup_view=variant.cgroup_view, data_root=data_root) as engine:
            engine.import_image(tar, variant.image)
            yield engine

    return start
