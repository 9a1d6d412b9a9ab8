"""What a system container cannot be asked for: a clear answer, nothing left behind, the others undisturbed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from support.leaks import Scope, expect_none, snapshot
from support.variants import Variant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from support.engine import Engine

pytestmark = [pytest.mark.root, pytest.mark.engine, pytest.mark.slow]

TINY = Variant("tiny", image="busybox")


@pytest.fixture(scope="module")
def engine(start_engine: Callable[[Variant], AbstractContextManager[Engine]]) -> Iterator[Engine]:
    with start_engine(TINY) as started:
        # Docker mounts its handle of the host's network namespace at first use, and keeps it.
        started.docker("run", "--rm", "--runtime", "runc", "--network", "host", TINY.image, "true")
        started.docker(
            "run", "--detach", "--name", "neighbour", "--runtime", "interceptor", TINY.image, "sleep", "3600"
        )
        yield started


def scope(engine: Engine) -> Scope:
    return Scope(
        marks=(engine.name, str(engine.directory)),
        cgroups=(engine.name,),
        namespaces_of=(os.getpid(), engine.pid),
        directories=(engine.run, engine.state),
        id_directory=engine.state / "ids",
    )


REFUSED = {
    "--privileged": "leave it out",
    "--network=host": "publish ports with -p",
    "--pid=host": "use runc for this container",
}


@pytest.mark.parametrize("option", REFUSED)
def test_the_hosts_namespaces_are_refused_with_what_to_do_instead(engine: Engine, option: str) -> None:
    before = snapshot(scope(engine))
    result = engine.docker("run", "--rm", "--runtime", "interceptor", option, TINY.image, "true", check=False)
    assert result.returncode == 125
    assert option.replace("network", "net") in result.stderr
    assert REFUSED[option] in result.stderr
    expect_none(before, scope(engine))
    assert engine.output("exec", "neighbour", "echo", "undisturbed") == "undisturbed"


@pytest.mark.parametrize("option", ["--userns=host", "--ipc=host", "--uts=host"])
def test_what_is_not_refused_does_not_weaken_the_user_namespace(engine: Engine, option: str) -> None:
    """Docker's way of saying `no remapping`, and namespaces without privilege over them: always a user namespace."""
    seen = engine.output("run", "--rm", "--runtime", "interceptor", option, TINY.image, "cat", "/proc/self/uid_map")
    inside, outside, _ = seen.split()
    assert inside == "0"
    assert int(outside) >= 65536


def test_a_program_that_is_not_there_leaves_nothing(engine: Engine) -> None:
    """Refused by the runtime underneath, half-way: what we prepared for it is undone."""
    before = snapshot(scope(engine))
    result = engine.docker("run", "--rm", "--runtime", "interceptor", TINY.image, "nosuchprogram", check=False)
    assert result.returncode == 127
    assert "nosuchprogram" in result.stderr
    expect_none(before, scope(engine))


def test_a_kernel_filesystem_as_a_volume_keeps_its_owners(engine: Engine) -> None:
    """It cannot be id-mapped, and whoever binds it wants it as it is; its files are nobody's inside."""
    listed = engine.output("run", "--rm", "--runtime", "interceptor", "--volume", "/proc/sys/kernel:/kernel:ro", TINY.image,
                           "cat", "/kernel/ostype")  # fmt: skip
    assert listed == "Linux"
