from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from interceptor.container import IdRange
from interceptor.errors import ConfigError, InterceptorError
from interceptor.native.fd import Fd
from runtime import binds, cgroups, config, datadirs, mountinfo, overlay, place, requests
from runtime.config import HostConfig, Ids
from runtime.idrange import Ranges
from runtime.underneath import Runtimes, find

# -- configuration -------------------------------------------------------------------------------------------------------


def test_the_configuration_file_is_read() -> None:
    found = config.parse("runtime: crun\nids: {first: 1000000, size: 131072, count: 10}\ndata: false\n", "f")
    assert found == HostConfig("crun", Ids(1000000, 10), 131072, data=False, origin="f")


def test_an_empty_file_says_nothing() -> None:
    assert config.parse("# nothing\n", "f") == HostConfig(origin="f")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("runtime: [a]", r"f:1: a name"),
        ("a: 1", r"f:1: unknown key 'a'; allowed are runtime, ids, data"),
        ("ids:\n  first: x", r"f:2: an integer from 65536"),
        ("ids:\n  first: 7", r"f:2: an integer from 65536"),
        ("data: 1", r"f:1: true or false"),
        ("data: true\ndata: true", r"f:2: .*second time"),
        ("- a", r"f:1: a mapping is needed"),
        ("a: [", r"f:\d: "),
        ("ids: {first: 4294900000, count: 10}", "beyond the last id"),
    ],
)
def test_what_is_wrong_in_it_is_said_with_its_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config.parse(text, "f")


def test_a_file_that_is_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        config.load({"INTERCEPTOR_CONFIG": str(tmp_path / "none.yaml")})


# -- id ranges -----------------------------------------------------------------------------------------------------------


def ranges(directory: Path, count: int = 4, **options: object) -> Ranges:
    return Ranges(str(directory), Ids(1000000, count), "test", **{"foreign": (), **options})  # type: ignore[arg-type]


def test_ranges_are_exclusive_persistent_and_reused(tmp_path: Path) -> None:
    first = ranges(tmp_path)
    assert first.allocate("a", 65536) == IdRange(1000000, 65536)
    assert ranges(tmp_path).allocate("b", 65536) == IdRange(1065536, 65536)
    first.release("a")
    first.release("a")
    assert first.allocate("c", 1000).first == 1000000
    assert (tmp_path / "ids").stat().st_mode & 0o777 == 0o700


def test_a_pod_shares_its_range_until_the_last_is_gone(tmp_path: Path) -> None:
    table = ranges(tmp_path)
    pod = table.allocate("pause", 65536)
    assert table.allocate("app", 65536, with_container="pause") == pod
    table.release("pause")
    assert table.allocate("other", 65536) != pod
    table.release("app")
    assert table.allocate("next", 65536) == pod


def test_exhaustion_says_how_many_where_and_what_to_do(tmp_path: Path) -> None:
    table = ranges(tmp_path, count=2)
    table.allocate("a", 65536)
    table.allocate("b", 65536)
    with pytest.raises(InterceptorError, match=r"2 are in use in 1000000 … 1131071 \(test\); raise ids.count"):
        table.allocate("c", 65536)
    table.release("b")
    with pytest.raises(InterceptorError, match="no id range of 131072"):
        table.allocate("c", 131072)


def test_subordinate_ids_of_users_are_stepped_over(tmp_path: Path) -> None:
    subuid = tmp_path / "subuid"
    subuid.write_text("alice:1000000:70000\nbroken\n# x:y:z\n")
    assert ranges(tmp_path, foreign=(str(subuid),)).allocate("a", 65536).first == 1000000 + 2 * 65536


def test_what_does_not_live_is_dropped(tmp_path: Path) -> None:
    table = ranges(tmp_path)
    for name in "abc":
        table.allocate(name, 65536)
    assert table.retain(["b"]) == ["a", "c"]
    assert [path.name for path in (tmp_path / "ids").iterdir()] == ["b"]


def test_a_damaged_entry_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "ids").mkdir()
    (tmp_path / "ids/b").symlink_to("1000000+x")
    with pytest.raises(ConfigError, match=r"ids/b leads to '1000000\+x' instead of FIRST\+SIZE"):
        ranges(tmp_path).allocate("a", 65536)
    (tmp_path / "ids/b").unlink()
    (tmp_path / "ids/b").write_text("")
    with pytest.raises(ConfigError, match="ids/b is no symbolic link"):
        ranges(tmp_path).allocate("a", 65536)
    (tmp_path / "ids/b").unlink()
    ranges(tmp_path).allocate("a", 65536)


