from __future__ import annotations

import contextlib
import copy
import json
from typing import TYPE_CHECKING, Any

import pytest

from interceptor.container import IdRange
from interceptor.errors import ConfigError
from runtime import capabilities, cgroups, commandline, image, mountinfo, ociconfig, refusals
from runtime.dockerd import engine_pid
from runtime.ociconfig import Facts
from runtime.oomscore import OomScore

if TYPE_CHECKING:
    from pathlib import Path

IDS = IdRange(1879048192, 65536)
EVERY = ("CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_KILL")


def docker() -> dict[str, Any]:
    """What Docker writes for `docker run`, shortened to what matters."""
    sets = ("bounding", "effective", "permitted")
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/sbin/init"],
            "env": ["PATH=/bin"],
            "capabilities": {name: ["CAP_CHOWN"] for name in sets},
            "apparmorProfile": "docker-default",
            "noNewPrivileges": True,
            "oomScoreAdj": -500,
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1048576, "soft": 1024}],
        },
        "root": {"path": "/var/lib/docker/overlay2/abc/merged", "readonly": False},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid"]},
            {"destination": "/etc/hosts", "type": "bind", "source": "/h/hosts", "options": ["rbind", "rprivate"]},
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("mount", "network", "uts", "pid", "ipc")],
            "maskedPaths": ["/proc/kcore"],
            "readonlyPaths": ["/proc/sys"],
            "sysctl": {"net.ipv4.ping_group_range": "0 2147483647", "net.core.somaxconn": "1024"},
            "resources": {
                "blockIO": {"weight": 0, "weightDevice": []},
                "devices": [
                    {"allow": False, "access": "rwm"},
                    {"allow": True, "type": "c", "major": 1, "access": "rwm"},
                ],
            },
        },
    }


def facts(**values: Any) -> Facts:
    return Facts(**{"ids": IDS, "rootfs": "/run/x/rootfs", "capability_names": EVERY, **values})


def test_the_given_configuration_is_left_alone() -> None:
    given = docker()
    ociconfig.rewrite(given, facts(systemd=True, sources={3: "/m/3"}, inside=frozenset({0})))
    assert given == docker()


def test_namespaces_maps_and_masks() -> None:
    linux = ociconfig.rewrite(docker(), facts())["linux"]
    assert [entry["type"] for entry in linux["namespaces"]][-2:] == ["user", "cgroup"]
    assert linux["uidMappings"] == linux["gidMappings"] == [{"containerID": 0, "hostID": 1879048192, "size": 65536}]
    assert "maskedPaths" not in linux
    assert "readonlyPaths" not in linux
    assert linux["sysctl"] == {"net.ipv4.ping_group_range": "0 65535", "net.core.somaxconn": "1024"}
    assert "blockIO" not in linux["resources"]


def test_a_blockio_that_says_something_is_kept() -> None:
    config = docker()
    config["linux"]["resources"]["blockIO"]["weight"] = 100
    assert ociconfig.rewrite(config, facts())["linux"]["resources"]["blockIO"]["weight"] == 100


def test_a_user_namespace_of_the_engines_is_replaced_and_a_shared_one_joined() -> None:
    config = docker()
    config["linux"]["namespaces"].append({"type": "user"})
    found = ociconfig.rewrite(config, facts(user_namespace="/proc/7/ns/user"))["linux"]["namespaces"]
    assert [entry for entry in found if entry["type"] == "user"] == [{"type": "user", "path": "/proc/7/ns/user"}]


def test_root_gets_everything_and_a_user_what_the_engine_gave_it() -> None:
    config = docker()
    process = ociconfig.rewrite(config, facts())["process"]
    assert process["capabilities"] == {name: list(EVERY) for name in ("bounding", "effective", "permitted")}
    assert "noNewPrivileges" not in process
    assert "apparmorProfile" not in process
    config["process"]["user"]["uid"] = 1000
    sets = ociconfig.rewrite(config, facts())["process"]["capabilities"]
    assert sets == {"bounding": list(EVERY), "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"]}


def test_policy_engine_keeps_the_engines_capabilities() -> None:
    process = ociconfig.rewrite(docker(), facts(capabilities="engine"))["process"]
    assert process["capabilities"]["bounding"] == ["CAP_CHOWN"]
    assert process["noNewPrivileges"]


def test_an_apparmor_profile_of_the_users_own_is_kept() -> None:
    config = docker()
    config["process"]["apparmorProfile"] = "my-profile"
    assert ociconfig.rewrite(config, facts())["process"]["apparmorProfile"] == "my-profile"


