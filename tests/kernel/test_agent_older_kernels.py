"""What the agent does where the kernel lacks a feature, tried with an agent that was built not to know the feature."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import target as support

from interceptor.native import agentlink
from interceptor.native.fd import Fd
from interceptor.policy import FilesystemDecision, Mount
from interceptor.ports import Context
from interceptor.wire import Anchor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.target import Target

    from interceptor.agent_pool import PinnedAgent

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(support.why_not() is not None, reason=str(support.why_not())),
    pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler: builds an agent of its own"),
]

SOURCES = Path(__file__).parents[2] / "interceptor" / "native"


@pytest.fixture(params=[612, 601], ids=["Linux 6.12", "Linux 6.1"])
def agent(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[PinnedAgent]:
    built = tmp_path / "agent"
    subprocess.run(
        [
            "cc", "-O2", "-std=gnu11", "-D_GNU_SOURCE", f"-DAGENT_NEWEST_KERNEL={request.param}", "-ffreestanding",
            "-fno-stack-protector", "-fno-pie", "-static", "-nostdlib", "-no-pie", "-o", str(built),
            str(SOURCES / "agent.c"), *map(str, SOURCES.glob("agent_*.c")),
        ],
        check=True,
    )  # fmt: skip
    fd = os.open(built, os.O_RDONLY | os.O_CLOEXEC)
    monkeypatch.setattr(agentlink, "executable", lambda: fd)
    with support.agent(target) as made:
        yield made
    os.close(fd)


@pytest.fixture
def target() -> Iterator[Target]:
    with support.target() as made:

        def layers() -> None:
            for name in ("lower/dir", "lower2", "upper", "work"):
                Path(f"/data/{name}").mkdir(parents=True)
                Path(f"/data/{name.split('/')[0]}/in-{name.split('/')[0]}").touch()
            Path("/data/upper/in-upper").unlink()
            Path("/data/work/in-work").unlink()

        made.inside(layers)
        yield made


def names(directory: str) -> list[str]:
    return sorted(path.name for path in Path(directory).iterdir())


def test_proc_is_made_by_a_child_in_the_pid_namespace(target: Target, agent: PinnedAgent) -> None:
    agent.mount("proc", Anchor(b"/mnt"), source=b"proc", flags=support.MS_NOSUID, options=b"hidepid=2,gid=5")
    assert {path.name for path in target.path("/mnt").iterdir() if path.name.isdigit()} == {"1"}
    fields = target.mount_at("/mnt")
    assert fields is not None
    assert "hidepid=invisible" in fields[-1]
    attempt = support.error_of(
        lambda: agent.mount("proc", Anchor(b"/mnt"), source=b"proc", flags=0, options=b"nonsense")
    )
    assert attempt == "EINVAL"
    agent.mount("proc", Anchor(b"/mnt"), source=b"proc", flags=0, options=None)


def test_overlay_layers_are_given_by_name(target: Target, agent: PinnedAgent) -> None:
    agent.overlay(
        Anchor(b"/mnt"),
        source=b"overlay",
        flags=0,
        options=b"upperdir=/data/upper,lowerdir=/data/lower:/data/lower2,workdir=/data/work,redirect_dir=on",
    )
    assert target.inside(lambda: names("/mnt")) == ["dir", "in-lower", "in-lower2"]
    target.inside(lambda: Path("/mnt/dir").rename("/mnt/moved"))
    assert os.getxattr(target.path("/data/upper/moved"), "trusted.overlay.redirect") == b"dir"
    for options in (b"lowerdir=/data/lower", b"lowerdir=/data/lower:/data/lower2,index=maybe"):
        attempt = support.error_of(
            lambda text=options: agent.overlay(Anchor(b"/mnt"), source=b"overlay", flags=0, options=text)
        )
        assert attempt == "EINVAL"


def test_the_new_api_takes_layers_by_name_or_sends_programs_back(
    target: Target, agent: PinnedAgent, request: pytest.FixtureRequest
) -> None:
    context = Context(b"overlay", FilesystemDecision(Mount.EMULATE, "here"))
    if request.node.callspec.params["agent"] < 605:
        assert support.error_of(lambda: agent.open_context(context, twin=True)) == "ENOSYS"
        return
    own = Fd(agent.open_context(context, twin=True))
    for key, value in (
        (b"lowerdir", b"/data/lower2:/data/lower2"),
        (b"lowerdir", b"/data/lower"),
        (b"lowerdir+", b"/data/lower2"),
    ):
        agent.set_overlay_option(context, key, value)
    for key, value in ((b"upperdir", b"/data/upper"), (b"workdir", b"/data/work"), (b"redirect_dir", b"on")):
        agent.set_overlay_option(context, key, value)
    agent.create_overlay(context)
    agent.mount_context(context, 0)
    agent.move_mount(context, Anchor(b"/mnt"), follow=True)
    own.close()
    assert target.inside(lambda: names("/mnt")) == ["dir", "in-lower", "in-lower2"]


def test_a_proc_of_the_new_api(target: Target, agent: PinnedAgent) -> None:
    context = Context(b"proc", FilesystemDecision(Mount.EMULATE, "here"))
    with Fd(agent.open_context(context, twin=False)) as own:
        support.create_superblock(own.fileno())
        agent.mount_context(context, 0)
        with Fd(agent.open_mount(context)) as root:
            assert {name for name in os.listdir(root.fileno()) if name.isdigit()} == {"1"}
        agent.move_mount(context, Anchor(b"/mnt"), follow=True)
    assert {path.name for path in target.path("/mnt").iterdir() if path.name.isdigit()} == {"1"}
