"""`limits` and `mount` of policy files: what they mean, and what is wrong with them."""

from __future__ import annotations

import re
import resource
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.policy_rows import ROWS, policy, write

from interceptor import policy_file
from interceptor.limits import RLIM_INFINITY, Ceilings, Device, LentDevice, Limits, Server
from interceptor.policy import FilesystemDecision, Mount
from interceptor.strict_yaml import PolicyErrors

if TYPE_CHECKING:
    from pathlib import Path

    from interceptor.policy import Policy

EVERYTHING = """\
default: native
limits:
  parked: 3
  agents: 2
  agent-deadline: 2min
  notifications: 500
  rlimits: {nofile: 0x100000, memlock: unlimited, locks: 5}
  nice: -5
  realtime-priority: 10
  io-realtime: 4
  devices:
    - fuse
    - c 116:*
    - b *:*
    - cgroup
  servers:
    nfs: ["10.1.0.0/16:/srv/*", "[2001:db8::/32]:/x", "*.example.org:/home"]
    cifs: ["//files.example.org/team-*", "//192.0.2.0/24/s"]
  oom-score-adj: -500
  sysctls: {fs.nr_open: 2000000}
"""


@pytest.fixture
def limits(tmp_path: Path) -> Limits:
    return policy(tmp_path, EVERYTHING).limits


def test_numbers(limits: Limits) -> None:
    assert (limits.parked, limits.agents, limits.agent_deadline_ms, limits.notifications) == (3, 2, 120_000, 500)
    rlimits = {resource.RLIMIT_NOFILE: 1 << 20, resource.RLIMIT_MEMLOCK: RLIM_INFINITY, 10: 5}
    assert limits.ceilings == Ceilings(
        rlimits, nice=-5, realtime_priority=10, io_realtime=4, oom_score_adj=-500, sysctls={"fs.nr_open": 2_000_000}
    )
    assert Limits().ceilings == Ceilings({}, nice=None, realtime_priority=0, io_realtime=None, oom_score_adj=None), (
        "nothing is lent unasked"
    )


def test_loop_devices(tmp_path: Path) -> None:
    assert policy(tmp_path, "default: native\nlimits: {loop-devices: 256}\n").limits.loop_devices == 256
    assert Limits().loop_devices == 0


LENT = """\
default: native
mount:
  devices:
    /dev/data: {from: /srv/data.ext4, type: ext4, options: [noload, commit=30]}
    /dev/tools: {from: /dev/vg0/tools, type: squashfs, read-only: true}
"""


def test_devices_that_are_lent(tmp_path: Path) -> None:
    found = policy(tmp_path, LENT).devices
    file = tmp_path / "default.yaml"
    assert found == {
        "/dev/data": LentDevice("/srv/data.ext4", "ext4", f"{file}:4", options=("noload", "commit=30")),
        "/dev/tools": LentDevice("/dev/vg0/tools", "squashfs", f"{file}:5", read_only=True),
    }


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("/srv/data: {from: /a, type: ext4}", "/dev/NAME"),
        ("/dev/a/b: {from: /a, type: ext4}", "/dev/NAME"),
        ("/dev/.a: {from: /a, type: ext4}", "/dev/NAME"),
        ("/dev/a: {from: a, type: ext4}", "absolute path"),
        ("/dev/a: {from: /a/../b, type: ext4}", "absolute path"),
        ("/dev/a: {from: /a, type: nfs}", "filesystem type"),
        ("/dev/a: {from: /a}", "`type:`"),
        ("/dev/a: {type: ext4}", "`from:`"),
        ("/dev/a: {from: /a, type: ext4, options: ['a,b']}", "without a comma"),
        ("/dev/a: {from: /a, type: ext4, read-only: yes}", "true or false"),
    ],
)
def test_devices_that_are_none(tmp_path: Path, entry: str, says: str) -> None:
    with pytest.raises(PolicyErrors, match=re.escape(says)):
        policy(tmp_path, f"default: native\nmount:\n  devices:\n    {entry}\n")


def test_devices(tmp_path: Path, limits: Limits) -> None:
    file = tmp_path / "default.yaml"
    assert limits.devices.listed[0] == Device("c", 10, 229, f"{file}:12")
    assert limits.devices.rule("c", 116, 99) == f"{file}:13"
    assert limits.devices.rule("b", 7, 0) == f"{file}:14"
    assert limits.devices.rule("c", 1, 3) == ""
    assert limits.devices.cgroup == f"{file}:15"
    assert not Limits().devices.cgroup


@pytest.mark.parametrize(
    ("fstype", "host", "export", "line"),
    [
        ("nfs", "10.1.2.3", "/srv/a/b", 17),
        ("nfs4", "10.1.2.3", "/srv/a", 17),
        ("nfs", "10.2.2.3", "/srv/a", None),
        ("nfs", "10.1.2.3", "/srv/../etc", None),
        ("nfs", "10.1.2.3", "/srv/..", None),
        ("nfs", "10.1.2.3", "/srv/a..b", 17),
        ("nfs", "2001:db8::5", "/x", 17),
        ("nfs", "2001:db9::5", "/x", None),
        ("nfs", "NAS.example.org.", "/home", 17),
        ("nfs", "example.org", "/home", None),
        ("cifs", "files.example.org", "team-a", 18),
        ("smb3", "192.0.2.9", "s", 18),
        ("cifs", "192.0.2.9", "..\\s", None),
        ("ceph", "10.1.2.3", "/srv/a", None),
    ],
)
def test_servers(limits: Limits, fstype: str, host: str, export: str, line: int | None) -> None:
    found = limits.server(fstype, host, export)
    assert (found.rule.rpartition(":")[2] if found else None) == (str(line) if line else None)