# -- overlays ------------------------------------------------------------------------------------------------------------


def mount(options: str, point: str = "/d/overlay2/id/merged") -> mountinfo.Mount:
    return mountinfo.parse(f"1 2 0:1 / {point} rw,relatime - overlay overlay {options}\n")[0]


def test_absolute_layers() -> None:
    found = overlay.read(mount("rw,lowerdir=/l/b:/l/a,upperdir=/u/diff,workdir=/u/work,index=off,userxattr,xino=off"))
    assert found.lower == ("/l/b", "/l/a")
    assert (found.upper, found.work) == ("/u/diff", "/u/work")
    assert found.options == (("userxattr", None), ("xino", "off"))


def test_dockers_relative_layers_start_above_the_mount_point() -> None:
    exists = {"/d/overlay2/l/A", "/d/overlay2/l/B", "/d/overlay2/id/diff", "/d/overlay2/id/work"}
    found = overlay.read(mount("rw,lowerdir=l/A:l/B,upperdir=id/diff,workdir=id/work"), exists.__contains__)
    assert found.lower == ("/d/overlay2/l/A", "/d/overlay2/l/B")
    assert found.upper == "/d/overlay2/id/diff"


def test_containerds_relative_layers_start_above_the_absolute_upper() -> None:
    options = "rw,lowerdir=12/fs:11/fs,upperdir=/c/snapshots/13/fs,workdir=/c/snapshots/13/work"
    found = overlay.read(mount(options, "/run/b/rootfs"), {"/c/snapshots/12/fs", "/c/snapshots/11/fs"}.__contains__)
    assert found.lower == ("/c/snapshots/12/fs", "/c/snapshots/11/fs")


def test_relative_layers_that_cannot_be_found_are_an_error() -> None:
    with pytest.raises(ConfigError, match="'l/A' is the first"):
        overlay.read(mount("rw,lowerdir=l/A"), lambda _: False)


def test_one_option_each_data_layers_and_escapes() -> None:
    found = overlay.read(mount(r"ro,lowerdir+=/a\040b,lowerdir+=/c,datadir+=/data,metacopy=on"))
    assert (found.lower, found.data, found.upper) == (("/a b", "/c"), ("/data",), None)
    found = overlay.read(mount(r"ro,lowerdir=/a\134:b:/c::/data,redirect_dir=on"))
    assert (found.lower, found.data) == (("/a:b", "/c"), ("/data",))


def test_mountinfo_escapes_and_stacking() -> None:
    text = (
        "1 0 0:1 / / rw - ext4 /dev/a rw\n"
        "2 1 0:2 / /m\\040x rw,relatime shared:1 master:2 - tmpfs tmpfs rw,size=1k\n"
        "3 2 0:3 /sub /m\\040x rw - ext4 /dev/b rw\n"
        "4 3 0:4 / /m\\040x/y rw - proc proc rw\n"
    )
    table = mountinfo.parse(text)
    top = mountinfo.topmost(table, "/m x")
    assert top is not None
    assert (top.id, top.root, top.fstype) == (3, "/sub", "ext4")
    assert [found.id for found in mountinfo.below(table, "/m x")] == [4]
    assert mountinfo.topmost(table, "/m") is None


# -- cgroups -----------------------------------------------------------------------------------------------------------

HIERARCHIES = """\
31 25 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
32 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
33 25 0:28 /docker/1 /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
"""


@pytest.mark.parametrize(
    ("membership", "expected"),
    [
        ("4:cpu,cpuacct:/\n", "/sys/fs/cgroup/cpu,cpuacct/tasks"),
        ("4:cpu,cpuacct:/a/b\n1:name=systemd:/docker/1\n", "/sys/fs/cgroup/cpu,cpuacct/a/b/tasks"),
        ("1:name=systemd:/docker/1\n", "/sys/fs/cgroup/systemd/tasks"),
        ("1:name=systemd:/docker/1/in\n", "/sys/fs/cgroup/systemd/in/tasks"),
        ("1:name=systemd:/docker/10\n", None),
        ("7:memory:/a\n0::/a\n", None),
        ("", None),
    ],
)
def test_where_a_thread_joins_the_cgroup_that_it_is_in(membership: str, expected: str | None) -> None:
    assert cgroups.tasks(membership, mountinfo.parse(HIERARCHIES)) == expected


# -- binds ---------------------------------------------------------------------------------------------------------------


def test_a_later_mount_option_wins() -> None:
    assert binds.attributes(["ro", "rw", "nosuid"]) == binds.attributes(["nosuid"])
    assert binds.attributes(["rw", "ro"]) == binds.attributes(["ro"]) != 0
    assert binds.attributes(["rbind", "rprivate"]) == 0


