"""Known ways out of containers, each as its published attack goes, and each closed.

Every test would succeed on an implementation that does the obvious thing. What is attacked elsewhere: capabilities of a
nested user namespace alone (tests/e2e/test_nested.py, tests/kernel/test_handlers_nested.py), what layers and archives carry
along (test_layers.py), links of images and volumes (test_links.py), runtimes that are led elsewhere in proc
(test_redirected.py), what of ours is near (test_reach.py), racing callers (test_races.py).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import whole
from support.probes import probe
from support.stock import stock
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

REFUSED = {errno.EPERM, errno.EACCES}


def attack(box: whole.Box, *words: str) -> str:
    done = box.exec(box.probe("attack"), *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def opened(box: whole.Box, *paths: str) -> dict[str, tuple[int, int]]:
    """Path → errno of opening it for reading and for writing."""
    return _errors(attack(box, "open", *paths))


def opened_outside(*paths: str) -> dict[str, tuple[int, int]]:
    """The same by the host's root, whom nothing stops: what is to be kept from a container is there, and is found."""
    return _errors(outside("open", *paths))


def outside(*words: str) -> str:
    return subprocess.run([probe("attack"), *words], check=True, capture_output=True, text=True).stdout


def _errors(said: str) -> dict[str, tuple[int, int]]:
    rows = (line.split() for line in said.splitlines())
    return {row[0]: (int(row[2]), int(row[4])) for row in rows}


# -- what the kernel shows -------------------------------------------------------------------------------------------------

KNOBS = (
    "sys/kernel/core_pattern", "sys/kernel/modprobe", "sys/kernel/hotplug", "sysrq-trigger", "sys/vm/panic_on_oom",
    "sys/fs/binfmt_misc/register", "sys/kernel/poweroff_cmd", "sys/kernel/usermodehelper/bset",
)  # fmt: skip
SECRETS = ("kcore", "kmsg", "kpagecount", "kpageflags", "timer_list", "sched_debug", "keys", "slabinfo")
SYS = ("kernel/uevent_helper", "power/state", "kernel/vmcoreinfo", "kernel/mm/transparent_hugepage/enabled")