def test_limits_are_clamped_only_where_they_cannot_be_raised() -> None:
    free = ociconfig.rewrite(docker(), facts())["process"]
    assert (free["rlimits"][0]["hard"], free["oomScoreAdj"]) == (1048576, -500)
    bound = ociconfig.rewrite(docker(), facts(hard_limits={"RLIMIT_NOFILE": 512}, oom_score_floor=0))["process"]
    assert bound["rlimits"] == [{"type": "RLIMIT_NOFILE", "hard": 512, "soft": 512}]
    assert bound["oomScoreAdj"] == 0


def test_a_runtime_is_told_no_score_where_one_is_lent() -> None:
    assert "oomScoreAdj" not in ociconfig.rewrite(docker(), facts(oom_score=OomScore(-999, -500)))["process"]


def test_sys_is_writable_and_binds_have_their_clones() -> None:
    mounts = ociconfig.rewrite(docker(), facts(sources={3: "/run/x/mounts/3"}))["mounts"]
    by_destination = {mount["destination"]: mount for mount in mounts}
    assert by_destination["/sys"]["options"] == ["nosuid", "rw"]
    assert by_destination["/sys/fs/cgroup"]["options"] == ["nosuid", "rw"]
    assert by_destination["/etc/hosts"]["source"] == "/run/x/mounts/3"
    assert by_destination["/etc/hosts"]["options"] == ["rbind", "rprivate"]


def test_what_is_attached_already_is_left_out_and_a_host_made_sysfs_is_bound() -> None:
    mounts = ociconfig.rewrite(docker(), facts(inside=frozenset({3}), sources={1: "/run/x/mounts/1"}))["mounts"]
    assert [mount["destination"] for mount in mounts] == ["/proc", "/sys", "/sys/fs/cgroup"]
    assert mounts[1] == {"destination": "/sys", "type": "bind", "source": "/run/x/mounts/1", "options": ["bind", "rw"]}


def test_systemd_gets_its_mounts_once_and_knows_that_it_is_in_a_container() -> None:
    config = docker()
    config["mounts"].append({"destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m"]})
    found = ociconfig.rewrite(config, facts(systemd=True))
    destinations = [mount["destination"] for mount in found["mounts"]]
    assert destinations.count("/run") == 1
    assert destinations[-2:] == ["/run/lock", "/tmp"]  # noqa: S108
    assert "container=docker" in found["process"]["env"]
    config["process"]["env"].append("container=podman")
    assert "container=docker" not in ociconfig.rewrite(config, facts(systemd=True))["process"]["env"]


def test_systemds_mounts_hide_no_volume() -> None:
    config = docker()
    config["mounts"].append({"destination": "/run/docker.sock", "type": "bind", "source": "/s", "options": ["rbind"]})
    mounts = ociconfig.rewrite(config, facts(systemd=True))["mounts"]
    destinations = [mount["destination"] for mount in mounts]
    assert destinations.index("/run") < destinations.index("/run/docker.sock")
    assert destinations.index("/run") < destinations.index("/run/lock")


@pytest.mark.parametrize(
    ("arguments", "resolved", "expected"),
    [
        (["/sbin/init"], None, True),
        (["/usr/lib/systemd/systemd", "--system"], None, True),
        (["/init"], None, False),
        (["/init"], "/r/usr/lib/systemd/systemd", True),
        (["/bin/sh"], "/r/bin/busybox", False),
        ([], None, False),
    ],
)
def test_which_programs_are_systemd(arguments: list[str], resolved: str | None, expected: bool) -> None:
    assert ociconfig.is_systemd(arguments, resolved) is expected


def test_renamed_devices_become_bind_mounts() -> None:
    config = docker()
    config["linux"]["devices"] = [{"path": "/dev/a"}, {"path": "/dev/b"}]
    bind = {"destination": "/dev/b", "type": "bind", "source": "/dev/null", "options": ["bind"]}
    found = ociconfig.rewrite(config, facts(devices={1: bind}))
    assert found["linux"]["devices"] == [{"path": "/dev/a"}]
    assert found["mounts"][-1] == bind


def test_exec_process_is_rewritten_like_the_containers_own() -> None:
    process = docker()["process"]
    assert ociconfig.rewrite_process(process, facts())["capabilities"]["bounding"] == list(EVERY)
    assert process["noNewPrivileges"]


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_an_ordinary_container_is_not_refused() -> None:
    refusals.refuse(docker())


@pytest.mark.parametrize(
    ("kind", "said"), [("network", "--net=host"), ("pid", "--pid=host"), ("mount", "mount namespace")]
)
def test_namespaces_of_the_host_are_refused_with_advice(kind: str, said: str) -> None:
    config = docker()
    config["linux"]["namespaces"] = [entry for entry in config["linux"]["namespaces"] if entry["type"] != kind]
    with pytest.raises(ConfigError, match=said):
        refusals.refuse(config)