A_BIND: dict[str, Any] = {"type": "bind", "source": "/x"}


@pytest.mark.parametrize(
    ("entries", "ours"),
    [
        ([("/v", A_BIND), ("/v/in", A_BIND), ("/v/in", A_BIND)], {0, 1, 2}),
        ([("/v", A_BIND), ("/v/in", {"type": "tmpfs"}), ("/w", A_BIND)], {2}),
        ([("/v", {"type": "tmpfs"}), ("/v/in/", A_BIND), ("/vv", A_BIND)], {2}),
        ([("/v/a/b", {"type": "tmpfs"}), ("/v", A_BIND), ("/v/c", A_BIND)], set()),
        ([("/v", {**A_BIND, "options": ["rshared"]}), ("/v/in", A_BIND)], set()),
        ([("/v", {**A_BIND, "uidMappings": [{}]}), ("/v/in", A_BIND)], set()),
        ([("/dev", A_BIND), ("/dev/in", A_BIND), ("/run/x", A_BIND)], set()),
    ],
)
def test_what_overlaps_with_mounts_of_the_runtime_is_the_runtimes(
    entries: list[tuple[str, dict[str, Any]]], ours: set[int]
) -> None:
    rows = [{"destination": path, **entry} for path, entry in entries]
    assert binds.locked_in(rows, ["/run"]) == ours


# -- data directories ----------------------------------------------------------------------------------------------------


def program(root: Path, path: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text("")


def found_in(root: Path, *taken: str) -> list[str]:
    with Fd(os.open(root, os.O_PATH | os.O_DIRECTORY)) as fd:
        return [directory.inside for directory in datadirs.find(fd.fileno(), "/store", taken)]


def test_an_image_without_engines_sees_nothing(tmp_path: Path) -> None:
    assert found_in(tmp_path) == []


def test_the_directory_of_each_engine_in_the_image(tmp_path: Path) -> None:
    program(tmp_path, "usr/sbin/dockerd")
    program(tmp_path, "usr/local/bin/containerd")
    (tmp_path / "var/lib/kubelet").mkdir(parents=True)
    assert found_in(tmp_path) == ["/var/lib/docker", "/var/lib/containerd", "/var/lib/kubelet"]
    assert found_in(tmp_path, "/var/lib/docker", "/var/lib/kubelet/pods") == ["/var/lib/containerd"]
    assert found_in(tmp_path, "/var/lib") == []


def test_dockers_data_root_is_where_the_image_says(tmp_path: Path) -> None:
    program(tmp_path, "usr/bin/dockerd")
    (tmp_path / "etc/docker").mkdir(parents=True)
    (tmp_path / "etc/docker/daemon.json").write_text('{"data-root": "/srv/docker/"}')
    assert found_in(tmp_path) == ["/srv/docker"]
    for bad in ("../x", "/", "/a/../../b"):
        (tmp_path / "etc/docker/daemon.json").write_text(json.dumps({"data-root": bad}))
        with pytest.raises(ConfigError, match="absolute path"):
            found_in(tmp_path)
    for nonsense in ("[" * 100_000, "{", "7", '{"data-root": null}'):
        (tmp_path / "etc/docker/daemon.json").write_text(nonsense)
        assert found_in(tmp_path) == ["/var/lib/docker"]


def test_a_link_in_the_image_does_not_lead_to_the_hosts_file(tmp_path: Path) -> None:
    outside = tmp_path / "outside.json"
    outside.write_text('{"data-root": "/from/the/host"}')
    root = tmp_path / "root"
    program(root, "usr/bin/dockerd")
    (root / "etc/docker").mkdir(parents=True)
    (root / "etc/docker/daemon.json").symlink_to(outside)
    assert found_in(root) == ["/var/lib/docker"]


def test_what_the_image_has_is_copied_once(tmp_path: Path) -> None:
    root, store = tmp_path / "root", tmp_path / "store"
    program(root, "var/lib/docker/image/db")
    (root / "var/lib/docker/link").symlink_to("image")
    (root / "var/lib/docker").chmod(0o710)
    directory = datadirs.DataDirectory("/var/lib/docker", str(store / "var_lib_docker"))
    for content in ("", "changed inside"):
        with Fd(os.open(root, os.O_PATH | os.O_DIRECTORY)) as fd:
            datadirs.fill(fd.fileno(), directory)
        copied = store / "var_lib_docker/image/db"
        assert copied.read_text() == content
        copied.write_text("changed inside")
    assert (store / "var_lib_docker").stat().st_mode & 0o7777 == 0o710
    assert (store / "var_lib_docker/link").readlink() == Path("image")
    assert [path.name for path in store.iterdir()] == ["var_lib_docker"]


# -- the runtime underneath ----------------------------------------------------------------------------------------------


def fake(directory: Path, name: str, banner: str, features: str = "exit 1") -> Path:
    path = directory / name
    path.write_text(f"#!/bin/sh\ncase $1 in --version) echo '{banner}';; features) {features};; esac\n")
    path.chmod(0o755)
    return path


def test_runc_says_itself_what_its_filters_can(tmp_path: Path) -> None:
    flag = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"
    answer = json.dumps({"linux": {"seccomp": {"supportedFlags": [flag]}}})
    found = Runtimes().choose(str(fake(tmp_path, "runc", "runc version 1.5.0", f"echo '{answer}'")), None, "f")
    assert (found.kind, found.version, found.wait_killable, found.chown_stdio) == ("runc", (1, 5), True, False)
    assert (found.exec_scores, found.exec_awaits_program) == (True, False)
    old = Runtimes().choose(str(fake(tmp_path, "old", "runc version 1.1.5+ds1", "echo {}")), None, "f")
    assert not old.wait_killable


@pytest.mark.parametrize(
    ("version", "able", "awaits"), [("1.5", False, True), ("1.6", True, True), ("1.8.1", True, True), ("1.9", True, False)]
)
def test_crun_is_known_by_its_version(tmp_path: Path, version: str, able: bool, awaits: bool) -> None:
    found = Runtimes().choose(None, str(fake(tmp_path, "crun", f"crun version {version}")), "f")
    assert (found.kind, found.wait_killable, found.exec_awaits_program, found.chown_stdio) == ("crun", able, awaits, True)
    assert not found.exec_scores


def test_a_runtime_is_asked_once(tmp_path: Path) -> None:
    path = fake(tmp_path, "crun", "crun version 1.8.1")
    runtimes = Runtimes()
    first = runtimes.choose(str(path), None, "f")
    status = path.stat()
    path.write_text(path.read_text().replace("1.8.1", "9.9.9"))
    os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))
    assert runtimes.choose(str(path), None, "f") is first


