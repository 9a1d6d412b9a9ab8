"""What fails, and what an earlier supervisor left: an error that says why, and nothing behind."""

from __future__ import annotations

import errno
import json
import os
import select
import shutil
import subprocess
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import cgroups, oci
from support.leaks import open_files
from support.waiting import wait_for

from interceptor.errors import ConfigError, InterceptorError
from interceptor.ports import Request
from runtime import lifecycle
from runtime.config import HostConfig, Ids
from runtime.lifecycle import Lifecycle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtime.lifecycle import Given, Pending
    from runtime.record import Record

pytestmark = [pytest.mark.root, pytest.mark.kernel]

if os.geteuid() != 0:
    pytest.skip("needs root", allow_module_level=True)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with oci.directory() as found:
        yield found


@pytest.fixture
def host(tmp_path: Path) -> Iterator[oci.Host]:
    runtime = shutil.which("runc")
    if runtime is None:
        pytest.skip("runc is not installed")
    with oci.Host(tmp_path, runtime, host_config=HostConfig(ids=Ids(count=2))) as found:
        yield found


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return oci.busybox_rootfs(tmp_path / "rootfs")


def is_clean(host: oci.Host) -> bool:
    """Nothing attached, nothing registered, no range taken, no directory of a container."""
    assert str(host.directory) + "/run" not in host.sh("cat /proc/self/mountinfo")
    assert not host.core.containers
    assert [path.name for path in host.directory.glob("state/ids/*")] == []
    assert [path.name for path in host.directory.glob("run/containers/*")] == []
    return True


def sleeping(host: oci.Host, rootfs: Path, name: str) -> dict[str, object]:
    return oci.config(rootfs, "sleep", "100", cgroup=f"{host.cgroup}/{name}")


def bind(source: Path | str, *options: str) -> dict[str, object]:
    return {"destination": "/vol", "type": "bind", "source": str(source), "options": list(options) or ["rbind"]}


def refused(host: oci.Host, values: dict[str, object], said: str, error: type[Exception] = ConfigError) -> None:
    """The creation fails with `said`, leaves the bundle as it was, and nothing behind."""
    bundle = host.bundle("refused", values)
    with pytest.raises(error, match=said):
        host.prepare("a", bundle)
    assert json.loads((bundle / "config.json").read_text()) == values
    assert [path.name for path in bundle.iterdir()] == ["config.json"]
    assert is_clean(host)


def test_a_volume_that_does_not_exist(host: oci.Host, plain: Path) -> None:
    values = sleeping(host, plain, "a")
    values["mounts"].append(bind("/no/such/volume"))  # type: ignore[attr-defined]
    refused(host, values, r"mounts\[6\], the source of /vol: /no/such/volume does not exist")


def test_a_volume_on_a_filesystem_that_cannot_be_id_mapped(host: oci.Host, plain: Path, tmp_path: Path) -> None:
    for name in ("l", "u", "w", "m"):
        (tmp_path / "o" / name).mkdir(parents=True)
    at = tmp_path / "o"
    host.run("mount", "-t", "overlay", "o", "-o", f"lowerdir={at}/l,upperdir={at}/u,workdir={at}/w", f"{at}/m")
    values = sleeping(host, plain, "a")
    values["mounts"].append(bind(at / "m"))  # type: ignore[attr-defined]
    refused(host, values, "lies on a filesystem of type overlay, which this kernel cannot id-map")


def test_a_submount_that_cannot_be_id_mapped(host: oci.Host, plain: Path, tmp_path: Path) -> None:
    for name in ("l", "u", "w"):
        (tmp_path / "o" / name).mkdir(parents=True)
    at = tmp_path / "o"
    volume = tmp_path / "volume"
    (volume / "sub").mkdir(parents=True)
    host.run("mount", "-t", "overlay", "o", "-o", f"lowerdir={at}/l,upperdir={at}/u,workdir={at}/w", f"{volume}/sub")
    values = sleeping(host, plain, "a")
    values["mounts"].append(bind(volume))  # type: ignore[attr-defined]
    refused(host, values, "volume/sub lies on a filesystem of type overlay")


def test_no_root_filesystem(host: oci.Host) -> None:
    refused(host, sleeping(host, Path("/no/rootfs"), "a"), "root.path '/no/rootfs' is no directory")


def test_a_bundle_without_a_configuration(host: oci.Host, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"bundle/config.json: No such file"):
        host.prepare("a", tmp_path / "bundle")
    assert is_clean(host)


def test_an_unknown_runtime(host: oci.Host, plain: Path) -> None:
    host.runtime = "no-such-runtime"
    refused(host, sleeping(host, plain, "a"), "neither in PATH nor an executable file")


