"""Proc and sysfs that are mounted inside carry their leaves, on the whole path with runc and crun underneath."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import cgroups, whole
from support.waiting import wait_for

from runtime.procfs.values import sysctl
from runtime.procfs.values.sysctl_kinds import Ints, Latched, Text, Unsigned

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtime.procfs.values.sysctl_kinds import Kind

pytestmark = [pytest.mark.root, pytest.mark.kernel]

HIDING = "extends: [everywhere]\nselectable: true\nhidden: [/proc/keys, /proc/acpi, /sys/kernel/btf, /proc/not-there]\n"
CPUS = Path("/sys/devices/system/cpu/cpu0/topology/core_siblings_list").read_text().strip()
LEAVES = 'grep -c " interceptor r" /proc/self/mountinfo'


@pytest.fixture(scope="module", params=["runc", "crun"])
def box(request: pytest.FixtureRequest) -> Iterator[whole.Box]:
    with whole.host(request.param, {"hiding": HIDING}) as host:
        yield host.box("everywhere")


def test_leaves_cover_the_containers_own_proc_and_sysfs(box: whole.Box) -> None:
    points = box.sh("grep ' interceptor r' /proc/self/mountinfo").split()[4::1]
    assert "/proc/meminfo" in points
    assert "/proc/stat" in points
    assert "/sys/devices/system/cpu/online" in points
    assert int(box.sh("grep -c . /proc/self/mountinfo")) < 90


def test_a_fresh_proc_and_sysfs_have_them_too(box: whole.Box) -> None:
    own = int(box.sh(LEAVES))
    script = f"""
        mkdir -p /mnt/proc /mnt/sys
        unshare -m -p -f sh -euc '
            mount -t proc proc /mnt/proc; mount -t sysfs sys /mnt/sys
            {LEAVES}; grep -c processor /mnt/proc/cpuinfo; cat /mnt/sys/devices/system/cpu/online'
        """
    out = box.sh(script).split()
    assert int(out[0]) == 2 * own
    assert out[1:] == [
        box.sh("grep -c processor /proc/cpuinfo").strip(),
        box.sh("cat /sys/devices/system/cpu/online").strip(),
    ]


def test_nested_user_namespaces_have_them(box: whole.Box) -> None:
    out = box.sh(
        f"unshare -U -r -m -p -f sh -euc 'mount -t proc proc /proc; {LEAVES}; head -1 /proc/meminfo'"
    ).splitlines()
    assert int(out[0]) >= int(box.sh(LEAVES))
    assert out[1] == box.sh("head -1 /proc/meminfo").strip()


def test_a_leaf_stays_where_programs_look(box: whole.Box) -> None:
    script = """
        for flag in "" -l; do
            umount $flag /proc/meminfo && exit 1
            unshare -m -p -f sh -euc "mount -t proc proc /proc; ! umount $flag /proc/meminfo"
        done
        head -1 /proc/meminfo
        """
    done = box.exec("sh", "-euc", script)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Invalid argument") == 4


def test_a_proc_goes_with_its_leaves(box: whole.Box) -> None:
    """Plainly, lazily and one by one; from a nested user namespace as well, where leaves are locked."""
    umounts = {"plain": "umount /mnt/one", "lazy": "umount -l /mnt/one", "one by one": ONE_BY_ONE}
    for umount in umounts.values():
        box.sh(f"mkdir -p /mnt/one; mount -t proc proc /mnt/one; {umount}; ! grep /mnt/one /proc/self/mountinfo")
    nested = "mount -t proc proc /mnt/one; umount /mnt/one; ! grep /mnt/one /proc/self/mountinfo"
    box.sh(f"unshare -U -r -m -p -f sh -euc '{nested}'")
    box.sh("mount -t sysfs sys /mnt/one; umount /mnt/one; ! grep /mnt/one /proc/self/mountinfo")


ONE_BY_ONE = "sed -n 's|^[^/]*/[^ ]* \\(/mnt/one[^ ]*\\) .*|\\1|p' /proc/self/mountinfo | sort -r | xargs -n 1 umount"
"""As `umount -R` does it."""


def test_a_proc_that_is_used_is_busy_and_stays_whole(box: whole.Box) -> None:
    """A file of it, a leaf, or a directory that somebody is in: as for a proc of the kernel's."""
    leaves = int(box.sh(LEAVES))
    for use in ("exec 3< /mnt/two/self/stat", "exec 3< /mnt/two/meminfo", "cd /mnt/two"):
        script = f"""
            mkdir -p /mnt/two; mount -t proc proc /mnt/two
            (set +e; {use}; umount /mnt/two; {LEAVES})
            umount /mnt/two
            """
        done = box.exec("sh", "-euc", script)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "busy" in done.stderr
        assert int(done.stdout) > leaves