def test_a_pattern_over_names_never_matches_an_address() -> None:
    """Who may choose the address of a name is another question than which names are allowed."""
    assert Server("*", "/x", "r").holds("nas", "/x")
    assert not Server("*", "/x", "r").holds("192.0.2.1", "/x")
    assert not Server("192.0.2.0/24", "/x", "r").holds("nas", "/x")


@given(st.text(alphabet="./ab", max_size=12))
def test_nothing_is_climbed_out_of(path: str) -> None:
    holds = Server("nas", "/srv/*", "r").holds("nas", f"/srv/{path}")
    assert holds is (".." not in f"/srv/{path}".split("/"))


def fold(tmp_path: Path, own: str, base: str) -> Policy:
    write(tmp_path, "base", "default: native\n" + base)
    write(tmp_path, "default", "extends: [base]\n" + own)
    return policy_file.load_all([tmp_path], ROWS).get("default")


def test_own_entries_win(tmp_path: Path) -> None:
    p = fold(
        tmp_path,
        "limits: {agents: 9, rlimits: {nofile: 2}, devices: [fuse], servers: {nfs: ['a:/x']}}\n",
        "limits: {agents: 1, parked: 5, rlimits: {nofile: 1, core: 0}, nice: 0, devices: [null, cgroup],"
        " servers: {nfs: ['b:/x'], cifs: ['//c/x']}}\n",
    )
    assert (p.limits.agents, p.limits.parked, p.limits.ceilings.nice) == (9, 5, 0)
    assert p.limits.ceilings.rlimits == {resource.RLIMIT_NOFILE: 2, resource.RLIMIT_CORE: 0}
    assert [d.major for d in p.limits.devices.listed] == [10]
    assert not p.limits.devices.cgroup
    assert [s.host for servers in p.limits.servers.values() for s in servers] == ["a", "c"]


def test_programs_for_filesystems(tmp_path: Path) -> None:
    p = fold(
        tmp_path,
        "mount: {fuse: {squashfs: squashfuse, ext4: /usr/bin/fuse2fs}}\nfilesystems: {ext4: deny, xfs: {fuse: fusexfs}}\n",
        "mount: {fuse: {erofs: erofsfuse}}\nfilesystems: {squashfs: native}\n",
    )
    file = tmp_path / "default.yaml"
    assert p.filesystem(b"squashfs") == FilesystemDecision(Mount.FUSE, f"{file}:2", program="squashfuse")
    assert p.filesystem(b"ext4").mount is Mount.DENY, "filesystems says it better"
    assert p.filesystem(b"xfs").program == "fusexfs"
    assert p.filesystem(b"erofs").program == "erofsfuse"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("limits: {nice: -21}", ":2:16: '-21' stands where a nice value from -20 to 19 is expected"),
        ("limits: {rlimits: {nofil: 1}}", ":2:20: unknown resource limit 'nofil'; did you mean 'nofile'?"),
        ("limits: {rlimits: {nofile: -1}}", ":2:28: '-1' stands where unlimited or a number from 0"),
        ("limits: {rlimits: {nofile: infinity}}", ":2:28: 'infinity' stands where unlimited or a number"),
        ("limits: {realtime-priority: 100}", ":2:29: '100' stands where a priority, or 0 for none, from 0 to 99"),
        ("limits: {devices: [sda]}", ":2:20: 'sda' stands where a device (c MAJOR:MINOR"),
        ("limits: {devices: ['c 5000:1']}", ":2:20: 'c 5000:1' stands where a device with numbers up to 4095"),
        ("limits: {devices: fuse}", ":2:19: 'fuse' stands where a list (devices) is expected"),
        ("limits: {servers: {ceph: []}}", ":2:20: unknown network filesystem 'ceph'"),
        ("limits: {servers: {nfs: [nas]}}", ":2:26: 'nas' stands where HOST:/EXPORT (HOST a name"),
        ("limits: {servers: {nfs: ['10.0.0.1/8:/x']}}", ":2:26: '10.0.0.1/8': 10.0.0.1/8 has host bits set"),
        ("limits: {servers: {cifs: ['nas/x']}}", ":2:27: 'nas/x' stands where //HOST/SHARE"),
        ("limits: {notifications: 0}", ":2:25: '0' stands where calls a second from 1"),
        ("mount: {fuse: {squashfs: bin/x}}", ":2:26: 'bin/x' stands where the name of a program"),
        ("mount: {fusee: {}}", ":2:9: unknown key in mount: 'fusee'; did you mean 'fuse'?"),
        (
            "filesystems: {squashfs: fuse}",
            ":2:25: unknown decision 'fuse' (there are: deny, emulate, native, stand-in)",
        ),
        ("filesystems: {squashfs: {fuse: [a]}}", ":2:32: a list stands where the name of a program"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(PolicyErrors) as caught:
        policy(tmp_path, f"default: native\n{text}\n")
    assert expected in str(caught.value)
