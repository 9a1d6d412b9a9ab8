"""Network filesystems: who is asked, through which network, and what nobody reads.

A host need not have a server for that. Under `make machine` there are two: that kernel's own, of nfs, and Samba.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import machine, whole
from support.bundles import world_readable_directory
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

POLICY = """\
extends: [default]
selectable: true
filesystems: {nfs: emulate, nfs4: emulate, cifs: emulate}
limits:
  servers: {nfs: ["127.0.0.0/8:/srv/*"], cifs: ["//localhost/share", "//127.0.0.1/share"]}
"""
"""Of the container's own loopback, where nobody listens."""

NO_SERVER = {"ENODEV", "ECONNREFUSED", "EHOSTDOWN"}
"""ENODEV: the kernel has no cifs."""


@pytest.fixture(params=["runc", "crun"], scope="module")
def box(request: pytest.FixtureRequest) -> Iterator[whole.Box]:
    with whole.host(request.param, {"servers": POLICY}) as host:
        yield host.box("servers")


def mount(box: whole.Box, fstype: str, source: str, options: str) -> tuple[int, dict[str, object]]:
    """What mount(2) says, and its trace. busybox adds an address and more to what it gives the kernel of an nfs."""
    done = box.exec("busybox", "mount", "-i", "-t", fstype, "-o", options, source, "/data")
    [event] = box.trace("--syscall", "mount", "--last", "1")
    return done.returncode, event


def test_a_server_that_is_listed_is_asked(box: whole.Box) -> None:
    """The kernel's own answer, in the container's network: there is no server."""
    status, event = mount(box, "cifs", "//127.0.0.1/share", "username=u,password=hunter2,vers=3.0")
    assert status != 0
    assert event["how"] == "emulated"
    assert event["errno"] in NO_SERVER, event
    assert str(event["rule"]).endswith("servers.yaml:5")


def test_one_that_is_not_listed_is_refused(box: whole.Box) -> None:
    status, event = mount(box, "cifs", "//127.0.0.1/other", "username=u,password=hunter2")
    assert status != 0
    assert (event["how"], event["errno"]) == ("denied", "EPERM")
    assert 'limits: {servers: {cifs: ["//127.0.0.1/other"]}}' in str(event["remedy"])


def test_an_address_of_another_server_is_refused(box: whole.Box) -> None:
    _, event = mount(box, "cifs", "//localhost/share", "ip=192.0.2.1,password=hunter2")
    assert event["errno"] == "EINVAL"
    assert str(event["why"]).startswith("data: ip=: no address of localhost")


def test_nobody_reads_the_password(box: whole.Box) -> None:
    mount(box, "cifs", "//127.0.0.1/share", "username=u,password=hunter2")
    call = 'mount("//127.0.0.1/share", "/data", "cifs", 0, "username=u,password=hunter2")'
    shown = [
        *box.lines("--syscall", "mount"), box.host.log.read_text(), str(box.trace()),
        box.host.interceptor("policy", "explain", box.id, call),
    ]  # fmt: skip
    assert "hunter2" not in "".join(shown)
    assert "password=***" in "".join(shown)


# -- with servers ------------------------------------------------------------------------------------------------------

SERVER, CLIENT = "192.0.2.1", "192.0.2.2"
SQUASHED = 1234
"""Who makes files on the server, whoever the client says it is."""
SMB_USER, PASSWORD = "daemon", "hunter2"
"""A user of the server's /etc/passwd, too: files are made as that one."""
LISTED = """\
extends: [default]
selectable: true
filesystems: {{nfs: emulate, nfs4: emulate, cifs: emulate}}
limits:
  servers: {{nfs: ["{server}:{served}/[!u]*"], cifs: ["//{server}/share", "//{server}/gone"]}}
"""


class Served:
    """Directories that the host serves, and a container whose only network leads to it."""

    def __init__(self, directory: Path, box: whole.Box) -> None:
        self.directory, self.box = directory, box

    def mount(self, fstype: str, name: str, options: str) -> dict[str, object]:
        """The trace of what mount(2) said."""
        source = f"//{SERVER}/{name}" if fstype == "cifs" else f"{SERVER}:{self.directory}/{name}"
        status, event = mount(self.box, fstype, source, options)
        assert (status == 0) == (event["errno"] is None), event
        return event

    def owner(self, name: str) -> tuple[int, str]:
        """Of a file on the server, and what is in it."""
        return (self.directory / name).stat().st_uid, (self.directory / name).read_text()


def host(script: str) -> None:
    subprocess.run(["sh", "-euc", script], check=True, stdin=subprocess.DEVNULL)


@contextlib.contextmanager
def nfs_server(directory: Path) -> Iterator[None]:
    """Of `squashed`, `as-is` and `unlisted`. Its lease is short: a new server makes who opens a file wait for as long."""
    squash = f"all_squash,anonuid={SQUASHED},anongid={SQUASHED}"
    host("modprobe nfsd; mountpoint -q /proc/fs/nfsd || mount -t nfsd none /proc/fs/nfsd")
    for number, (name, who) in enumerate({"squashed": squash, "as-is": "no_root_squash", "unlisted": squash}.items(), 1):
        options = f"rw,insecure,no_subtree_check,fsid={number},{who}"
        host(f"mkdir -m 0777 {directory}/{name}; exportfs -o {options} {CLIENT}:{directory}/{name}")
    host("rpc.mountd --no-nfs-version 3; rpc.nfsd --no-nfs-version 3 --grace-time 10 --lease-time 10 2")
    try:
        yield
    finally:
        host("rpc.nfsd 0; exportfs -ua; kill $(pidof rpc.mountd)")