@pytest.fixture(scope="module", params=["the container's own", "mounted inside"])
def shown(box: whole.Box, request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """Where proc and sysfs are: the runtime's, and such as we mounted, as real root, on the container's behalf."""
    if request.param == "the container's own":
        yield "/proc", "/sys"
        return
    box.sh("mkdir -p /mnt/p /mnt/s; mount -t proc p /mnt/p; mount -t sysfs s /mnt/s")
    yield "/mnt/p", "/mnt/s"
    box.sh("umount /mnt/p /mnt/s")


def test_no_knob_of_the_host_can_be_turned(box: whole.Box, shown: tuple[str, str]) -> None:
    """CVE-2022-0492 and every write-up since: core_pattern, modprobe, uevent_helper, binfmt_misc, sysrq.

    What can be written is remembered for the container, and the host's stays what it was.
    """
    proc, sysfs = shown
    paths = {f"{proc}/{name}": Path("/proc", name) for name in KNOBS} | {f"{sysfs}/{name}": Path("/sys", name) for name in SYS}
    for path, (_, writing) in opened(box, *paths).items():
        if writing == 0:
            before = paths[path].read_bytes()
            box.exec("sh", "-c", f"echo '|/evil' > {path}; echo 1 > {path}; true")
            assert paths[path].read_bytes() == before, path
        else:
            assert writing in REFUSED | {errno.ENOENT, errno.EROFS}, path


def test_no_memory_of_the_host_can_be_read(box: whole.Box, shown: tuple[str, str]) -> None:
    proc, _ = shown
    for path, (reading, _) in opened(box, *(f"{proc}/{name}" for name in SECRETS)).items():
        if reading == 0:  # what it shows is the container's, or nothing
            assert path.rpartition("/")[2] in ("sched_debug", "keys", "timer_list", "slabinfo"), path
            assert "ffff" not in box.sh(f"head -c 4096 {path} | tr -d '\\0'"), path


def test_the_hosts_root_can_do_either() -> None:
    """Knobs turn, and secrets are read, as far as this kernel has them."""
    assert [path for path, (_, writing) in opened_outside(*(f"/proc/{name}" for name in KNOBS)).items() if writing == 0]
    assert [path for path, (reading, _) in opened_outside(*(f"/proc/{name}" for name in SECRETS)).items() if reading == 0]


def test_a_remount_gives_nothing_either(box: whole.Box) -> None:
    """A proc of ours is remounted with every option: nothing becomes writable that was not."""
    box.sh("mkdir -p /mnt/r; mount -t proc p /mnt/r; mount -o remount,rw,hidepid=0,gid=0 /mnt/r")
    found = opened(box, "/mnt/r/sys/kernel/core_pattern", "/mnt/r/sysrq-trigger")
    box.sh("umount /mnt/r")
    assert {writing for _, writing in found.values()} <= REFUSED | {errno.ENOENT}


# -- cgroups ---------------------------------------------------------------------------------------------------------------


def test_no_release_agent(box: whole.Box) -> None:
    """CVE-2022-0492: a cgroup v1 hierarchy's release_agent runs on the host."""
    found = box.sh("find /sys/fs/cgroup -name release_agent -maxdepth 3 2>/dev/null || true").split()
    for path, (_, writing) in opened(box, *found).items() if found else ():
        assert writing in REFUSED, path
    controllers = box.sh("cut -d: -f2 /proc/1/cgroup").split()
    for number, controller in enumerate(controllers):
        box.exec("sh", "-c", f"mkdir -p /mnt/c{number}; mount -t cgroup -o {controller} c /mnt/c{number}")
    box.exec("sh", "-c", "mkdir -p /mnt/evil; mount -t cgroup -o none,name=evil,release_agent=/evil c /mnt/evil")
    assert "evil" not in Path("/proc/self/cgroup").read_text()
    inside = box.sh("find /mnt -name release_agent 2>/dev/null || true").split()
    for path, (_, writing) in opened(box, *inside).items() if inside else ():
        assert writing in REFUSED, path
    box.sh("for at in /mnt/c* /mnt/evil; do umount $at 2>/dev/null || :; done")
    hosts = [str(path) for path in Path("/sys/fs/cgroup").glob("*/release_agent")]
    assert {writing for _, writing in opened_outside(*hosts).values()} <= {0}  # none is there with version 2 alone


def test_limits_of_the_own_cgroup_are_the_hosts(box: whole.Box) -> None:
    """The container owns its cgroup's directory, so that it makes cgroups below; its limits it does not."""
    names = " -o ".join(f"-name {name}" for name in ("'*limit_in_bytes'", "pids.max", "memory.max", "devices.allow"))
    found = box.sh(f"find /sys/fs/cgroup -maxdepth 2 {names} 2>/dev/null || true").split()
    for path, (_, writing) in opened(box, *found).items() if found else ():
        assert writing in REFUSED, path


# -- devices ---------------------------------------------------------------------------------------------------------------


CONTROL = os.makedev(10, 237)
"""loop-control: in contrast to disks and memory no kernel and no machine keeps it from the host's root."""


def test_nodes_of_disks_and_memory_that_an_image_brings_along(box: whole.Box) -> None:
    """Unpacked by the host's root, so they are real nodes, and anybody may open them as far as their mode goes."""
    disk = Path("/").stat().st_dev
    wanted = {
        "disk": (stat.S_IFBLK, disk),
        "mem": (stat.S_IFCHR, os.makedev(1, 1)),
        "kmsg": (stat.S_IFCHR, os.makedev(1, 11)),
        "control": (stat.S_IFCHR, CONTROL),
        "null": (stat.S_IFCHR, os.makedev(1, 3)),
    }
    for name, (kind, number) in wanted.items():
        os.mknod(box.rootfs / "data" / name, kind | 0o666, number)
        (box.rootfs / "data" / name).chmod(0o666)
    found = opened(box, *(f"/data/{name}" for name in wanted))
    for name in wanted:
        (box.rootfs / "data" / name).unlink()
    assert found.pop("/data/null") == (0, 0)
    assert {number for pair in found.values() for number in pair} <= REFUSED


def test_nodes_that_the_container_makes(box: whole.Box) -> None:
    disk = Path("/").stat().st_dev
    for kind, major, minor in (("b", os.major(disk), os.minor(disk)), ("c", 1, 1), ("c", 1, 2), ("c", 10, 237)):
        done = box.exec("sh", "-c", f"mknod -m 666 /data/node {kind} {major} {minor}")
        if done.returncode == 0:
            assert set(opened(box, "/data/node")["/data/node"]) <= REFUSED
        box.sh("rm -f /data/node")
    box.sh("mknod -m 666 /data/node c 1 3")  # which is lent
    assert opened(box, "/data/node")["/data/node"] == (0, 0)
    box.sh("rm /data/node")


def test_without_a_device_rule_of_the_engine(host: whole.Host) -> None:
    """An engine that forbids nothing leaves nothing forbidden, in the specification's words; we do."""
    box = whole.Box(host, whole.ALL, ())
    values = json.loads((box.bundle / "config.json").read_text())
    del values["linux"]["resources"]["devices"]
    (box.bundle / "config.json").write_text(json.dumps(values))
    host.undo.callback(box.remove)
    for name, kind, number in (("disk", stat.S_IFBLK, Path("/").stat().st_dev), ("control", stat.S_IFCHR, CONTROL)):
        os.mknod(box.rootfs / "data" / name, kind | 0o666, number)
        (box.rootfs / "data" / name).chmod(0o666)
    with stock(box) as made:
        said = made.exec(box.probe("attack"), "open", "/data/control").stdout
    box.start()
    found = opened(box, "/data/disk", "/data/control")
    box.remove()
    assert {number for pair in found.values() for number in pair} <= REFUSED
    assert _errors(said)["/data/control"] == (0, 0) or host.runtime == "runc"  # which forbids them by itself


# -- descriptors, executables and processes of ours ------------------------------------------------------------------------


def test_no_descriptor_comes_along(box: whole.Box) -> None:
    """CVE-2024-21626: a descriptor of the host's left open in init or in an exec."""
    assert box.sh("ls /proc/self/fd | wc -l").strip() == "4"  # and the directory itself
    leads = box.sh("for fd in /proc/1/fd/*; do readlink $fd; done").split()
    assert not [path for path in leads if str(box.host.directory) in path and "output" not in path]
    where = box.sh("for link in /proc/self/cwd /proc/1/cwd /proc/1/root; do readlink $link; done")
    assert where.split() == ["/", "/", "/"]


@pytest.mark.parametrize("kept", [True, False])
def test_a_descriptor_that_an_engine_leaves_open(box: whole.Box, kept: bool) -> None:
    """CVE-2024-21626 begins with one. It comes along where the engine wants that, and then leads to the host."""
    options = ["--preserve-fds", "1"] if kept else []
    command = box.host.command(
        whole.ENTRY, "--root", box.host.directory / "oci", "exec", *options, box.id, "cat", "/proc/self/fd/3/secret"
    )
    done = subprocess.run(
        ["sh", "-c", 'exec 3<"$0"; exec "$@"', box.host.directory, *command], env=box.host.environment,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, cwd="/",
    )  # fmt: skip
    assert ("what only the host may read" in done.stdout) == kept


@pytest.mark.parametrize("number", range(3, 11))
def test_no_working_directory_outside(box: whole.Box, number: int) -> None:
    """CVE-2024-21626: exec --cwd /proc/self/fd/N, where the runtime has a directory of the host's open."""
    up = "../" * 12
    done = box.host.entry(
        "exec",
        "--cwd",
        f"/proc/self/fd/{number}",
        box.id,
        "cat",
        f"{up}{box.host.directory}/secret",
        f"{up}etc/hostname",
    )
    assert "what only the host may read" not in done.stdout
    assert Path("/etc/hostname").read_text().strip() not in done.stdout.split()


def test_no_executable_of_ours_can_be_overwritten(box: whole.Box) -> None:
    """CVE-2019-5736: /proc/PID/exe of the runtime that enters the container, while it does, again and again."""
    programs = [shutil.which(box.host.runtime) or "", str(whole.ENTRY), str(whole.PROGRAM.resolve())]
    before = [hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in programs]
    look = f"{box.probe('attack')} exes; mount -t proc p /mnt 2>/dev/null && umount /mnt"
    watch = subprocess.Popen(
        box.host.command(
            whole.ENTRY, "--root", box.host.directory / "oci", "exec", box.id, "sh", "-c",
            f"while ! [ -e /data/enough ]; do {look}; done",
        ),
        env=box.host.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        cwd="/",
    )  # fmt: skip
    try:
        (box.rootfs / "data/evil").write_text("#!/proc/self/exe\n")
        (box.rootfs / "data/evil").chmod(0o755)
        for _ in range(25):
            box.exec("/data/evil")
            box.exec("true")
    finally:
        (box.rootfs / "data/enough").touch()
        said, _ = watch.communicate(timeout=30)
    (box.rootfs / "data/enough").unlink()
    assert [hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in programs] == before
    assert " write 0" not in said


def test_executables_of_the_containers_own_can_be(box: whole.Box) -> None:
    """By the same program: those of its own that end meanwhile."""
    program = "/mnt/busybox usleep 50000"
    said = box.sh(
        f"mount -t tmpfs t /mnt; cp /bin/busybox /mnt/busybox; "
        f"for n in 1 2 3 4 5 6; do {program} & {box.probe('attack')} exes; wait; done; umount /mnt"
    )
    assert " write 0" in said


def agents(host: whole.Host) -> list[int]:
    """Processes that the supervisor started."""
    listed = Path(f"/proc/{host.supervisor.pid}/task").glob("*/children")
    return [int(pid) for path in listed for pid in path.read_text().split()]


def test_the_agent_is_out_of_reach(box: whole.Box) -> None:
    """It acts inside, but lives outside: no number inside names it, and its executable is sealed."""
    box.sh("mount -t proc p /mnt && umount /mnt")
    wait_for(lambda: agents(box.host), "an agent", within=10)
    for pid in agents(box.host):
        status = Path(f"/proc/{pid}/status").read_text()
        assert len(re.findall(r"NSpid:((?:\t\d+)+)", status)[0].split()) == 1
        assert str(Path(f"/proc/{pid}/exe").readlink()).startswith("/memfd:")
        with pytest.raises(OSError, match=r"Text file busy|Operation not permitted"):
            os.open(f"/proc/{pid}/exe", os.O_WRONLY)
    numbers = [str(pid) for pid in (box.host.supervisor.pid, *agents(box.host))]
    for line in attack(box, "ptrace", *numbers).splitlines():
        words = line.split()
        assert {int(word) for word in words[2::2]} <= {errno.ESRCH, errno.EPERM}, line


def test_no_socket_of_ours_is_reachable(box: whole.Box) -> None:
    """Neither in the file system nor among the abstract ones."""
    assert "interceptor" not in attack(box, "sockets")
    with socket.socket(socket.AF_UNIX) as own:
        own.bind(str(box.rootfs / "data/own.sock"))
        found = box.sh("find / -xdev -type s 2>/dev/null || true")
    (box.rootfs / "data/own.sock").unlink()
    assert found == "/data/own.sock\n"
    assert re.search(r"@interceptor-\S+ connect 0", with_abstract_socket(box))
    assert str(box.host.directory) not in box.sh("cat /proc/net/unix")


def with_abstract_socket(box: whole.Box) -> str:
    """What the container finds when one of that name is in its network namespace."""
    listen = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind('\\0interceptor-test'); s.listen(); "
        "print(flush=True); sys.stdin.read()"
    )
    command = ["nsenter", f"--net=/proc/{box.init}/ns/net", sys.executable, "-c", listen]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdout.readline()
        found = attack(box, "sockets")
        other.stdin.close()
    return found


