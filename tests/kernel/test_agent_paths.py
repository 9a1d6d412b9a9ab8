"""The agent walks paths as the kernel walks them for the tracee: every case is tried both ways."""

from __future__ import annotations

import contextlib
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


def furnish() -> None:
    """Run inside: what the paths below lead through."""
    for name in ("dir/sub", "cwd/below", "other"):
        Path("/data", name).mkdir(parents=True)
    Path("/data/file").touch()
    for name, goal in {
        "absolute": "/data/dir",
        "relative": "dir/sub",
        "up": "../../../../../data/dir",
        "dangling": "nowhere",
        "loop": "loop",
        "to-file": "file",
    }.items():
        Path("/data", name).symlink_to(goal)
    for uid, mode in ((1000, 0o700), (1000, 0o711), (0, 0o700)):
        path = Path(f"/data/of-{uid}-{mode:o}")
        (path / "in").mkdir(parents=True)
        os.chown(path / "in", uid, uid)
        os.chown(path, uid, uid)
        path.chmod(mode)


@pytest.fixture
def target() -> Iterator[Target]:
    with support.target() as made:
        made.inside(furnish)
        for name in ("host-700", "host-group"):
            (made.path("/etc") / name / "in").mkdir(parents=True)
        (made.path("/etc/host-700")).chmod(0o700)
        os.chown(made.path("/etc/host-group"), 0, FIRST + 50)
        (made.path("/etc/host-group")).chmod(0o750)
        yield made


@pytest.fixture
def agent(target: Target) -> Iterator[PinnedAgent]:
    with support.agent(target) as made:
        yield made


Outcome = tuple[str | None, list[str]]


def both(target: Target, agent: PinnedAgent, path: bytes) -> tuple[Outcome, Outcome]:
    """What mounting at `path` gives, natively and by the agent: the errno, and where the mount was seen."""
    outcomes: list[Outcome] = []
    ways = (
        lambda: target.inside(lambda: support.mount("none", os.fsdecode(path), "tmpfs", support.MS_RDONLY)),
        lambda: agent.stand_in(Anchor(path), name="x", flags=0),
    )
    for way in ways:
        before = [fields[4] for fields in target.mounts()]
        error = support.error_of(way)
        points = [fields[4] for fields in target.mounts()][len(before) :]
        outcomes.append((error, points))
        for point in points:
            _remove(target, point)
    return outcomes[0], outcomes[1]


def _remove(target: Target, point: str) -> None:
    def remove() -> None:
        support.setns(target.namespace_fd(support.Namespace.MOUNT), support.Namespace.MOUNT)
        support.umount(point)

    support.in_child(remove)


PATHS = [
    b"/data/dir",
    b"/data/dir/",
    b"//data//./dir/sub/..",
    b"/../../data/dir",
    b"/data/absolute",
    b"/data/absolute/sub",
    b"/data/relative",
    b"/data/up",
    b"/data/dangling",
    b"/data/loop",
    b"/data/to-file",
    b"/data/file",
    b"/data/file/",
    b"/data/file/x",
    b"/data/nowhere",
    b"/data/nowhere/deeper",
    b"/data/" + b"n" * 300,
    b"/data/of-1000-700",
    b"/data/of-1000-700/in",
    b"/data/of-1000-711/in",
    b"/data/of-0-700/in",
    b"/etc/host-700",
    b"/etc/host-700/in",
    b"/etc/host-group/in",
    b"/proc/1",
    b"/proc/sys/kernel",
    b"/" + b"x/" * 2100,
    b"",
]


@pytest.mark.parametrize("who", ["root", "root-without-dac", "user-with-dac", "user", "user-in-group"])
def test_absolute_paths(target: Target, agent: PinnedAgent, who: str) -> None:
    become(target, who)
    assert differences(target, agent, PATHS) == {}


def differences(target: Target, agent: PinnedAgent, paths: list[bytes]) -> dict[bytes, object]:
    """The paths for which the agent does otherwise than the kernel."""
    outcomes = {path: both(target, agent, path) for path in paths}
    return {path: (native, emulated) for path, (native, emulated) in outcomes.items() if native != emulated}