SAMBA = """\
[global]
server role = standalone
interfaces = {server}/30
bind interfaces only = yes
smb ports = 445
disable spoolss = yes
pid directory = {own}
lock directory = {own}
state directory = {own}
cache directory = {own}
private dir = {own}
ncalrpc dir = {own}
log file = {own}/log
[share]
path = {directory}/share
read only = no
"""


@contextlib.contextmanager
def smb_server(directory: Path) -> Iterator[None]:
    """Of `share`, by Samba: the kernel's own server in Linux 6.1.176 dies of the first directory that is opened."""
    own, configuration = directory / "samba", directory / "smb.conf"
    own.mkdir(mode=0o700)
    configuration.write_text(SAMBA.format(server=SERVER, own=own, directory=directory))
    twice = f"{PASSWORD}\\n{PASSWORD}\\n"
    host(f"mkdir -m 0777 {directory}/share; printf '{twice}' | smbpasswd -c {configuration} -a -s {SMB_USER}")
    server = subprocess.Popen(["smbd", "--foreground", "-s", configuration], stdin=subprocess.DEVNULL)
    try:
        wait_for(lambda: f"{SERVER}:445" in listening(), "Samba", within=20)
        yield
    finally:
        whole.end(server)


def listening() -> str:
    return subprocess.run(["ss", "-ltn"], check=True, capture_output=True, text=True).stdout


@pytest.fixture(params=["runc", "crun"], scope="module")
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    with contextlib.ExitStack() as undo:
        directory = undo.enter_context(world_readable_directory())
        policy = LISTED.format(server=SERVER, served=directory)
        box = undo.enter_context(whole.host(request.param, {"servers": policy})).box("servers")
        host(f"""
            ip link add served type veth peer name eth0 netns {box.init}
            ip addr add {SERVER}/30 dev served; ip link set served up
            nsenter --net=/proc/{box.init}/ns/net sh -euc 'ip addr add {CLIENT}/30 dev eth0; ip link set eth0 up'
        """)
        undo.callback(host, "ip link del served")
        undo.enter_context(nfs_server(directory))
        undo.enter_context(smb_server(directory))
        yield Served(directory, box)
        box.sh("umount -a -t nfs4,cifs")


@machine.only
def test_files_of_an_nfs_server(served: Served) -> None:
    event = served.mount("nfs4", "squashed", "vers=4.2")
    assert (event["how"], str(event["rule"]).rpartition("/")[2]) == ("emulated", "servers.yaml:5")
    (served.directory / "squashed/there").write_text("of the server\n")
    assert served.box.sh("cat /data/there; echo of the container > /data/made; umount /data; ls /data") == "of the server\n"
    assert served.owner("squashed/made") == (SQUASHED, "of the container\n")


@machine.only
def test_an_nfs_server_sees_ids_as_the_host_does(served: Served) -> None:
    """docs/design.md, section 8, "ids of network filesystems"."""
    served.mount("nfs4", "as-is", "vers=4.1")
    (served.directory / "as-is/there").write_text("of the server's root\n")
    listed = served.box.sh("echo of the container > /data/made; stat -c %u /data/made /data/there; umount /data")
    first = Path(f"/proc/{served.box.init}").stat().st_uid
    assert listed.split() == ["0", "65534"]
    assert served.owner("as-is/made") == (first, "of the container\n")


@machine.only
def test_files_of_a_cifs_server(served: Served) -> None:
    served.mount("cifs", "share", f"username={SMB_USER},password={PASSWORD},vers=3.1.1")
    (served.directory / "share/there").write_text("of the server\n")
    listed = served.box.sh("cat /data/there; echo of the container > /data/made; stat -c %u /data/made; cat /proc/mounts")
    assert listed.startswith("of the server\n0\n")
    assert f"//{SERVER}/share /data cifs " in listed
    assert PASSWORD not in listed
    assert served.owner("share/made")[1] == "of the container\n"
    served.box.sh("umount /data")


@machine.only
def test_the_server_has_its_say_and_so_has_policy(served: Served) -> None:
    """A password that is wrong, a share that is none, an export that is none; one that is there and not listed."""
    wrong, right = (f"username={SMB_USER},password={word}" for word in ("hunter3", PASSWORD))
    assert served.mount("cifs", "share", wrong)["errno"] == "EACCES"
    assert served.mount("cifs", "gone", right)["errno"] == "ENOENT"
    assert served.mount("nfs4", "gone", "vers=4.2")["errno"] == "ENOENT"
    refused = served.mount("nfs4", "unlisted", "vers=4.2")
    assert (refused["how"], refused["errno"]) == ("denied", "EPERM")


@machine.only
def test_nobody_reads_the_password_that_the_server_got(served: Served) -> None:
    served.mount("cifs", "share", f"username={SMB_USER},password={PASSWORD}")
    kernels = subprocess.run(["dmesg"], check=True, capture_output=True, text=True).stdout
    shown = [*served.box.lines("--syscall", "mount"), served.box.host.log.read_text(), str(served.box.trace()), kernels]
    assert PASSWORD not in "".join(shown)
    assert "password=***" in "".join(shown)
    served.box.sh("umount /data")
