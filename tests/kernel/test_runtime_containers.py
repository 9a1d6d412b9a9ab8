"""The runtime's operations with stock runc and crun on a busybox root filesystem: the kernel is the oracle."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import oci
from support.fake_supervisor import SHIM
from support.mounts import mounts
from support.waiting import wait_for

from interceptor.native.namespaces import in_mount_namespace
from runtime import dockercp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.root, pytest.mark.kernel]

if os.geteuid() != 0:
    pytest.skip("needs root", allow_module_level=True)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with oci.directory() as found:
        yield found


@pytest.fixture(params=["runc", "crun"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[oci.Host]:
    runtime = shutil.which(request.param)
    if runtime is None:
        pytest.skip(f"{request.param} is not installed")
    with oci.Host(tmp_path, runtime) as found:
        yield found
    left = [str(mount) for mount in mounts() if str(tmp_path) in mount.point]
    assert not left
    assert sorted(path.name for path in tmp_path.glob("run/containers/*")) == []
    assert sorted(path.name for path in tmp_path.glob("state/ids/*")) == []


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return oci.busybox_rootfs(tmp_path / "rootfs")


def layered(host: oci.Host, tmp_path: Path, change: Callable[[Path], None] = lambda _: None) -> Path:
    """An overlay as dockerd mounts it: absolute layers, upper and work beside the mount point; answers the mount
    point.
    """
    lower = oci.busybox_rootfs(tmp_path / "layers/lower")
    change(lower)
    top = tmp_path / "layers/top"
    for name in ("diff", "work", "merged"):
        (top / name).mkdir(parents=True)
    second = tmp_path / "layers/second"
    second.mkdir()
    (second / "etc").mkdir()
    (second / "etc/second").write_text("2\n")
    top.chmod(0o710)
    host.run(
        "mount",
        "-t",
        "overlay",
        "overlay",
        "-o",
        f"lowerdir={second}:{lower},upperdir={top}/diff,workdir={top}/work",
        str(top / "merged"),
    )
    return top / "merged"


def test_plain_directory_is_owned_by_root_inside_and_on_disk(host: oci.Host, plain: Path) -> None:
    said = host.output_of(
        "a",
        oci.config(
            plain,
            "sh",
            "-c",
            "stat -c %u:%g /bin /bin/busybox; cat /proc/self/uid_map; touch /new",
            cgroup=host.cgroup + "/a",
        ),
    )
    assert said.splitlines()[:2] == ["0:0", "0:0"]
    assert said.splitlines()[2].split() == ["0", "1879048192", "65536"]
    assert (plain / "new").stat().st_uid == 0


def test_overlay_layers_are_mapped_and_what_is_written_is_ordinary(host: oci.Host, tmp_path: Path) -> None:
    merged = layered(host, tmp_path)
    script = """
        stat -c %u /bin /etc/second; touch /etc/new; chown 1000:1000 /etc/new; rm /etc/second; rm -r /tmp; mkdir /tmp
        echo done
    """
    said = host.output_of("a", oci.config(merged, "sh", "-ec", script, cgroup=host.cgroup + "/a"))
    assert said.split() == ["0", "0", "done"]
    upper = tmp_path / "layers/top/diff"
    assert ((upper / "etc/new").stat().st_uid, (upper / "etc").stat().st_uid) == (1000, 0)
    whiteout = (upper / "etc/second").lstat()
    assert (whiteout.st_rdev, whiteout.st_uid) == (0, 0)
    assert os.getxattr(upper / "tmp", "trusted.overlay.opaque") == b"y"
    assert sorted(path.name for path in (tmp_path / "layers/top").iterdir()) == ["diff", "merged", "work"]


def test_engine_sees_the_containers_overlay_while_it_runs_and_its_own_afterwards(
    host: oci.Host, tmp_path: Path
) -> None:
    merged = layered(host, tmp_path)
    before = host.sh(f"grep -c ' {merged} ' /proc/self/mountinfo")
    bundle = host.bundle("a", oci.config(merged, "sh", "-c", "echo x > /written; sleep 100", cgroup=host.cgroup + "/a"))
    host.create("a", bundle)
    host.start("a")
    host.run(
        "sh", "-c", f"i=0; until test -s {merged}/written; do i=$((i+1)); test $i -lt 100 || exit 1; sleep 0.05; done"
    )
    assert host.sh(f"stat -c %u {merged}/written").strip() == "1879048192"
    host.sh(f"echo y > {merged}/by-host")  # docker cp: the host's root must be able to write
    host.delete("a")
    assert host.sh(f"grep -c ' {merged} ' /proc/self/mountinfo") == before
    assert json.loads((bundle / "config.json").read_text())["root"]["path"] == str(merged)


def test_read_only_bind_stays_read_only(host: oci.Host, plain: Path, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "file").write_text("")
    os.chown(volume / "file", 33, 33)
    values = oci.config(
        plain, "sh", "-c",
        "stat -c %u /ro /ro/file; mount -o remount,bind,rw /ro; touch /ro/x; umount /ro; touch /rw/x && echo ok",
        cgroup=host.cgroup + "/a",
    )  # fmt: skip
    values["mounts"] += [
        {"destination": "/ro", "type": "bind", "source": str(volume), "options": ["rbind", "ro", "rprivate"]},
        {"destination": "/rw", "type": "bind", "source": str(volume), "options": ["rbind", "rprivate"]},
    ]
    said = host.output_of("a", values)
    assert said.split()[:2] == ["0", "33"]
    assert "Read-only file system" in said
    assert said.splitlines()[-1] == "ok"
    assert (volume / "x").stat().st_uid == 0


def test_exec_has_the_containers_capabilities(host: oci.Host, plain: Path) -> None:
    bundle = host.bundle("a", oci.config(plain, "sleep", "100", cgroup=host.cgroup + "/a"))
    host.create("a", bundle)
    host.start("a")
    done = host.execute("a", "grep", "-E", "CapEff|CapBnd|NoNewPrivs", "/proc/self/status")
    host.delete("a")
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    full = f"{(1 << last + 1) - 1:016x}"
    assert done.stdout.split() == ["CapEff:", full, "CapBnd:", full, "NoNewPrivs:", "0"], done.stderr


def test_layers_by_path_for_kernels_that_take_no_descriptors(
    host: oci.Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.rootfs.layers_by_descriptor", lambda: False)
    merged = layered(host, tmp_path)
    script = "stat -c %u /bin /etc/second; touch /etc/new; rm /etc/second; echo done"
    said = host.output_of("a", oci.config(merged, "sh", "-ec", script, cgroup=host.cgroup + "/a"))
    assert said.split() == ["0", "0", "done"]
    assert (tmp_path / "layers/top/diff/etc/new").stat().st_uid == 0
    assert sorted(path.name for path in (tmp_path / "layers/top").iterdir()) == ["diff", "merged", "work"]


def test_submounts_of_a_volume_are_mapped_and_the_kernels_own_are_bound(
    host: oci.Host, plain: Path, tmp_path: Path
) -> None:
    volume = tmp_path / "volume"
    for name in ("disk", "proc"):
        (volume / name).mkdir(parents=True)
    host.sh(f"mount -t tmpfs -o mode=755 x {volume}/disk; touch {volume}/disk/file; mount -t proc proc {volume}/proc")
    values = oci.config(plain, "stat", "-c", "%u", "/v", "/v/disk", "/v/disk/file", cgroup=host.cgroup + "/a")
    values["mounts"].append({"destination": "/v", "type": "bind", "source": str(volume), "options": ["rbind"]})
    assert host.output_of("a", values).split() == ["0", "0", "0"]


def test_a_volume_over_dev_stays_as_it_is(host: oci.Host, plain: Path, tmp_path: Path) -> None:
    """As `docker run -v DIRECTORY:/dev` has it: nothing of an engine's lies below, and a runtime makes nothing there."""
    volume = tmp_path / "volume"
    volume.mkdir()
    os.mknod(volume / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    values = oci.config(plain, "ls", "/dev", cgroup=host.cgroup + "/a")
    values["mounts"] = [mount for mount in values["mounts"] if not mount["destination"].startswith("/dev")]
    values["mounts"].append({"destination": "/dev/", "type": "bind", "source": str(volume), "options": ["rbind"]})
    assert host.output_of("a", values).split() == ["null"]
    assert [path.name for path in volume.iterdir()] == ["null"]


def test_data_directories_lie_in_the_engines_layer_and_outlive_a_restart(host: oci.Host, tmp_path: Path) -> None:
    def change(lower: Path) -> None:
        (lower / "bin/dockerd").write_text("")
        (lower / "var/lib/docker").mkdir(parents=True)
        (lower / "var/lib/docker/of-the-image").write_text("")

    merged = layered(host, tmp_path, change)
    script = (
        "ls /var/lib/docker; stat -f -c %T /var/lib/docker; echo $1 > /var/lib/docker/$1; stat -c %u /var/lib/docker/*"
    )
    first = host.output_of("a", oci.config(merged, "sh", "-ec", script, "sh", "one", cgroup=host.cgroup + "/a"))
    assert first.split()[0] == "of-the-image"
    assert "overlay" not in first
    store = tmp_path / "layers/top/interceptor-data/var_lib_docker"
    assert sorted(path.name for path in store.iterdir()) == ["of-the-image", "one"]
    assert (store / "one").stat().st_uid == 0
    second = host.output_of("b", oci.config(merged, "sh", "-ec", script, "sh", "two", cgroup=host.cgroup + "/b"))
    assert second.split()[:2] == ["of-the-image", "one"]


def test_data_directories_of_a_plain_root_filesystem_go_with_the_container(host: oci.Host, plain: Path) -> None:
    (plain / "bin/containerd").write_text("")
    values = oci.config(plain, "touch", "/var/lib/containerd/x", cgroup=host.cgroup + "/a")
    bundle = host.bundle("a", values)
    host.create("a", bundle)
    assert (host.directory / "state/data/a/var_lib_containerd").is_dir()
    host.delete("a")
    assert not (host.directory / "state/data/a").exists()


def test_cgroups_are_delegated_and_limits_are_not(host: oci.Host, plain: Path) -> None:
    script = """
        mkdir /sys/fs/cgroup/pids/inner && echo $$ > /sys/fs/cgroup/pids/inner/cgroup.procs && grep pids /proc/self/cgroup
        echo 5 > /sys/fs/cgroup/pids/inner/pids.max && echo its own
        for hierarchy in /sys/fs/cgroup/*/; do mkdir $hierarchy/x || echo $hierarchy; rmdir $hierarchy/x; done
        echo 5 > /sys/fs/cgroup/pids/pids.max || echo limited by the host
    """
    if not Path("/sys/fs/cgroup/pids").is_dir():
        pytest.skip("the host has no cgroup v1 pids hierarchy")
    said = host.output_of("a", oci.config(plain, "sh", "-c", script, cgroup=host.cgroup + "/a"))
    *own, refused, last = said.splitlines()
    assert own[0].endswith(":/inner"), said
    assert own[1:] == ["its own"], said
    assert "Permission denied" in refused
    assert last == "limited by the host"


def test_device_nodes_are_the_containers_own(host: oci.Host, plain: Path) -> None:
    script = """
        stat -c '%u:%g %a %n' /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty
        echo x > /dev/null && cat < /dev/null && echo written
        busybox head -c 4 /dev/zero | busybox wc -c; busybox head -c 4 /dev/urandom | busybox wc -c; echo x > /dev/full
        chown 7:7 /dev/null && busybox chmod 600 /dev/null; stat -c '%u %a' /dev/null; readlink /dev/stdout; grep -c ' /dev/null ' /proc/self/mountinfo
    """  # noqa: E501
    before = Path("/dev/null").stat()
    other = host.bundle("b", oci.config(plain, "stat", "-c", "%u %a", "/dev/null", cgroup=host.cgroup + "/b"))
    host.create("b", other)
    said = host.output_of("a", oci.config(plain, "sh", "-c", script, cgroup=host.cgroup + "/a")).splitlines()
    host.start("b")
    wait_for(lambda: host.state("b") == "stopped", "the end of container b", within=20)
    host.delete("b")
    assert said[:6] == [f"0:0 666 /dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty")]
    assert said[6:9] == ["written", "4", "4"], said
    assert "No space left on device" in said[9]
    assert said[10:] == ["7 600", "/proc/self/fd/1", "1"]
    assert (host.directory / "b.out").read_text() == "0 666\n"
    after = Path("/dev/null").stat()
    assert (after.st_uid, after.st_mode) == (before.st_uid, before.st_mode)