def test_no_file_by_its_handle(box: whole.Box) -> None:
    """The shocker: open_by_handle_at(2) of the root directory of the disk."""
    for value in re.findall(r"(?:own|root) (\d+)", attack(box, "handle", "/etc")):
        assert int(value) in REFUSED | {errno.EOPNOTSUPP, errno.ESTALE, errno.EINVAL}
    assert " own 0 " in outside("handle", str(box.rootfs))


# -- privileges on files ---------------------------------------------------------------------------------------------------


def test_capabilities_given_through_an_overlay_are_the_containers(box: whole.Box) -> None:
    """CVE-2021-3493: the overlay's mounter is real root; what is written must be no more than on a plain directory."""
    box.sh(
        "mkdir -p /data/o/l /data/o/u /data/o/w /data/o/m; cp /bin/busybox /data/o/l/program; cp /bin/busybox /data/o/plain"
    )
    box.sh("mount -t overlay -o lowerdir=/data/o/l,upperdir=/data/o/u,workdir=/data/o/w,metacopy=on o /data/o/m")
    said = attack(box, "setcap", "/data/o/m/program", "/data/o/plain")
    box.sh("umount /data/o/m")
    assert said == "setcap 0\nsetcap 0\n"
    over, plain = (
        os.getxattr(box.rootfs / path, "security.capability") for path in ("data/o/u/program", "data/o/plain")
    )
    assert over == plain
    # Without the id map, as a user of the host would reach it, it is root's like everything of an image; through the map
    # it is what it is for everybody: the container's root's alone (VFS_CAP_REVISION_3 with that root).
    view = box.host.directory / "run/containers" / box.id / "rootfs/data/o/plain"
    read = f"import os; print(os.getxattr({str(view)!r}, 'security.capability').hex())"
    mapped = bytes.fromhex(box.host.run(sys.executable, "-c", read).stdout)
    assert (struct.unpack_from("<I", mapped)[0] >> 24, struct.unpack_from("<I", mapped, 20)[0]) == (3, first_id(box))