def test_privileged_is_recognised_by_devices_and_masks() -> None:
    config = docker()
    config["linux"]["resources"]["devices"] = [{"allow": True, "access": "rwm"}]
    refusals.refuse(copy.deepcopy(config))  # paths are still masked: not privileged
    del config["linux"]["maskedPaths"], config["linux"]["readonlyPaths"]
    with pytest.raises(ConfigError, match="--privileged"):
        refusals.refuse(config)


@pytest.mark.parametrize("missing", ["linux", "process", "root"])
def test_a_configuration_without_its_parts_is_refused(missing: str) -> None:
    config = docker()
    config[missing] = None
    with pytest.raises(ConfigError, match="must be objects"):
        refusals.refuse(config)


DEV: dict[str, Any] = {"destination": "/dev/", "type": "tmpfs", "source": "tmpfs"}


@pytest.mark.parametrize(
    ("link", "mounts", "terminal", "said"),
    [
        ("dev", [DEV], False, "the image's /dev is a symbolic link, to /elsewhere"),
        ("dev/console", [], True, "/dev/console is a symbolic link"),
        ("dev/console", [], False, ""),
        ("dev/console", [DEV], True, ""),
        ("volume/console", [{**DEV, "type": "bind", "source": "../volume"}], True, "/dev/console is a symbolic link"),
    ],
)
def test_links_that_a_runtime_follows(
    tmp_path: Path, link: str, mounts: list[dict[str, Any]], terminal: bool, said: str
) -> None:
    for name in ("bundle", "dev", "volume") if "/" in link else ("bundle",):
        (tmp_path / name).mkdir()
    (tmp_path / link).symlink_to("/elsewhere")
    config = {**docker(), "mounts": mounts, "process": {"terminal": terminal}}
    with pytest.raises(ConfigError, match=said) if said else contextlib.nullcontext():
        refusals.refuse_links(config, str(tmp_path), str(tmp_path / "bundle"))


# -- small pure things ---------------------------------------------------------------------------------------------------


def test_capability_names_are_the_kernels() -> None:
    assert capabilities.NAMES.index("SYS_ADMIN") == 21
    assert capabilities.NAMES.index("CHECKPOINT_RESTORE") == 40


@pytest.mark.parametrize(
    "before", [[], ["--root", "/r"], ["--root=/r", "--systemd-cgroup"], ["--log", "create", "--log-format", "json"]]
)
def test_the_command_is_found_behind_global_options(before: list[str]) -> None:
    argv = [*before, "create", "--bundle", "/b", "id"]
    assert commandline.global_options(argv) == before
    extended = commandline.with_option(argv, "--pid-file", "/p")
    assert extended == [*before, "create", "--pid-file", "/p", "--bundle", "/b", "id"]