def test_where_no_node_can_be_made_the_hosts_stay(host: oci.Host, plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise PermissionError(errno.EPERM, "mknod")

    monkeypatch.setattr("runtime.nodes.os.mknod", refuse)
    script = "echo x > /dev/null && stat -c %u /dev/null"
    assert host.output_of("a", oci.config(plain, "sh", "-c", script, cgroup=host.cgroup + "/a")) == "65534\n"


def test_processes_that_the_container_moved_are_listed(host: oci.Host, plain: Path) -> None:
    script = """
        for at in $(cat /proc/self/mountinfo | grep -o '/sys/fs/cgroup[^ ]*'); do
            test -w $at/cgroup.procs && mkdir -p $at/inner && echo 0 > $at/inner/cgroup.procs
        done
        sleep 1000 & touch /moved; wait
    """
    init = host.create("a", host.bundle("a", oci.config(plain, "sh", "-c", script, cgroup=host.cgroup + "/a")))
    host.start("a")
    wait_for((plain / "moved").exists, "the container moves its processes", within=10)
    shim = ["env", f"INTERCEPTOR_RUN={host.places.run}", str(SHIM), *host.oci]
    assert "/inner\n" in Path(f"/proc/{init}/cgroup").read_text()
    listed = json.loads(host.run(*shim, "ps", "--format", "json", "a").stdout)
    table = host.run(*shim, "ps", "a", "-eo", "pid,comm").stdout
    assert host.run(host.runtime, *host.oci, "state", "a").returncode == 0
    host.delete("a")
    assert len(listed) == 2
    assert init in listed
    assert sorted(line.split()[1] for line in table.splitlines()[1:]) == ["sh", "sleep"]


def test_file_capabilities_of_an_image_work_inside(host: oci.Host, tmp_path: Path) -> None:
    """A v2 security.capability of disk root is one of the container's root: fs/xattr.c, cap_inode_getsecurity()."""

    def change(lower: Path) -> None:
        program = lower / "bin/busybox-capable"
        shutil.copy2(lower / "bin/busybox", program)
        # struct vfs_cap_data: VFS_CAP_REVISION_2 | effective, CAP_NET_RAW permitted
        os.setxattr(program, "security.capability", bytes.fromhex("01000002" + "00200000" + "00" * 12))

    merged = layered(host, tmp_path, change)
    values = oci.config(
        merged, "/bin/busybox-capable", "grep", "CapEff", "/proc/self/status", cgroup=host.cgroup + "/a"
    )
    values["process"]["user"] = {"uid": 1000, "gid": 1000}
    assert host.output_of("a", values).split() == ["CapEff:", "0000000000002000"]


def test_copied_files_are_given_to_the_container(host: oci.Host, tmp_path: Path) -> None:
    merged = layered(host, tmp_path)
    bundle = host.bundle("a", oci.config(merged, "sleep", "100", cgroup=host.cgroup + "/a"))
    host.create("a", bundle)
    host.start("a")
    script = f"cd {merged}; mkdir -p new/dir; echo x > new/dir/root; echo x > new/user; chown 1000:7 new/user"
    host.sh(script + "; ln -s /nonexistent new/link; cp bin/busybox new/suid; chmod 4755 new/suid")
    upper = str(tmp_path / "layers/top/diff")
    view = f"{host.places.container('a')}/rootfs"
    ids = host.core.containers["a"].ids

    def adopt() -> int:
        with in_mount_namespace(host.namespace):
            return dockercp.adopt(upper, view, ids)

    assert host.call(adopt) == 6
    assert host.call(adopt) == 0
    said = host.execute(
        "a", "stat", "-c", "%u:%g %a %n", "/new", "/new/dir/root", "/new/user", "/new/link", "/new/suid"
    )
    host.delete("a")
    owners = [line.split()[0] for line in said.stdout.splitlines()]
    assert owners == ["0:0", "0:0", "1000:7", "0:0", "0:0"]
    assert "4755 /new/suid" in said.stdout
    assert (tmp_path / "layers/top/diff/new/user").stat().st_uid == 1000