def test_exhausted_ids_and_a_second_container_of_the_same_name(host: oci.Host, plain: Path) -> None:
    requests = [host.prepare(name, host.bundle(name, sleeping(host, plain, name)))[0] for name in ("x", "y")]
    with pytest.raises(InterceptorError, match="no id range of 65536 is free: 2 are in use"):
        host.prepare("z", host.bundle("z", sleeping(host, plain, "z")))
    with pytest.raises(InterceptorError, match="container x exists already"):
        host.prepare("x", host.bundle("x2", sleeping(host, plain, "x")))
    assert sorted(host.core.containers) == ["x", "y"]
    for request in requests:
        host.call(request.on_disconnect.close)
    assert is_clean(host)


@pytest.fixture
def nothing_left_open(host: oci.Host, plain: Path) -> Iterator[None]:
    """For a test that ends without a container, as it begins."""
    host.create("first", host.bundle("first", sleeping(host, plain, "first")))  # brings what is there once
    host.delete("first")
    before = Counter(open_files(os.getpid()))
    yield
    assert is_clean(host)
    assert not Counter(open_files(os.getpid())) - before


@pytest.mark.usefixtures("nothing_left_open")
def test_a_notifier_that_comes_to_us_after_its_runtime_has_ended(
    host: oci.Host, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine the control socket may be faster than the listener."""
    give, gives = host.lifecycle._give, []

    def told_meanwhile(pending: Pending, pid: int) -> Given:
        gives.append(pid)
        if len(gives) == 1:
            host.core.told("a", pid)
        return give(pending, pid)

    monkeypatch.setattr(host.lifecycle, "_give", told_meanwhile)
    pid = host.create("a", host.bundle("a", sleeping(host, plain, "a")))
    host.start("a")
    host.delete("a")
    assert gives == [pid]


@pytest.mark.usefixtures("nothing_left_open")
@pytest.mark.parametrize("step", ["cgroups.delegate", "nodes.give", "mountinfo.ids", "files.text"])
def test_an_error_while_init_is_given_what_is_its_own(
    host: oci.Host, plain: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The first time it may have been too early; then the creation fails."""

    def fail(*_arguments: object) -> None:
        raise OSError(errno.EIO, "as told")

    monkeypatch.setattr(f"runtime.lifecycle.{step}", fail)
    with pytest.raises(OSError, match="as told"):
        host.create("a", host.bundle("a", sleeping(host, plain, "a")))
    host.run(host.runtime, *host.oci, "delete", "--force", "a")


def test_an_entry_that_dies_before_it_says_created(host: oci.Host, plain: Path) -> None:
    values = sleeping(host, plain, "a")
    bundle = host.bundle("a", values)
    request, _ = host.prepare("a", bundle)
    assert host.core.containers["a"].ids.first == Ids().first
    host.call(request.on_disconnect.close)
    assert json.loads((bundle / "config.json").read_text()) == values
    assert is_clean(host)


def made(host: oci.Host, name: str) -> list[Path]:
    """The cgroups of container `name`."""
    return [directory for directory in cgroups.directories(host.cgroup.strip("/")) if directory.name == name]


def delete(host: oci.Host, name: str) -> None:
    """What the entry says when the runtime has."""
    host.lifecycle.deleted(Request({"id": name}, [host.namespace]))


def test_what_a_runtime_has_made_that_nobody_knows_of(host: oci.Host, plain: Path) -> None:
    """As when it was killed before it could write down that there is a container: its `delete` finds none."""
    request, reply = host.prepare("a", host.bundle("a", sleeping(host, plain, "a")))
    assert host.execute_create(reply, host.directory / "a.out") == 0
    init = os.pidfd_open(int(Path(reply["pid_file"]).read_text()))
    shutil.rmtree(host.directory / "oci/a")
    assert made(host, "a")
    host.call(request.on_disconnect.close)
    with os.fdopen(init):
        assert select.select([init], [], [], 20)[0], "its init has ended"
    assert not made(host, "a")
    assert is_clean(host)


def test_a_cgroup_that_was_there_before_stays(host: oci.Host, plain: Path) -> None:
    host.create("b", host.bundle("b", sleeping(host, plain, "b")))
    before = made(host, "b")
    request, _ = host.prepare("a", host.bundle("a", sleeping(host, plain, "b")))
    host.call(request.on_disconnect.close)
    assert before
    assert made(host, "b") == before
    assert host.state("b") == "created"
    host.delete("b")
    assert is_clean(host)


def test_a_delete_in_the_middle_of_create(host: oci.Host, plain: Path) -> None:
    """It undoes the creation; and who created has no part in what is created after that."""
    first, _ = host.prepare("a", host.bundle("a", sleeping(host, plain, "a")))
    host.call(lambda: delete(host, "a"))
    assert is_clean(host)
    with pytest.raises(InterceptorError, match="is not being created"):
        host.call(lambda: host.lifecycle.created(Request({"id": "a", "status": 0, "pid": os.getpid()}, [])))
    second, _ = host.prepare("a", host.bundle("again", sleeping(host, plain, "a")))
    host.call(first.on_disconnect.close)
    assert list(host.core.containers) == ["a"]
    host.call(second.on_disconnect.close)
    assert is_clean(host)


def test_a_delete_while_it_is_prepared_waits_for_that(host: oci.Host, plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, deleted = lifecycle.prepare, threading.Thread(target=lambda: delete(host, "a"))

    def prepare(*arguments: Any) -> Record:
        record = real(*arguments)
        deleted.start()
        deleted.join(0.2)
        assert deleted.is_alive()
        return record

    monkeypatch.setattr(lifecycle, "prepare", prepare)
    request, _ = host.prepare("a", host.bundle("a", sleeping(host, plain, "a")))
    deleted.join()
    assert is_clean(host)
    host.call(request.on_disconnect.close)


def test_a_runtime_that_fails(host: oci.Host, plain: Path) -> None:
    values = sleeping(host, plain, "a")
    values["mounts"].append({"destination": "/x", "type": "nosuchfs", "source": "x"})  # type: ignore[attr-defined]
    bundle = host.bundle("a", values)
    with pytest.raises(AssertionError, match="no such device"):
        host.create("a", bundle)
    assert json.loads((bundle / "config.json").read_text()) == values
    assert is_clean(host)


def test_created_for_nobody_and_delete_for_nobody(host: oci.Host) -> None:
    with pytest.raises(InterceptorError, match="is not being created"):
        host.call(lambda: host.lifecycle.created(Request({"id": "a", "status": 0, "pid": 1}, [])))
    assert host.call(lambda: host.lifecycle.deleted(Request({"id": "a"}, [host.namespace]))) == {}
    with pytest.raises(InterceptorError, match="is not known"):
        host.call(lambda: host.lifecycle.exec(Request({"id": "a", "argv": []}, [])))


def test_an_unreadable_process_file(host: oci.Host, plain: Path, tmp_path: Path) -> None:
    host.create("a", host.bundle("a", sleeping(host, plain, "a")))
    file = tmp_path / "process.json"
    file.write_text("{")
    body = {"id": "a", "argv": [], "process": str(file)}
    with pytest.raises(ConfigError, match=r"process.json: Expecting"):
        host.call(lambda: host.lifecycle.exec(Request(body, [host.namespace])))


# -- what an earlier supervisor left -----------------------------------------------------------------------------------


def next_supervisor(host: oci.Host) -> None:
    """Another process's view: nothing in memory, only what is on disk."""
    host.core = oci.FakeCore(host.core.policy("default"))
    host.lifecycle = host.call(lambda: Lifecycle(host.core, host.places, host.host_config))
    host.call(host.lifecycle.recover)


def test_a_living_container_is_known_to_the_next_supervisor(host: oci.Host, plain: Path) -> None:
    pid = host.create("a", host.bundle("a", sleeping(host, plain, "a")))
    before = host.core.containers["a"]
    next_supervisor(host)
    after = host.core.containers["a"]
    assert after is not before
    after.leaves = before.leaves  # lost: there is no keeper here
    assert after == before
    assert after.init_pid == pid
    assert after.mount_namespace == Path(f"/proc/{pid}/ns/mnt").stat().st_ino
    host.start("a")
    assert host.execute("a", "id", "-u").stdout == "0\n"
    host.delete("a")
    assert is_clean(host)


def test_a_stopped_container_stays_until_it_is_deleted(host: oci.Host, plain: Path) -> None:
    pid = host.create("a", host.bundle("a", sleeping(host, plain, "a")))
    os.kill(pid, 9)
    wait_for(lambda: host.state("a") == "stopped", "the container's end", within=10)
    next_supervisor(host)
    assert host.core.containers["a"].init_pid is None
    host.delete("a")
    assert is_clean(host)


def test_a_container_that_only_we_remember_is_cleaned_up(host: oci.Host, plain: Path) -> None:
    values = sleeping(host, plain, "a")
    bundle = host.bundle("a", values)
    host.create("a", bundle)
    host.run(host.runtime, *host.oci, "delete", "--force", "a")
    next_supervisor(host)
    assert json.loads((bundle / "config.json").read_text()) == values
    assert is_clean(host)


def test_a_container_of_an_earlier_boot_is_cleaned_up(host: oci.Host, plain: Path) -> None:
    host.create("a", host.bundle("a", sleeping(host, plain, "a")))
    record = host.directory / "run/containers/a/record.json"
    host.run(host.runtime, *host.oci, "delete", "--force", "a")
    host.sh(f"umount -l {host.directory}/run/containers/a")
    record.write_text(json.dumps({**json.loads(record.read_text()), "boot": "earlier"}))
    next_supervisor(host)
    assert is_clean(host)


def test_data_of_a_container_that_no_record_names_is_swept(host: oci.Host) -> None:
    (host.directory / "state/data/gone/var_lib_docker").mkdir(parents=True)
    next_supervisor(host)
    assert list((host.directory / "state/data").iterdir()) == []


def test_a_caller_that_sees_another_run_directory(host: oci.Host, plain: Path) -> None:
    host.sh(f"mount -t tmpfs none {host.places.run}")
    bundle = host.bundle("a", sleeping(host, plain, "a"))
    with pytest.raises(InterceptorError, match="is another directory in the caller's mount namespace"):
        host.prepare("a", bundle)
    host.sh(f"umount {host.places.run}")
    assert is_clean(host)


def test_a_directory_without_a_record_is_swept(host: oci.Host) -> None:
    (host.directory / "run/containers/half").mkdir(parents=True)
    (host.directory / "run/containers/half/record.json").write_text("{")
    next_supervisor(host)
    assert is_clean(host)


# -- namespaces that are shared ----------------------------------------------------------------------------------------


def joining(values: dict[str, object], kind: str, path: str) -> dict[str, object]:
    linux = values["linux"]
    assert isinstance(linux, dict)
    linux["namespaces"] = [
        {"type": kind, "path": path} if entry["type"] == kind else entry for entry in linux["namespaces"]
    ]
    return values


def test_containers_that_share_a_network_namespace_share_their_ids(host: oci.Host, plain: Path, tmp_path: Path) -> None:
    pid = host.create("pause", host.bundle("pause", sleeping(host, plain, "pause")))
    second = oci.busybox_rootfs(tmp_path / "second")
    values = oci.config(second, "sh", "-c", "cat /proc/self/uid_map; ls /sys/class/net", cgroup=host.cgroup + "/b")
    said = host.output_of("b", joining(values, "network", f"/proc/{pid}/ns/net"))
    assert said.split() == ["0", str(Ids().first), "65536", "lo"]
    assert {path.name: str(path.readlink()) for path in tmp_path.glob("state/ids/*")} == {
        "pause": f"{Ids().first}+65536"
    }
    host.delete("pause")
    assert is_clean(host)


def test_a_network_namespace_of_the_hosts_is_seen_in_sys(host: oci.Host, plain: Path) -> None:
    holder = subprocess.Popen(["unshare", "-n", "sleep", "infinity"])
    try:
        own = Path("/proc/self/ns/net").stat().st_ino
        path = f"/proc/{holder.pid}/ns/net"
        wait_for(lambda: Path(path).stat().st_ino != own, "a network namespace", within=5)
        script = "ls /sys/class/net; cat /proc/sys/net/ipv4/ip_unprivileged_port_start"
        values = oci.config(plain, "sh", "-c", script, cgroup=host.cgroup + "/a")
        values["linux"]["sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "7"}
        assert host.output_of("a", joining(values, "network", path)).split() == ["lo", "7"]
    finally:
        holder.kill()
        holder.wait()
    assert is_clean(host)


def test_the_hosts_own_network_and_processes_are_refused(host: oci.Host, plain: Path) -> None:
    refused(host, joining(sleeping(host, plain, "a"), "network", "/proc/self/ns/net"), "--net=host")
    shutil.rmtree(host.directory / "bundles")
    refused(host, joining(sleeping(host, plain, "a"), "pid", "/proc/self/ns/pid"), "--pid=host")


def test_many_creations_at_once_have_ranges_of_their_own(host: oci.Host, tmp_path: Path) -> None:
    lifecycle = Lifecycle(host.core, host.places, HostConfig())
    bundles = []
    for number in range(10):
        rootfs = oci.busybox_rootfs(tmp_path / f"rootfs{number}")
        bundles.append(host.bundle(str(number), sleeping(host, rootfs, str(number))))

    def create(number: int) -> Request:
        body = {"id": f"c{number}", "bundle": str(bundles[number]), "argv": ["create"], "runtime": host.runtime}
        request = Request(body, [host.namespace])
        lifecycle.create(request)
        return request

    with ThreadPoolExecutor(10) as workers:
        requests = list(workers.map(create, range(10)))
        assert len({container.ids.first for container in host.core.containers.values()}) == 10
        list(workers.map(lambda request: request.on_disconnect.close(), requests))
    assert is_clean(host)