def become(target: Target, who: str) -> None:
    """All can mount; they differ in what directories they may search."""
    if who.startswith("user"):
        target.fsuid = target.fsgid = FIRST + 1000
    if who.endswith("without-dac") or who in {"user", "user-in-group"}:
        target.capabilities &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    if who == "user-in-group":
        target.groups = (FIRST + 50, FIRST + 51)


def test_relative_paths(target: Target, agent: PinnedAgent) -> None:
    os.close(target.cwd_fd)
    target.cwd_fd = os.open(target.path("/data/cwd"), os.O_PATH | os.O_CLOEXEC)
    paths = [b"below", b".", b"..", b"../dir", b"../../../data/dir", b"nowhere", b"../absolute", b"../up"]
    assert differences(target, agent, paths) == {}


def test_paths_of_a_tracee_in_a_chroot(target: Target, agent: PinnedAgent) -> None:
    for name in ("root_fd", "cwd_fd"):
        os.close(getattr(target, name))
        setattr(target, name, os.open(target.path("/data"), os.O_PATH | os.O_CLOEXEC))
    paths = [b"/data/dir", b"/absolute", b"/../../dir", b"/dir", b"/up", b"../dir", b"dir"]
    assert differences(target, agent, paths) == {}


def test_a_directory_that_only_the_host_may_enter_stays_closed(agent: PinnedAgent) -> None:
    at = Anchor(b"/etc/host-700/in")
    assert support.error_of(lambda: agent.stand_in(at, name="x", flags=0)) == "EACCES"


def test_a_directory_of_another_user_opens_by_capability_inside(target: Target, agent: PinnedAgent) -> None:
    agent.stand_in(Anchor(b"/data/of-1000-700/in"), name="x", flags=0)
    assert target.mount_at("/data/of-1000-700/in")


def test_a_descriptor_of_the_tracee_is_a_place_of_its_own(target: Target, agent: PinnedAgent) -> None:
    fd = os.open(target.path("/data/of-1000-700/in"), os.O_PATH | os.O_CLOEXEC)
    target.capabilities &= ~0b110
    try:
        agent.stand_in(Anchor(b"", fd), name="x", flags=0)
        assert target.mount_at("/data/of-1000-700/in")
    finally:
        os.close(fd)


def test_magic_links_are_not_followed(agent: PinnedAgent) -> None:
    at = Anchor(b"/proc/1/root/mnt")
    assert support.error_of(lambda: agent.stand_in(at, name="x", flags=0)) in {"ELOOP", "EACCES"}


def test_mount_id_is_that_of_the_mount_whose_root_it_is(target: Target, agent: PinnedAgent) -> None:
    fields = target.mount_at("/proc")
    assert fields is not None
    assert agent.mount_id(Anchor(b"/proc"), follow=True) == int(fields[0])
    assert support.error_of(lambda: agent.mount_id(Anchor(b"/proc/sys"), follow=True)) == "EINVAL"
    target.inside(lambda: Path("/data/link").symlink_to("/proc"))
    assert agent.mount_id(Anchor(b"/data/link"), follow=True) == int(fields[0])
    assert support.error_of(lambda: agent.mount_id(Anchor(b"/data/link"), follow=False)) == "EINVAL"


def test_the_agent_is_back_on_the_host_with_nothing_of_the_container(agent: PinnedAgent) -> None:
    def own() -> list[str]:
        proc = Path(f"/proc/{agent._pool._idle[0].link.pid}")
        fds = sorted((proc / "fd").iterdir(), key=lambda path: int(path.name))
        return [str(path.readlink()) for path in (*fds, proc / "cwd", proc / "root", *sorted((proc / "ns").iterdir()))]

    agent.stand_in(Anchor(b"/data/dir"), name="x", flags=0)
    first = own()
    assert {str(path.readlink()) for path in Path("/proc/self/ns").iterdir()} <= set(first)
    for path in PATHS:
        with contextlib.suppress(OSError):
            agent.stand_in(Anchor(path), name="x", flags=0)
    agent.mount("proc", Anchor(b"/mnt"), source=None, flags=0, options=None)
    agent.mount("sysfs", Anchor(b"/mnt"), source=None, flags=0, options=None)
    agent.set_hostname(b"x")
    assert own() == first