def first_id(box: whole.Box) -> int:
    """Whom the container's root is on the host."""
    return int(Path(f"/proc/{box.init}/uid_map").read_text().split()[1])


def test_a_setuid_file_made_inside_is_nobodys_root(box: whole.Box) -> None:
    """On disk the owner is 0, since layers are id-mapped: whoever reaches the layer on the host must not run it."""
    box.sh("cp /bin/busybox /data/suid; chown 0:0 /data/suid; chmod 4755 /data/suid")
    file = box.rootfs / "data/suid"
    assert stat.S_IMODE(file.stat().st_mode) == 0o4755
    assert not any(stat.S_IMODE(parent.stat().st_mode) & 0o004 for parent in [box.directory.parent])


def test_device_nodes_cannot_be_smuggled_through_an_overlay(box: whole.Box) -> None:
    """A lower layer's node is copied up by the mounter, which is real root."""
    (box.rootfs / "data/low").mkdir()
    os.mknod(box.rootfs / "data/low/disk", stat.S_IFBLK | 0o666, Path("/").stat().st_dev)
    os.mknod(box.rootfs / "data/low/control", stat.S_IFCHR | 0o666, CONTROL)
    os.mknod(box.rootfs / "data/low/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    for name in ("disk", "control", "null"):
        (box.rootfs / "data/low" / name).chmod(0o666)
    box.sh("mkdir -p /data/up /data/work /data/all")
    box.sh("mount -t overlay -o lowerdir=/data/low,upperdir=/data/up,workdir=/data/work,metacopy=on o /data/all")
    box.exec("sh", "-c", "cd /data/all; chmod 777 disk control null; chown 0:0 disk control null")
    found = opened(box, *(f"/data/{layer}/{name}" for layer in ("all", "up") for name in ("disk", "control", "null")))
    box.sh("umount /data/all; rm -rf /data/up /data/work /data/all")
    for name in ("disk", "control", "null"):
        (box.rootfs / "data/low" / name).unlink()
    assert (0, 0) in (found.pop("/data/all/null"), found.pop("/data/up/null"))  # as far as the overlay has nodes at all
    assert {number for pair in found.values() for number in pair} <= REFUSED | {errno.ENOENT}