def test_in_a_chroot(box: whole.Box) -> None:
    script = """
        mkdir -p /mnt/root/proc /mnt/root/bin; cp /bin/busybox /mnt/root/bin/sh; cp /bin/busybox /mnt/root/bin/mount
        cp /bin/busybox /mnt/root/bin/head; cp /bin/busybox /mnt/root/bin/umount
        chroot /mnt/root /bin/sh -euc 'mount -t proc proc /proc; head -n 1 /proc/meminfo; umount -l /proc'
        """
    assert box.sh(script) == box.sh("head -n 1 /proc/meminfo")


def test_what_policy_hides_is_empty(box: whole.Box) -> None:
    """In its own proc and sysfs, and in what is mounted inside."""
    for path in ("/proc/acpi", "/sys/kernel/btf"):
        if not Path(path).is_dir():
            pytest.skip(f"this host has no {path}")
    hiding = box.host.box("hiding")
    hiding.sh("for of in proc sys; do mkdir -p /mnt/$of; done; mount -t proc proc /mnt/proc; mount -t sysfs sys /mnt/sys")
    for place in ("", "/mnt"):
        look = f"wc -c < {place}/proc/keys; ls -A {place}/proc/acpi {place}/sys/kernel/btf"
        said = hiding.sh(f"{look}; echo x > {place}/proc/acpi/y || echo no")
        assert said.split() == ["0", f"{place}/proc/acpi:", f"{place}/sys/kernel/btf:", "no"]


def test_the_kernels_own_filesystems_are_empty_directories(box: whole.Box) -> None:
    """Where they would be mounted: sysfs has the directories, and what the host mounted there is the host's."""
    box.sh('cd /sys/kernel; for d in config debug security tracing; do [ ! -e $d ] || [ -z "$(ls -A $d)" ]; done')


def tried(kind: Kind, now: bytes) -> tuple[bytes, list[bytes]]:
    """Of a kind a value that is not `now`, and some that it refuses."""
    match kind:
        case Text():
            return b"|/bin/core %p", []
        case Ints(low, high, count):
            good = b"\t".join([b"3"] * count) if count > 1 else b"%d" % next(n for n in (low, high) if n != int(now))
            return good, [b"x", b"%d" % (low - 1), b"%d" % (high + 1)]
        case Latched(low, high):
            return b"%d" % (low + 1), [b"%d" % (high + 1)]
        case Unsigned(low, high):
            return b"%d" % (int(now) + 64), [b"-1", b"%d" % (high + 1), *([b"%d" % (low - 1)] if low else [])]
        case _:
            return b"%d" % (int(now) + 64), [b"1 2", b"0"]


REFUSED = "sh: write error: Invalid argument\n"


def test_every_sysctl_is_read_back_as_written_and_the_hosts_stays(box: whole.Box) -> None:
    kinds = {path: kind for tree in (sysctl.REMEMBERED, sysctl.RAISED) for path, kind in sysctl.paths(tree)}
    kinds[sysctl.HASHSIZE] = sysctl.Parameter(1)
    present = {leaf.path for leaf in sysctl.LEAVES if Path(leaf.path).exists()}
    before = {path: Path(path).read_bytes() for path in present}
    lines, wanted = [], ""
    for path in sorted(present):
        good, bad = tried(kinds[path], before[path])
        lines += [f"echo -n '{value.decode()}' > {path}; cat {path}" for value in (good, *bad)]
        wanted += "".join(f"{refused}{good.decode()}\n" for refused in ["", *[REFUSED] * len(bad)])
    assert box.exec("sh", "-c", "exec 2>&1\n" + "\n".join(lines)).stdout == wanted
    assert {path: Path(path).read_bytes() for path in present} == before


