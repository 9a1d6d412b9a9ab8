"""Mounts made by the agent, beside what the kernel does when the target asks for them itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import target as support

from interceptor import agent_pool
from interceptor.errors import AgentEndedError
from interceptor.native import agentlink
from interceptor.native import pin as native
from interceptor.wire import Anchor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.target import Target

    from interceptor.agent_pool import PinnedAgent
    from interceptor.native.agentlink import Link, Reply, Request

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(support.why_not() is not None, reason=str(support.why_not())),
]


@pytest.fixture
def target() -> Iterator[Target]:
    with support.target() as made:
        yield made


@pytest.fixture
def agent(target: Target) -> Iterator[PinnedAgent]:
    with support.agent(target) as made:
        yield made


def test_a_stand_in_is_an_empty_directory_of_the_containers_root(target: Target, agent: PinnedAgent) -> None:
    agent.stand_in(Anchor(b"/mnt"), name="debugfs", flags=support.MS_NOSUID)
    fields = target.mount_at("/mnt")
    assert fields is not None
    assert set(fields[5].split(",")) == {"ro", "nosuid", "relatime"}
    assert fields[-3:-1] == ["tmpfs", "debugfs"]
    made = target.path("/mnt").stat()
    assert (made.st_uid, made.st_gid, made.st_mode & 0o7777) == (support.FIRST, support.FIRST, 0o755)
    assert list(target.path("/mnt").iterdir()) == []


def test_what_was_made_before_is_known_by_a_number_that_no_other_mount_gets(target: Target, agent: PinnedAgent) -> None:
    """Not by mountinfo's, which the kernel gives again: what has it now may be somebody else's."""
    if not support.mounts_have_unique_ids():
        pytest.skip("needs Linux 6.8 (STATX_MNT_ID_UNIQUE)")
    agent.stand_in(Anchor(b"/mnt"), name="debugfs", flags=0)
    number = number_at(target, "/mnt")
    with support.agent(target, unless=agent.attached) as again:
        again.stand_in(Anchor(b"/mnt"), name="debugfs", flags=0)
    assert number_at(target, "/mnt") == number
    with support.agent(target, unless=number) as another:
        another.stand_in(Anchor(b"/mnt"), name="tracefs", flags=0)
    assert number_at(target, "/mnt") != number


def number_at(target: Target, point: str) -> int:
    """STATX_MNT_ID of the topmost mount there."""
    fields = target.mount_at(point)
    assert fields is not None
    return int(fields[0])


def mounted(target: Target, point: str) -> tuple[set[str], str, str, set[str]]:
    """Flags, type, source and options of the mount at `point`, as mountinfo shows them."""
    fields = target.mount_at(point)
    assert fields is not None, f"nothing is mounted at {point}"
    fstype, source, options = fields[fields.index("-") + 1 :][:3]
    return set(fields[5].split(",")), fstype, source, set(options.split(","))


@pytest.mark.parametrize(
    ("fstype", "flags", "options"),
    [
        ("proc", 0, None),
        ("proc", support.MS_NOSUID | support.MS_NODEV | support.MS_NOEXEC, "hidepid=2"),
        ("proc", support.MS_RDONLY, None),
        ("proc", 0, "gid=5,subset=pid"),
        ("proc", 0, ",hidepid=invisible,,=,gid=7"),
        ("sysfs", support.MS_RDONLY | support.MS_NOSUID, None),
        ("sysfs", 256, None),  # MS_NOSYMFOLLOW
        ("tmpfs", 16, "size=1m,mode=0700"),  # MS_SYNCHRONOUS
        ("tmpfs", 1024, None),  # MS_NOATIME
        ("tmpfs", 1 << 24 | 1024, None),  # MS_STRICTATIME wins
        ("tmpfs", 2048, None),  # MS_NODIRATIME
        ("tmpfs", 128 | 1 << 25, None),  # MS_DIRSYNC, MS_LAZYTIME
    ],
)
def test_flags_and_options_come_out_as_the_kernels_own(
    target: Target, agent: PinnedAgent, fstype: str, flags: int, options: str | None
) -> None:
    target.inside(lambda: support.mount("source", "/mnt", fstype, flags, options))
    native = mounted(target, "/mnt")
    target.inside(lambda: support.umount("/mnt"))
    agent.mount(
        fstype, Anchor(b"/mnt"), source=b"source", flags=flags, options=None if options is None else options.encode()
    )
    assert mounted(target, "/mnt") == native


@pytest.mark.parametrize(
    ("fstype", "options"),
    [("proc", "nonsense"), ("proc", "hidepid=9"), ("proc", "hidepid"), ("sysfs", "x=y"), ("tmpfs", "size=x")],
)
def test_bad_options_get_the_kernels_errno(target: Target, agent: PinnedAgent, fstype: str, options: str) -> None:
    at, data = Anchor(b"/mnt"), options.encode()
    native = support.error_of(lambda: target.inside(lambda: support.mount("none", "/mnt", fstype, 0, options)))
    emulated = support.error_of(lambda: agent.mount(fstype, at, source=b"none", flags=0, options=data))
    assert emulated == native == "EINVAL"
    assert target.mount_at("/mnt") is None


def test_proc_is_that_of_the_targets_pid_namespace(target: Target, agent: PinnedAgent) -> None:
    agent.mount("proc", Anchor(b"/mnt"), source=b"proc", flags=0, options=None)
    assert (target.path("/mnt/1/comm")).read_text() == target.path("/proc/1/comm").read_text()
    pids = {path.name for path in target.path("/mnt").iterdir() if path.name.isdigit()}
    assert pids == {"1"}


def test_a_path_in_procs_options_is_refused(target: Target, agent: PinnedAgent) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        agent.mount("proc", Anchor(b"/mnt"), source=b"proc", flags=0, options=b"hidepid=2,pidns=/proc/1/ns/pid")
    assert target.mount_at("/mnt") is None


def test_sysfs_is_that_of_the_targets_network_namespace(target: Target, agent: PinnedAgent) -> None:
    agent.mount("sysfs", Anchor(b"/mnt"), source=b"sysfs", flags=0, options=None)
    assert [path.name for path in target.path("/mnt/class/net").iterdir()] == ["lo"]


def test_one_sysfs_is_not_mounted_twice_at_one_place(target: Target, agent: PinnedAgent) -> None:
    native = support.error_of(lambda: target.inside(lambda: support.mount("sysfs", "/sys", "sysfs")))
    emulated = support.error_of(lambda: agent.mount("sysfs", Anchor(b"/sys"), source=b"s", flags=0, options=None))
    assert emulated == native == "EBUSY"


def test_a_mount_is_detached_whole_and_no_other_than_the_one_that_is_meant(target: Target, agent: PinnedAgent) -> None:
    def pile() -> None:
        support.mount("lower", "/mnt", "tmpfs")
        Path("/mnt/below").mkdir()
        support.mount("upper", "/mnt/below", "tmpfs")

    target.inside(pile)
    at, fields = Anchor(b"/mnt"), target.mount_at("/mnt")
    assert fields is not None
    for wrong in (Anchor(b"/mnt/below"), Anchor(b"/data"), Anchor(b"/nowhere")):
        assert support.error_of(lambda at=wrong: agent.detach(at, int(fields[0]), follow=True)) in ("EINVAL", "ENOENT")
    assert target.mount_at("/mnt/below") is not None
    agent.detach(at, int(fields[0]), follow=True)
    assert target.mount_at("/mnt") is None
    assert target.mount_at("/mnt/below") is None


@pytest.mark.parametrize("done", [False, True])
def test_an_agent_that_is_killed_in_it_takes_no_second_mount_away(
    target: Target, agent: PinnedAgent, monkeypatch: pytest.MonkeyPatch, *, done: bool
) -> None:
    """Killed before it began, or before it could say that it is done."""
    exchange, killed = agent_pool._exchange, []

    def killing(link: Link, request: Request, watch: Any) -> Reply:
        if request.op != agentlink.DETACH or killed:
            return exchange(link, request, watch)
        killed.append(link)
        if done:
            exchange(link, request, watch)
        link.kill()
        raise AgentEndedError("killed")

    target.inside(lambda: [support.mount(name, "/mnt", "tmpfs") for name in ("lower", "upper")])
    monkeypatch.setattr(agent_pool, "_exchange", killing)
    agent.detach(Anchor(b"/mnt"), number_at(target, "/mnt"), follow=True)
    assert [fields[-2] for fields in target.mounts() if fields[4] == "/mnt"] == ["lower"]
    assert killed


def test_whether_a_mount_is_there_is_known_by_a_number_that_no_other_gets(target: Target) -> None:
    if not support.mounts_have_unique_ids():
        pytest.skip("needs Linux 6.8 (STATX_MNT_ID_UNIQUE)")
    target.inside(lambda: support.mount("none", "/mnt", "tmpfs"))
    old = number_at(target, "/mnt")
    with support.agent(target) as made:
        place, texts = made._place(Anchor(b"/mnt")), {agentlink.PATH: b"/mnt"}
        numbers = (old, 0, 0, 0)
        unique = made._act(agentlink.MOUNT_ID, place, texts, flags=agentlink.UNIQUE, numbers=numbers).value
    if native.has_mount(target.proc_fd, unique) is None:
        pytest.skip("needs Linux 6.11 (listmount(2) of another mount namespace)")
    assert [native.has_mount(target.proc_fd, number) for number in (old, unique)] == [True, True]
    target.inside(lambda: support.umount("/mnt"))
    target.inside(lambda: support.mount("none", "/mnt", "tmpfs"))
    assert native.has_mount(target.proc_fd, unique) is False
