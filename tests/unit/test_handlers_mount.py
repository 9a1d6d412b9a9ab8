"""mount(2): which of the ways an ordinary, an old-fashioned and a nested tracee's call goes."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import Any

import pytest
from support.fakes import Asked, FakeAgent, FakeNames, FakePrograms, FakeTracee, ask, policy

from interceptor.handlers.mount import MountArgs, MountFlag
from interceptor.limits import LentDevice, Limits, Server
from interceptor.policy import FilesystemDecision, Mount
from interceptor.ports import Namespace
from interceptor.registry import load
from interceptor.shortcut import filesystem_types
from interceptor.stanza import outside, reach
from interceptor.verdict import Continue, Fail, Return
from interceptor.wire import Anchor

PROC = MountArgs(b"proc", b"/proc", b"proc", MountFlag.MS_NOSUID | MountFlag.MS_NODEV, b"hidepid=2")
OVERLAY = MountArgs(b"o", b"/merged", b"overlay", 0, b"lowerdir=/l,upperdir=/u,workdir=/w")


def of_type(fstype: bytes | None) -> MountArgs:
    return replace(PROC, fstype=fstype)


@pytest.mark.parametrize("fstype", [None, b""])
def test_no_type_is_the_kernels_to_refuse(fstype: bytes | None) -> None:
    asked = ask("mount", of_type(fstype))
    assert isinstance(asked.verdict, Continue)
    assert asked.done == []


@pytest.mark.parametrize("fstype", [b"tmpfs", b"cgroup2", b"fuse.sshfs", b"nonsense", b"pro", b"proc\xff"])
def test_other_types_are_the_kernels(fstype: bytes) -> None:
    asked = ask("mount", of_type(fstype))
    assert isinstance(asked.verdict, Continue)
    assert asked.done == []
    assert asked.call.rule == "default.yaml:50"


@pytest.mark.parametrize("flags", [1 << 31, 1 << 32, 0xDEADBEEF_00000000, 0xFFFFFFFF_C0ED0000])
@pytest.mark.parametrize("fstype", [b"proc", b"overlay", b"debugfs", b"nfs"])
def test_flags_that_no_program_may_give_are_the_kernels_to_refuse(flags: int, fstype: bytes) -> None:
    asked = ask("mount", replace(PROC, fstype=fstype, flags=flags))
    assert isinstance(asked.verdict, Continue)
    assert asked.done == []


def test_a_type_that_policy_denies_names_itself() -> None:
    asked = ask("mount", of_type(b"nfs"))
    assert asked.verdict == Fail(errno.EACCES)
    assert asked.call.denied
    assert (asked.call.rule, asked.call.why) == ("default.yaml:55", "filesystem type 'nfs'")
    assert asked.done == []


def test_a_stand_in() -> None:
    asked = ask("mount", replace(PROC, fstype=b"debugfs", flags=MountFlag.MS_NOEXEC))
    assert asked.verdict == Return(0)
    assert asked.done == [("stand_in", Anchor(b"/proc"), "debugfs", MountFlag.MS_NOEXEC)]


@pytest.mark.parametrize(("fstype", "owner"), [(b"proc", Namespace.PID), (b"sysfs", Namespace.NET)])
def test_proc_and_sysfs_go_to_the_agent_with_everything_given(fstype: bytes, owner: Namespace) -> None:
    asked = ask("mount", of_type(fstype))
    assert asked.verdict == Return(0)
    name = fstype.decode()
    assert asked.done == [("mount", name, Anchor(b"/proc"), b"proc", PROC.flags, b"hidepid=2", ())]
    refused = ask("mount", of_type(fstype), tracee=FakeTracee(capabilities={owner: False}))
    assert isinstance(refused.verdict, Continue), "what it shows belongs to somebody else: the kernel's to refuse"
    assert refused.done == []


def test_a_nested_tracee_gets_the_covers_of_what_it_sees() -> None:
    covers = (b"/proc", b"kcore", b"sys")
    asked = ask("mount", PROC, tracee=FakeTracee(in_nested_user_namespace=True, covers={"proc": covers}))
    assert asked.done == [("mount", "proc", Anchor(b"/proc"), b"proc", PROC.flags, b"hidepid=2", covers)]


@pytest.mark.parametrize("fstype", [b"proc", b"sysfs"])
def test_a_nested_tracee_that_sees_none_is_left_to_the_kernel(fstype: bytes) -> None:
    """Without one to compare with, nobody knows what a fresh one would reveal (mount_too_revealing())."""
    asked = ask("mount", of_type(fstype), tracee=FakeTracee(in_nested_user_namespace=True))
    assert isinstance(asked.verdict, Continue)
    assert asked.done == []


def test_overlay_is_lent_to_the_containers_own_user_namespace_only() -> None:
    asked = ask("mount", OVERLAY)
    assert asked.verdict == Return(0)
    assert asked.done == [("overlay", Anchor(b"/merged"), b"o", 0, OVERLAY.data)]
    nested = ask("mount", OVERLAY, tracee=FakeTracee(in_nested_user_namespace=True))
    assert isinstance(nested.verdict, Continue)
    assert nested.done == []


@pytest.mark.parametrize(
    ("data", "native"),
    [
        (b"userxattr,lowerdir=/l", True),
        (b"lowerdir=/l,userxattr", True),
        (b"lowerdir=/userxattr", False),
        (b"lowerdir=/l,nouserxattr", False),
        (b"lowerdir=/l:userxattr", False),
        (None, False),
    ],
)
def test_userxattr_asks_for_what_the_kernel_gives(data: bytes | None, native: bool) -> None:
    asked = ask("mount", replace(OVERLAY, data=data))
    assert isinstance(asked.verdict, Continue) is native
    assert bool(asked.done) is not native


def test_policy_may_want_device_nodes_in_every_overlay() -> None:
    args = replace(OVERLAY, data=b"userxattr,lowerdir=/l")
    assert ask("mount", args, by=policy(overlay_nodes=True)).done == [("overlay", Anchor(b"/merged"), b"o", 0, args.data)]
    nested = ask("mount", args, by=policy(overlay_nodes=True), tracee=FakeTracee(in_nested_user_namespace=True))
    assert isinstance(nested.verdict, Continue)


def test_a_descriptor_of_the_tracee_is_where_it_goes() -> None:
    taken = Anchor(b"below", 9)
    asked = ask("mount", replace(PROC, target=b"/proc/self/fd/3/below"),
                tracee=FakeTracee(descriptors={b"/proc/self/fd/3/below": taken}))  # fmt: skip
    assert asked.done[0][2] == taken


def test_what_the_agent_says_goes_through() -> None:
    with pytest.raises(OSError, match="busy") as caught:
        ask("mount", PROC, agent=FakeAgent(fails=OSError(errno.EBUSY, "busy")))
    assert caught.value.errno == errno.EBUSY


MAGIC = 0xC0ED0000
NEW, OLD_STYLE = MountFlag.MS_NOSUID, MAGIC | MountFlag.MS_NOSUID


@pytest.mark.parametrize(
    ("flags", "looked_at"),
    [
        (0, True),
        (NEW, True),
        (OLD_STYLE, True),
        (0xFFFFFFFF_00000000, True),  # unknown bits: ours to look at, the kernel drops them
        (MountFlag.MS_BIND, False),
        (MountFlag.MS_BIND | MountFlag.MS_REC, False),
        (MountFlag.MS_REMOUNT, False),
        (MountFlag.MS_MOVE, False),
        (MountFlag.MS_PRIVATE | MountFlag.MS_REC, False),
        (MountFlag.MS_SHARED, False),
        (MAGIC | MountFlag.MS_BIND, False),
        (MAGIC | MountFlag.MS_REMOUNT, False),
    ],
)
def test_only_new_mounts_leave_the_kernel(flags: int, looked_at: bool) -> None:
    assert outside(reach(load()["mount"]), (0, 0, 0, flags, 0, 0)) is not looked_at


def test_the_old_magic_number_is_no_flag() -> None:
    asked = ask("mount", replace(PROC, flags=OLD_STYLE))
    assert asked.done[0][4] == MountFlag.MS_NOSUID
    assert ask("mount", replace(PROC, fstype=b"debugfs", flags=MAGIC)).done[0][3] == 0


def test_policy_decides_by_type_and_subtype() -> None:
    asked = ask("mount", of_type(b"nfs.special"))
    assert asked.verdict == Fail(errno.EACCES)
    assert asked.call.policy.filesystem(b"nfs").mount is Mount.DENY


def test_a_program_mounts_what_policy_names_one_for() -> None:
    by = policy(filesystems={"squashfs": FilesystemDecision(Mount.FUSE, "a.yaml:3", program="squashfuse")})
    args = MountArgs(b"image", b"/mnt/x", b"squashfs", MountFlag.MS_RDONLY | MountFlag.MS_NOSUID, b"loop,threads=single")
    programs = FakePrograms()
    assert ask("mount", args, by=by, programs=programs).verdict == Return(0)
    assert programs.ran == [
        [b"squashfuse", b"/proc/12/cwd/image", b"/proc/12/root/mnt/x", b"-o",
         b"ro,allow_other,default_permissions,nosuid,threads=single"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "said", "number"),
    [
        (1, "Can't find a SQUASHFS superblock", errno.EINVAL), (255, "", errno.EINVAL), (127, "", errno.ENODEV),
        (255, 'exec: "squashfuse": executable file not found in $PATH', errno.ENODEV),
    ],
)  # fmt: skip
def test_what_the_program_says_is_told(status: int, said: str, number: int) -> None:
    by = policy(filesystems={"squashfs": FilesystemDecision(Mount.FUSE, "a.yaml:3", program="squashfuse")})
    asked = ask("mount", of_type(b"squashfs"), by=by, programs=FakePrograms((status, said)))
    assert asked.verdict == Fail(number)
    assert asked.call.why == f"squashfuse ended with status {status}: {said or 'it said nothing'}"


@pytest.mark.parametrize("tracee", [FakeTracee(uid_inside=1000), FakeTracee(mount_namespace=1)])
def test_a_program_is_run_for_the_containers_root_in_its_own_mount_namespace(tracee: FakeTracee) -> None:
    by = policy(filesystems={"squashfs": FilesystemDecision(Mount.FUSE, "a.yaml:3", program="squashfuse")})
    programs = FakePrograms()
    assert ask("mount", of_type(b"squashfs"), by=by, tracee=tracee, programs=programs).verdict == Fail(errno.ENODEV)
    assert programs.ran == []


# -- servers -----------------------------------------------------------------------------------------------------------

SERVERS = {
    "nfs": (Server("10.1.0.0/16", "/srv/*", "a.yaml:5"), Server("*.example.org", "/home", "a.yaml:6")),
    "cifs": (Server("files.example.org", "team-*", "a.yaml:7"),),
}
NETWORK = policy(
    filesystems={t: FilesystemDecision(Mount.EMULATE, "a.yaml:3") for t in ("nfs", "nfs4", "cifs", "smb3")},
    limits=Limits(servers=SERVERS),
)
NAMES = FakeNames({"nas.example.org": ["10.9.0.1", "2001:db8::1"], "files.example.org": ["10.9.0.2"]})


def network(fstype: bytes, source: bytes | None, data: bytes | None = None, **who: Any) -> Asked:
    return ask("mount", MountArgs(source, b"/mnt", fstype, 0, data), by=NETWORK, names=NAMES, **who)


@pytest.mark.parametrize(
    ("fstype", "source", "data", "rule", "options"),
    [
        (b"nfs", b"10.1.2.3:/srv/a", None, 5, [("addr", b"10.1.2.3")]),
        (b"nfs4", b"10.1.2.3:/srv/a", b"vers=4.2,addr=10.1.2.3,clientaddr=10.0.0.1", 5,
         [("vers", b"4.2"), ("addr", b"10.1.2.3"), ("clientaddr", b"10.0.0.1")]),
        (b"nfs", b"NAS.example.org:/home", None, 6, None),
        (b"nfs", b"nas.example.org:/home", b"addr=2001:db8:0::1,sec=sys,hard", 6,
         [("addr", b"2001:db8::1"), ("sec", b"sys"), ("hard", None)]),
        (b"cifs", b"//files.example.org/team-a/sub", b"user=u,pass=a,,b=c,uid=1000,unc=\\\\files.example.org\\team-a\\sub", 7,
         [("user", b"u"), ("pass", b"a,b=c"), ("uid", b"1049576"), ("ip", b"10.9.0.2"), ("gid", b"1048576"),
          ("unc", b"\\\\files.example.org\\team-a\\sub"), ("nodfs", None)]),
    ],
)  # fmt: skip
def test_a_server_that_is_listed(fstype: bytes, source: bytes, data: bytes | None, rule: int, options: Any) -> None:
    if options is None:
        with pytest.raises(OSError, match="NAS") as caught:
            network(fstype, source, data)
        assert caught.value.errno == errno.EHOSTUNREACH
        return
    asked = network(fstype, source, data)
    assert asked.verdict == Return()
    assert asked.done == [("mount_network", fstype, Anchor(b"/mnt"), source, 0, options)]
    assert asked.call.rule == f"a.yaml:{rule}"


@pytest.mark.parametrize(
    ("fstype", "source"),
    [
        (b"nfs", b"10.2.0.1:/srv/a"), (b"nfs", b"10.1.2.3:/etc"), (b"nfs", b"10.1.2.3:/srv/../etc"),
        (b"nfs", b"nas.example.com:/home"),
        (b"nfs", b"[::ffff:10.1.2.3]:/srv/a"), (b"cifs", b"//other/team-a"), (b"cifs", b"//files.example.org/private"),
        (b"cifs", b"//files.example.org/team-a/../private"),
    ],
)  # fmt: skip
def test_one_that_is_not(fstype: bytes, source: bytes) -> None:
    asked = network(fstype, source, b"pass=secret")
    assert asked.verdict == Fail(errno.EPERM)
    assert asked.call.allow.startswith("limits: {servers: {"), asked.call.allow
    assert "secret" not in asked.call.allow + asked.call.why
    assert asked.done == []


@pytest.mark.parametrize(
    ("fstype", "source", "data", "why"),
    [
        (b"nfs", None, None, "source"),
        (b"nfs", b"nas", None, "source"),
        (b"nfs", b"10.1.2.3:/srv/a\n", None, "source"),
        (b"cifs", b"//files.example.org", None, "source"),
        (b"nfs", b"0x0a010203:/srv/a", None, "source"),
        (b"nfs", b"10.66051:/srv/a", None, "source"),
        (b"nfs", b"10.1.2.3:/srv/a", b"addr=10.1.2.4", "addr="),
        (b"nfs", b"nas.example.org:/home", b"addr=10.1.2.3", "addr="),
        (b"nfs", b"10.1.2.3:/srv/a", b"mountaddr=10.9.9.9", "mountaddr="),
        (b"nfs", b"10.1.2.3:/srv/a", b"mounthost=other", "mounthost="),
        (b"nfs", b"10.1.2.3:/srv/a", b"sec=krb5", "sec="),
        (b"nfs", b"10.1.2.3:/srv/a", b"fsc", "fsc="),
        (b"cifs", b"//files.example.org/team-a", b"ip=10.0.0.1", "ip="),
        (b"cifs", b"//files.example.org/team-a", b"unc=//other/team-a", "unc="),
        (b"cifs", b"//files.example.org/team-a", b"sec=krb5", "sec="),
        (b"cifs", b"//files.example.org/team-a", b"uid=65536", "uid="),
        (b"cifs", b"//files.example.org/team-a", b"gid=-1", "gid="),
        (b"cifs", b"//files.example.org/team-a", b"prefixpath=../../private", "prefixpath="),
        (b"cifs", b"//files.example.org/team-a", b"pass=a\nip=10.0.0.1", "pass="),
    ],
)
def test_what_would_lead_elsewhere(fstype: bytes, source: bytes | None, data: bytes | None, why: str) -> None:
    asked = network(fstype, source, data)
    assert asked.verdict == Fail(errno.EINVAL)
    assert why in asked.call.why
    assert "10." not in asked.call.why.replace(source.decode() if source else "", "").replace("10.1.2.3", "")
    assert asked.done == []


def test_a_nested_user_namespace_has_no_servers() -> None:
    asked = network(b"nfs", b"10.1.2.3:/srv/a", tracee=FakeTracee(in_nested_user_namespace=True))
    assert isinstance(asked.verdict, Continue)


# -- devices -----------------------------------------------------------------------------------------------------------

LENT = policy(
    devices={
        "/dev/data": LentDevice("/srv/data.ext4", "ext4", "a.yaml:4", options=("noload",)),
        "/dev/tools": LentDevice("/dev/vg0/tools", "squashfs", "a.yaml:5", read_only=True),
    }
)


def of_device(source: bytes | None, fstype: bytes, flags: int = 0, data: bytes | None = None, **who: Any) -> Asked:
    return ask("mount", MountArgs(source, b"/mnt", fstype, flags, data), by=LENT, **who)


def test_a_device_that_is_lent() -> None:
    asked = of_device(b"/dev/data", b"ext4", MountFlag.MS_NOSUID, b"rw,noload")
    assert asked.verdict == Return()
    assert asked.done == [("mount_device", "/srv/data.ext4", Anchor(b"/mnt"), b"/dev/data", MountFlag.MS_NOSUID)]
    assert asked.call.rule == "a.yaml:4"


@pytest.mark.parametrize(
    ("source", "fstype", "data", "number"),
    [
        (b"/dev/data", b"xfs", None, errno.EINVAL),
        (b"/dev/data", b"ext4", b"errors=panic", errno.EINVAL),
        (b"/dev/data", b"ext4", b"journal_path=/dev/sda", errno.EINVAL),
        (b"/dev/tools", b"squashfs", None, errno.EACCES),
    ],
)
def test_what_is_policys_to_say(source: bytes, fstype: bytes, data: bytes | None, number: int) -> None:
    asked = of_device(source, fstype, 0, data)
    assert asked.verdict == Fail(number)
    assert asked.call.why
    assert asked.done == []


@pytest.mark.parametrize(
    ("source", "fstype"),
    [(b"/dev/data", b"tmpfs"), (b"/dev/sda", b"ext4"), (None, b"ext4"), (b"/dev/data\xff", b"ext4")],
)
def test_everything_else_is_as_without(source: bytes | None, fstype: bytes) -> None:
    assert isinstance(of_device(source, fstype).verdict, Continue)


def test_a_nested_user_namespace_has_no_devices() -> None:
    nested = of_device(b"/dev/data", b"ext4", tracee=FakeTracee(in_nested_user_namespace=True))
    assert isinstance(nested.verdict, Continue)


def test_c_leaves_types_of_devices_to_the_handler() -> None:
    types = {t.name: t.ending for t in filesystem_types(LENT, "")}
    assert types["ext4"] is None
    assert types["xfs"] is None
    assert types[""] is not None
    assert "ext4" not in {t.name for t in filesystem_types(policy(), "")}