WISHES = {
    "vm.overcommit_memory": 1, "vm.panic_on_oom": 0, "kernel.panic": 10, "kernel.panic_on_oops": 1,
    "kernel.keys.root_maxkeys": 1000000, "kernel.keys.root_maxbytes": 25000000,  # kubelet
    "vm.max_map_count": 262144, "vm.swappiness": 1,  # Elasticsearch
    "net.core.somaxconn": 65535,  # Redis
    "fs.inotify.max_user_instances": 8192, "fs.inotify.max_user_watches": 1048576, "fs.file-max": 2000000,  # k3s
    "net.ipv4.ip_forward": 1, "net.ipv4.conf.all.forwarding": 1, "net.netfilter.nf_conntrack_tcp_be_liberal": 1,
    "net.netfilter.nf_conntrack_tcp_timeout_established": 86400, "net.netfilter.nf_conntrack_tcp_timeout_close_wait": 3600,
}  # fmt: skip
"""What they set at their start."""


def test_what_engines_and_databases_wish_is_granted(box: whole.Box) -> None:
    for name, value in WISHES.items():
        path = "/proc/sys/" + name.replace(".", "/")
        if Path(path).exists():
            assert box.sh(f"echo {value} > {path}; cat {path}").strip() == str(value)


LOOK = "cd %s/sys/devices/system/cpu; echo $(cat online) $(ls -d cpu[0-9]*) $(cat cpu0/topology/core_siblings_list)"


@pytest.mark.skipif("cpu" not in cgroups.controllers(), reason="containers here cannot be given CPU limits")
@pytest.mark.skipif(not CPUS.endswith("-1"), reason="says what is seen of two CPUs that are one package")
def test_directories_of_cpus_are_those_that_are_seen(box: whole.Box) -> None:
    """In its own sysfs, in one that is mounted inside and in a nested user namespace; when the limit changes, too."""
    made = whole.Box(box.host, "everywhere", ())
    made.change(lambda values: values["linux"].setdefault("resources", {}).update(cpu={"quota": 50000, "period": 100000}))
    box.host.undo.callback(made.remove)
    made.start()
    made.sh("mkdir -p /mnt/sys; mount -t sysfs sys /mnt/sys")
    nested = f"unshare -U -r -m -n sh -euc 'mount -t sysfs sys /mnt/sys; {LOOK % '/mnt'}'"
    looks = [LOOK % "", LOOK % "/mnt", nested]
    assert [made.sh(look).strip() for look in looks] == ["0 cpu0 0"] * 3
    assert "Permission denied" in made.exec("sh", "-c", "mkdir /sys/devices/system/cpu/cpu7").stderr
    _set_quota(made.init, 200000)
    wait_for(lambda: made.sh(LOOK % "/mnt").strip() == "0-1 cpu0 cpu1 0-1", "both CPUs", within=5)
    assert [made.sh(look).strip() for look in looks] == ["0-1 cpu0 cpu1 0-1"] * 3


def _set_quota(pid: int, quota: int) -> None:
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        number, names, path = line.split(":", 2)
        if "cpu" in names.split(","):
            Path(f"/sys/fs/cgroup/cpu{path}/cpu.cfs_quota_us").write_text(str(quota))
        elif number == "0" and Path(f"/sys/fs/cgroup{path}/cpu.max").exists():
            Path(f"/sys/fs/cgroup{path}/cpu.max").write_text(f"{quota} 100000")


def test_proc_shows_every_leaf_and_who_changed_it(box: whole.Box) -> None:
    box.sh("echo 17 > /proc/sys/vm/swappiness")
    found = json.loads(box.host.interceptor("proc", "--json", box.id))
    leaves = {leaf["path"]: leaf for leaf in found["leaves"]}
    mounted = box.sh("grep ' interceptor r' /proc/self/mountinfo | cut -d ' ' -f 5 | grep -v /mnt").split()
    assert sorted(leaves) == sorted({*mounted} - {"/sys/devices/system/cpu"})
    swappiness, meminfo = leaves["/proc/sys/vm/swappiness"], leaves["/proc/meminfo"]
    assert (swappiness["value"], swappiness["host"]) == ("17", Path("/proc/sys/vm/swappiness").read_text().strip())
    assert (swappiness["changed"]["comm"], swappiness["changed"]["uid"]) == ("sh", 0)
    assert (meminfo["rung"], meminfo["changed"]) == ("fuse", None)
    lines = box.host.interceptor("proc", box.id[:8]).splitlines()
    assert len(lines) == 1 + len(leaves)
    assert box.host.run(whole.PROGRAM, "proc", "nobody").stderr.startswith("interceptor: no container 'nobody'; there are ")