def test_a_runtime_that_is_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\$INTERCEPTOR_RUNTIME names the runtime 'no-such-runc'"):
        Runtimes().choose("no-such-runc", None, "f")
    with pytest.raises(ConfigError, match="no OCI runtime"):
        Runtimes().choose(str(fake(tmp_path, "true", "")), None, "f")
    ours = fake(tmp_path, "interceptor-runc", "x")
    with pytest.raises(ConfigError, match="this runtime itself"):
        find(str(ours), "`runtime` in f")


# -- requests ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["", "..", "a/b", "a b", None, 7, "ä"])
def test_container_ids_that_are_none(bad: object) -> None:
    with pytest.raises(InterceptorError, match="is no container id"):
        requests.identifier({"id": bad})


def test_a_creation_is_read_and_checked() -> None:
    body = {"id": "a.b-c_+1", "bundle": "/b", "argv": ["create"], "runtime": None, "pid_file": "", "stdio_null": 1}
    assert requests.Creation.of(body) == requests.Creation("a.b-c_+1", "/b", ["create"], None, None, stdio_null=True)
    for key, value in (("bundle", "relative"), ("argv", "create"), ("runtime", 7)):
        with pytest.raises(InterceptorError, match=f'"{key}"'):
            requests.Creation.of({**body, key: value})


# -- the place -----------------------------------------------------------------------------------------------------------


def test_removing_a_place_never_removes_what_somebody_put_there(tmp_path: Path) -> None:
    base = tmp_path / "id"
    (base / "mounts/0/volume").mkdir(parents=True)
    (base / "mounts/1").write_text("")
    (base / "record.json").write_text("")
    place.remove(str(base))
    assert sorted(str(path.relative_to(base)) for path in base.rglob("*")) == ["mounts", "mounts/0", "mounts/0/volume"]
    (base / "mounts/0/volume").rmdir()
    place.remove(str(base))
    assert not base.exists()


def test_a_mount_points_strange_characters_end_no_line() -> None:
    """The kernel escapes blanks and newlines; what else Python calls the end of a line, a container may put into names."""
    name = "/mnt/\x0b\x0c\r\x1c\x85\u2028x"
    (found,) = mountinfo.parse(f"7 2 0:1 / {name} rw - tmpfs none rw\n")
    assert (found.id, found.point) == (7, name)
    assert mountinfo.ids(f"7 2 0:1 / {name} rw - tmpfs none rw\n") == {7}