def test_cgroups_of_v1_hybrid_and_v2_are_found() -> None:
    table = mountinfo.parse(
        "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
        "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n"
        "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    )
    text = "3:cpu,cpuacct:/docker/x\n2:memory:/docker/x\n1:name=systemd:/docker/x\n0::/\n"
    found = dict(cgroups.directories(text, table))
    assert list(found) == ["/sys/fs/cgroup/cpu,cpuacct/docker/x", "/sys/fs/cgroup/systemd/docker/x"]
    assert next(cgroups.directories("0::/a/b", table))[0] == "/sys/fs/cgroup/unified/a/b"


def test_a_cgroup_mount_of_another_root_shows_only_what_lies_below_it() -> None:
    table = mountinfo.parse("41 31 0:38 /a /cg rw - cgroup2 cgroup2 rw\n")
    assert [directory for directory, _ in cgroups.directories("0::/a/b", table)] == ["/cg/b"]
    assert list(cgroups.directories("0::/a", table)) == []
    assert list(cgroups.directories("0::/ab", table)) == []


@pytest.mark.parametrize(
    ("path", "directory"),
    [
        ("/docker/x", "/docker/x"),
        ("/docker//x/", "/docker/x"),
        ("system.slice:docker:x", "/system.slice/docker-x.scope"),
        (":docker:x", "/system.slice/docker-x.scope"),
        ("-.slice:docker:x", "/docker-x.scope"),
        ("kubepods-burstable-pod1.slice:cri:x",
         "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-x.scope"),
    ],
)  # fmt: skip
def test_the_cgroups_that_a_configuration_names(path: str, directory: str) -> None:
    table = mountinfo.parse(
        "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
        "33 31 0:30 / /run rw - tmpfs tmpfs rw\n"
        "41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    )
    assert cgroups.named(path, table) == [f"/sys/fs/cgroup/cpu{directory}", f"/sys/fs/cgroup{directory}"]


@pytest.mark.parametrize("path", ["", "/", "x", "docker/x", "a:b"])
def test_what_lies_below_the_runtimes_own_cgroup_is_not_guessed(path: str) -> None:
    assert cgroups.named(path, mountinfo.parse("41 31 0:38 / /cg rw - cgroup2 cgroup2 rw\n")) == []


def test_docker_says_who_a_container_is_beside_its_hosts_file() -> None:
    container = "f" * 64
    config = {"mounts": [{"destination": "/etc/hosts", "source": f"/d/containers/{container}/hosts"}]}
    text = '{"Name": "/web", "Config": {"Image": "debian", "Labels": {"a": "b"}}}'
    asked: list[str] = []

    def read(path: str) -> str:
        asked.append(path)
        return text

    assert image.identify(container, config, "", read) == image.Identity("debian", "web", {"a": "b"})
    assert asked == [f"/d/containers/{container}/config.v2.json"]
    assert image.identify("other", config, "", read) == image.Identity()


def test_cri_says_it_by_annotations() -> None:
    annotations = {"io.kubernetes.cri.image-name": "k8s/pause", "io.kubernetes.cri.container-name": "pod"}
    assert image.identify("x", {"annotations": annotations}).image == "k8s/pause"


def test_our_own_annotations_count_where_no_engine_has_said_anything() -> None:
    ours = {"interceptor.image": "debian:12", "interceptor.name": "web"}
    assert image.identify("x", {"annotations": ours}) == image.Identity("debian:12", "web")
    assert image.identify("x", {"annotations": {"interceptor.name": "web"}}) == image.Identity(None, "web")
    podman = {**ours, "io.podman.annotations.name": "pod"}
    assert image.identify("x", {"annotations": podman}) == image.Identity(None, "pod")
    config = {"mounts": [{"destination": "/etc/hosts", "source": "/d/x/hosts"}], "annotations": ours}
    told = '{"Name": "/db", "Config": {"Image": "postgres"}}'
    assert image.identify("x", config, "", lambda _: told) == image.Identity("postgres", "db")


DIGEST = "sha256:" + "ab" * 32


def test_digests_namespace_and_pod_labels_as_far_as_engines_tell() -> None:
    cri = {
        "io.kubernetes.cri.image-name": f"registry.example/web@{DIGEST}", "io.kubernetes.cri.sandbox-namespace": "shop",
    }  # fmt: skip
    found = image.identify("x", {"annotations": cri})
    assert (found.digests, found.namespace) == ({DIGEST}, "shop")
    crio = {
        "io.kubernetes.cri-o.ImageName": "web:1", "io.kubernetes.cri-o.ImageRef": "ab" * 32,
        "io.kubernetes.cri-o.Labels": '{"app": "shop"}', "io.kubernetes.pod.namespace": "shop",
    }  # fmt: skip
    found = image.identify("x", {"annotations": crio})
    assert (found.image, found.labels, found.digests, found.namespace) == ("web:1", {"app": "shop"}, {DIGEST}, "shop")
    sandbox = image.identify("x", {"annotations": {**crio, "io.kubernetes.cri-o.ContainerType": "sandbox"}})
    assert (sandbox.labels, sandbox.pod_labels) == ({}, {"app": "shop"})
    config = {"mounts": [{"destination": "/etc/hosts", "source": "/d/x/hosts"}]}
    told = f'{{"Image": "{DIGEST}", "Config": {{"Image": "web"}}, "ImageManifest": {{"digest": "sha256:{"cd" * 32}"}}}}'
    assert image.identify("x", config, "", lambda _: told).digests == {DIGEST, "sha256:" + "cd" * 32}


def test_podman_says_it_in_its_storage() -> None:
    metadata = json.dumps({"image-name": "docker.io/library/alpine:latest", "image-id": "ab" * 32, "name": "web"})
    files = {"/s/overlay-containers/containers.json": json.dumps([{"id": "y"}, {"id": "x", "metadata": metadata}])}

    def read(path: str) -> str:
        if path not in files:
            raise FileNotFoundError(path)
        return files[path]

    spoofed = {"annotations": {"io.kubernetes.cri.image-name": "trusted"}}
    found = image.identify("x", spoofed, "/s/overlay-containers/x/userdata", read)
    assert found == image.Identity("docker.io/library/alpine:latest", "web", {}, frozenset({DIGEST}))
    assert image.identify("x", {}, "/s/overlay-containers/z/userdata", read) == image.Identity()
    files["/s/overlay-containers/containers.json"] = "[broken"
    assert image.identify("x", {}, "/s/overlay-containers/x/userdata", read) == image.Identity()


def test_the_engine_is_known_by_its_hook() -> None:
    hook = {"path": "/proc/42/exe", "args": ["libnetwork-setkey", "x", "y"]}
    assert engine_pid({"hooks": {"prestart": [hook]}}) == 42
    assert engine_pid({"hooks": {"prestart": [{"path": "/usr/bin/nvidia"}]}}) is None
    assert engine_pid({}) is None
