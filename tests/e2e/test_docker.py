"""A Debian with systemd and Docker inside, started by Docker: the main job, seen from inside and from outside.

Everything runs over stock runc on the host's own cgroup layout; what depends on what lies below also runs over crun,
on cgroup v2, and with the newest Docker inside. A variant has one engine and one container, which its tests share.
"""

from __future__ import annotations

import base64
import json
import lzma
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import cgroups
from support.engine import EngineError
from support.modules import image
from support.runtime import interceptor
from support.system_container import SystemContainer
from support.terminal import Terminal
from support.variants import MAIN, VARIANTS, Variant
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from support.engine import Engine

pytestmark = [pytest.mark.root, pytest.mark.engine, pytest.mark.slow]

everywhere = pytest.mark.parametrize("system", VARIANTS, indirect=True, ids=str, scope="module")
on_cgroup_v2 = pytest.mark.parametrize(
    "system", [v for v in VARIANTS if v.cgroup_view == "v2"], indirect=True, ids=str, scope="module"
)
on_the_main_variant = pytest.mark.parametrize("system", [MAIN], indirect=True, ids=str, scope="module")

INNER_TAR = "/usr/share/interceptor/busybox.tar"
PUBLISHED = 18080
CONTAINER_RANGE = 65536
"""What an id on disk must lie below: the container's own ids, as it sees them."""


class System(SystemContainer):
    """The variant's container, and what was seen of its boot."""

    def __init__(self, engine: Engine, variant: Variant, volume: Path) -> None:
        options = ("--publish", f"{PUBLISHED}:8080", "--volume", f"{volume}:/srv/bound", "--volume", "/srv/named")
        super().__init__(engine, variant.image, "system", *options)
        self.volume = volume
        self.boot_state, self.boot_seconds = self.wait_booted(within=30)


@pytest.fixture(scope="module")
def system(
    request: pytest.FixtureRequest,
    start_engine: Callable[[Variant], AbstractContextManager[Engine]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[System]:
    volume = tmp_path_factory.mktemp("volume")
    volume.chmod(0o755)
    (volume / "roots").write_text("of root\n", encoding="utf-8")
    (volume / "users").write_text("of a user\n", encoding="utf-8")
    os.chown(volume / "users", 1000, 1000)
    with start_engine(request.param) as engine:
        yield System(engine, request.param, volume)


@pytest.fixture(scope="module")
def inner(system: System) -> System:
    """The system with an image for its Docker."""
    wait_for(lambda: system.exec("docker", "version", check=False).returncode == 0, "the inner dockerd", within=20)
    system.inner("import", INNER_TAR, "busybox")
    return system


# -- the boot ----------------------------------------------------------------------------------------------------------


@everywhere
def test_systemd_is_running_within_ten_seconds_and_no_unit_failed(system: System) -> None:
    assert system.boot_state == "running", system.failed_units()
    assert system.boot_seconds < 10


@everywhere
def test_the_common_devices_are_roots(system: System) -> None:
    names = ("null", "zero", "full", "random", "urandom", "tty")
    listed = system.sh("stat -c '%u:%g %a' " + " ".join(f"/dev/{name}" for name in names))
    assert listed.splitlines() == ["0:0 666"] * len(names)


@everywhere
def test_its_root_is_nobody_outside(system: System) -> None:
    inside, outside, length = Path(f"/proc/{system.pid}/uid_map").read_text(encoding="ascii").split()[:3]
    assert (inside, length) == ("0", str(CONTAINER_RANGE))
    assert int(outside) >= CONTAINER_RANGE
    assert Path(f"/proc/{system.pid}").stat().st_uid == int(outside)


@on_the_main_variant
def test_uptime_starts_at_zero(system: System) -> None:
    assert float(system.sh("cut -d' ' -f1 /proc/uptime")) <= system.wait_booted(within=1)[1] + 1


# -- the inner Docker --------------------------------------------------------------------------------------------------


@everywhere
def test_inner_run(inner: System) -> None:
    assert (
        inner.inner("run", "--rm", "busybox", "echo", "from the inside of the inside")
        == "from the inside of the inside"
    )


@everywhere
def test_inner_run_privileged(inner: System) -> None:
    script = "mount -t tmpfs none /tmp && grep -c ' /tmp tmpfs' /proc/mounts && grep CapEff /proc/self/status"
    mounted, capabilities = inner.inner("run", "--rm", "--privileged", "busybox", "sh", "-euc", script).splitlines()
    assert mounted == "1"
    assert int(capabilities.split()[1], 16) & (1 << 21), "CAP_SYS_ADMIN"


@on_the_main_variant
def test_insmod_of_what_is_built_in_succeeds_and_of_others_does_not(system: System) -> None:
    """kmod's, which decompresses by itself what finit_module(2) does not."""
    built_in = next(d.name for d in Path("/sys/module").iterdir() if d.name.isalpha() and not (d / "initstate").exists())
    for name, status in ((built_in, 0), ("no_such_module", 1)):
        for ending, content in (("ko", image(name)), ("ko.xz", lzma.compress(image(name)))):
            system.exec("sh", "-c", f"base64 -d >/root/{name}.{ending}", input=base64.b64encode(content).decode())
            done = system.exec("insmod", f"/root/{name}.{ending}", check=False)
            assert done.returncode == status, done.stderr


OPEN = "(exec 3</dev/node) 2>/dev/null && echo opens || echo refused"
"""Whether the device works, which is a FUSE one."""


@on_cgroup_v2
def test_inner_containers_open_the_devices_that_they_were_given(inner: System) -> None:
    """By device programs of the inner runtime's. Without, an inner container may open what the outer one may."""
    opens = ("busybox", "sh", "-c", f"mknod /dev/node c 10 229 && {OPEN}")
    assert inner.inner("run", "--rm", *opens) == "refused"
    assert inner.inner("run", "--rm", "--device-cgroup-rule", "c 10:229 rwm", *opens) == "opens"
    assert inner.inner("run", "--rm", "--privileged", *opens) == "opens"


@pytest.mark.parametrize("system", [v for v in VARIANTS if v.name == "cgroup-v2"], indirect=True, ids=str, scope="module")
def test_services_open_the_devices_that_they_were_given(system: System) -> None:
    """By device programs of systemd's. (From 258 on it asks for a socket program first, and without does without both.)"""
    system.sh("mknod /dev/node c 10 229")
    opens = ("sh", "-c", OPEN)
    run = ("systemd-run", "--quiet", "--pipe", "--wait")
    assert system.exec(*run, *opens).stdout == "opens\n"
    assert system.exec(*run, "-p", "DevicePolicy=closed", *opens).stdout == "refused\n"
    allow = ("-p", "DevicePolicy=closed", "-p", "DeviceAllow=/dev/char/10:229")
    assert system.exec(*run, *allow, *opens).stdout == "opens\n"


@everywhere
def test_inner_published_port(inner: System) -> None:
    """The reply comes through two engines' port forwarding: from the outer network to the inner container."""
    serve = "echo a real reply > /root/index.html; exec httpd -f -p 80 -h /root"
    inner.inner("run", "--detach", "--name", "web", "--publish", "8080:80", "busybox", "sh", "-c", serve)
    get = ("busybox", "wget", "-q", "-O", "-")
    try:
        reply = wait_for(
            lambda: inner.exec(*get, "http://127.0.0.1:8080/", check=False).stdout, "the inner server", within=10
        )
        assert reply == "a real reply\n"
        outer = inner.engine.in_network(*get, f"http://127.0.0.1:{PUBLISHED}/")
        assert outer.stdout == "a real reply\n", outer
    finally:
        inner.inner("rm", "--force", "web")


LIMITS = {
    # The file below /sys/fs/cgroup of an inner container: v2's, v1's; and what 64m and half a CPU are in it.
    "memory": ("memory.max", "memory/memory.limit_in_bytes", {"67108864"}),
    "cpu": ("cpu.max", "cpu/cpu.cfs_quota_us", {"50000 100000", "50000"}),
}


@everywhere
def test_inner_limits(inner: System) -> None:
    if missing := {"memory", "cpu"} - cgroups.controllers(inner.pid):
        pytest.skip(f"this cgroup layout has no {' and no '.join(sorted(missing))} controller")
    for v2, v1, expected in LIMITS.values():
        read = f"cat /sys/fs/cgroup/{v2} 2>/dev/null || cat /sys/fs/cgroup/{v1}"
        limited = ("run", "--rm", "--memory", "64m", "--cpus", "0.5", "busybox", "sh", "-c", read)
        assert inner.inner(*limited) in expected


@everywhere
def test_inner_memory_limit_is_enforced(inner: System) -> None:
    if "memory" not in cgroups.controllers(inner.pid):
        pytest.skip("this cgroup layout has no memory controller")
    hog = ("dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1")
    result = inner.exec("docker", "run", "--rm", "--memory", "64m", "busybox", *hog, check=False)
    assert result.returncode == 137, result.stderr


@everywhere
def test_inner_build(inner: System) -> None:
    dockerfile = (
        "FROM busybox\nRUN echo one > /steps && chown 1000:1000 /steps\nRUN echo two >> /steps && rm -r /root\n"
    )
    inner.inner("build", "--tag", "built", "-", input=dockerfile)
    look = "cat /steps; stat -c %u:%g /steps; test ! -e /root && echo gone"
    assert inner.inner("run", "--rm", "built", "sh", "-c", look).split() == ["one", "two", "1000:1000", "gone"]


@on_the_main_variant
def test_inner_storage_is_overlay(inner: System) -> None:
    """vfs, the engine's last resort, would work as well, and copy every layer in full."""
    assert "overlay" in inner.inner("info", "--format", "{{.Driver}}")


# -- the outer Docker's verbs ------------------------------------------------------------------------------------------


@everywhere
def test_exec_with_a_terminal(system: System) -> None:
    with Terminal([*system.engine.client, "exec", "-it", system.name, "/bin/bash", "--norc"]) as terminal:
        terminal.expect(r"# $")
        # Docker gives the size to a terminal after it has started what runs on it.
        terminal.send("until stty size | grep '24 120'; do sleep 0.1; done\n")
        terminal.expect(r"\n24 120\n")
        terminal.send("id -u; tty; sleep 100 & jobs; kill %1; exit 3\n")
        terminal.expect(r"\n0\n/dev/pts/\d+\n")
        terminal.expect(r"Running\s+sleep 100")
        assert terminal.wait() == 3
        assert "no job control" not in terminal.screen


@on_the_main_variant
def test_exec_as_a_user(system: System) -> None:
    options = ("--user", "1000:1000", "--workdir", "/srv", "--env", "A=b")
    script = "id -u; id -g; pwd; echo $A; grep CapEff /proc/self/status"
    ran = system.engine.output("exec", *options, system.name, "sh", "-c", script)
    assert ran.split() == ["1000", "1000", "/srv", "b", "CapEff:", "0000000000000000"]


@everywhere
def test_top(system: System) -> None:
    listed = system.engine.output("top", system.name, "-eo", "pid,comm")
    assert {"systemd", "dockerd", "containerd"} <= {line.split()[-1] for line in listed.splitlines()[1:]}


@on_the_main_variant
def test_stats(system: System) -> None:
    stats = json.loads(system.engine.output("stats", "--no-stream", "--format", "{{json .}}", system.name))
    assert int(stats["PIDs"]) >= 5
    assert re.match(r"[\d.]+(MiB|GiB) / ", stats["MemUsage"]), stats
    assert stats["NetIO"].split()[0] != "0B", stats


@everywhere
def test_cp_in_is_owned_by_root(system: System, tmp_path: Path) -> None:
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    (tmp_path / "tree" / "deep" / "file").write_text("copied\n", encoding="utf-8")
    (tmp_path / "tree" / "link").symlink_to("deep/file")
    system.engine.docker("cp", tmp_path / "tree", f"{system.name}:/opt/")
    assert system.sh("cat /opt/tree/link") == "copied"
    wait_for_owners(system, "/opt/tree", {"0:0"})
    assert system.sh("echo more >> /opt/tree/deep/file; mv /opt/tree /opt/moved; cat /opt/moved/link") == "copied\nmore"


@everywhere
def test_cp_in_over_an_existing_file(system: System, tmp_path: Path) -> None:
    (tmp_path / "motd").write_text("new\n", encoding="utf-8")
    system.sh("echo old > /etc/motd")
    system.engine.docker("cp", tmp_path / "motd", f"{system.name}:/etc/motd")
    assert system.sh("cat /etc/motd") == "new"
    wait_for_owners(system, "/etc/motd", {"0:0"})


@on_the_main_variant
def test_cp_in_keeps_a_users_file_a_users(system: System, tmp_path: Path) -> None:
    """`docker cp --archive` keeps the owner: uid 1000 of the source is uid 1000 inside."""
    (tmp_path / "users").write_text("mine\n", encoding="utf-8")
    os.chown(tmp_path / "users", 1000, 1000)
    system.engine.docker("cp", "--archive", tmp_path / "users", f"{system.name}:/opt/users")
    wait_for_owners(system, "/opt/users", {"1000:1000"})


def wait_for_owners(system: System, path: str, expected: set[str]) -> None:
    """Docker says that a copy is complete when it is; who owns the files may be put right right after that."""
    owners = f"find {path} | xargs stat --format %u:%g | sort -u"
    wait_for(lambda: set(system.sh(owners).split()) == expected, f"{path} owned by {expected}", within=5)


@everywhere
def test_cp_out(system: System, tmp_path: Path) -> None:
    system.sh("mkdir /opt/out; echo bytes > /opt/out/file; ln -s file /opt/out/link; echo more > /opt/out/file2")
    system.engine.docker("cp", f"{system.name}:/opt/out", tmp_path)
    assert (tmp_path / "out" / "link").read_text(encoding="utf-8") == "bytes\n"
    assert {owner(path) for path in (tmp_path / "out").iterdir()} == {(0, 0)}


@everywhere
def test_diff_and_the_layer_on_disk_show_ordinary_owners(system: System) -> None:
    system.sh("mkdir /opt/changed; echo x > /opt/changed/mine; echo x > /opt/changed/users; rm /etc/debian_version")
    system.sh("chown 1000:1000 /opt/changed/users; rm -r /usr/share/bug; mkdir /usr/share/bug")
    changes = system.engine.output("diff", system.name).splitlines()
    assert {"A /opt/changed", "A /opt/changed/mine", "C /etc", "D /etc/debian_version"} <= set(changes)
    upper = Path(system.engine.output("inspect", "--format", "{{.GraphDriver.Data.UpperDir}}", system.name))
    assert owner(upper / "opt/changed") == owner(upper / "opt/changed/mine") == (0, 0)
    assert owner(upper / "opt/changed/users") == (1000, 1000)
    foreign = [str(path) for path in upper.rglob("*") if max(owner(path)) >= CONTAINER_RANGE]
    assert not foreign
    assert owner(upper / "etc/debian_version") == (0, 0)
    assert (upper / "etc/debian_version").stat().st_rdev == 0, "a whiteout: character device 0:0"
    assert os.getxattr(upper / "usr/share/bug", "trusted.overlay.opaque") == b"y"


def owner(path: Path) -> tuple[int, int]:
    """On disk, as the host's root sees it."""
    status = path.lstat()
    return status.st_uid, status.st_gid


@everywhere
def test_commit_shows_ordinary_owners_to_a_plain_runc(system: System) -> None:
    system.sh("mkdir /opt/kept; echo kept > /opt/kept/file; echo x > /opt/kept/users; chown 1000:1000 /opt/kept/users")
    system.engine.docker("commit", system.name, "committed")
    foreign = "find / -xdev \\( -uid +65533 -o -gid +65533 \\) -print"
    look = f"cat /opt/kept/file; stat -c %u:%g /opt/kept /opt/kept/file /opt/kept/users; {foreign}"
    try:
        seen = system.engine.output(
            "run", "--rm", "--runtime", "runc", "--network", "none", "committed", "sh", "-c", look
        )
    finally:
        system.engine.docker("image", "rm", "committed")
    assert seen.split() == ["kept", "0:0", "0:0", "1000:1000"]


@on_the_main_variant
def test_pause_and_unpause(system: System) -> None:
    paused = ("inspect", "--format", "{{.State.Paused}}", system.name)
    ticks = "while :; do date +%s%N > /run/tick; sleep 0.02; done"
    system.engine.docker("exec", "--detach", system.name, "sh", "-c", ticks)
    tick = Path(f"/proc/{system.pid}/root/run/tick")
    wait_for(tick.exists, "the first tick", within=5)
    system.engine.docker("pause", system.name)
    try:
        assert system.engine.output(*paused) == "true"
        frozen = tick.read_text(encoding="ascii")
        with pytest.raises(EngineError, match="is paused"):
            system.exec("true")
        assert tick.read_text(encoding="ascii") == frozen
    finally:
        system.engine.docker("unpause", system.name)
    assert system.engine.output(*paused) == "false"
    wait_for(lambda: tick.read_text(encoding="ascii") > frozen, "a tick after the pause", within=5)
    system.sh("pkill -f [/]run/tick")


# -- interceptor's own view ---------------------------------------------------------------------------------------------


@on_the_main_variant
def test_trace_shows_what_was_done_and_by_which_rule(inner: System) -> None:
    inner.inner("run", "--rm", "busybox", "true")
    lines = interceptor(inner.engine, "trace", inner.name, "--last", "2000", "--json").stdout.splitlines()
    events = [json.loads(line) for line in lines]
    assert {event["name"] for event in events} == {inner.name}
    assert not [event for event in events if not re.search(r"(\.yaml:\d+|^kernel:)", event["rule"])]
    named = {"mount": "fstype", "fsopen": "fsname"}
    ours = [event for event in events if event["call"] in named and event["how"] == "emulated"]
    assert {"debugfs", "tracefs", "overlay"} <= {event["args"][named[event["call"]]] for event in ours}
    assert {"systemd", "dockerd"} <= {event["comm"] for event in events}


@on_the_main_variant
def test_ps_names_the_container(system: System) -> None:
    (listed,) = json.loads(interceptor(system.engine, "ps", "--json").stdout)
    assert (listed["name"], listed["image"], listed["pid"]) == (system.name, MAIN.image, system.pid)
    first, length = listed["ids"]
    assert Path(f"/proc/{system.pid}/uid_map").read_text(encoding="ascii").split() == ["0", str(first), str(length)]


# -- who owns what is seen inside --------------------------------------------------------------------------------------


@everywhere
def test_no_file_of_the_rootfs_is_owned_by_nobody(system: System) -> None:
    """/proc and /sys themselves are the kernel's, and 1000 is nobody's uid, but that of other tests' files."""
    nobodys = "\\( -nouser -o -nogroup -o -uid 65534 -o -gid 65534 \\) ! -uid 1000 ! -path /proc ! -path /sys"
    assert system.sh(f"find / -xdev {nobodys}") == ""


@everywhere
def test_no_bind_is_owned_by_nobody(system: System) -> None:
    binds = "/etc/hosts /etc/hostname /etc/resolv.conf /srv/bound /srv/named /srv/bound/roots"
    assert set(system.sh(f"stat -c %u:%g {binds}").split()) == {"0:0"}
    assert system.sh("stat -c %u:%g /srv/bound/users") == "1000:1000"


@everywhere
def test_a_volume_can_be_written(system: System) -> None:
    system.sh("echo new > /srv/bound/new; chown 1000:1000 /srv/bound/new; echo x >> /etc/hosts; echo x > /srv/named/x")
    assert owner(system.volume / "new") == (1000, 1000)


# -- the end of the container that the others share --------------------------------------------------------------------


@on_the_main_variant
def test_restart(inner: System) -> None:
    inner.sh("echo kept > /root/kept")
    inner.restarted()
    inner.engine.docker("restart", inner.name)
    state, seconds = inner.wait_booted(within=30)
    assert state == "running", inner.failed_units()
    assert seconds < 20
    assert inner.sh("cat /root/kept") == "kept"
    assert inner.inner("run", "--rm", "busybox", "echo", "still there") == "still there", "the inner image is kept"


@everywhere
def test_stop_and_rm(system: System) -> None:
    """Stopped by its own signal, not killed; then gone, with its layer and its anonymous volume."""
    system.sh("true")
    system.engine.docker("stop", "--time", "20", system.name, timeout=40)
    status = system.engine.output("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", system.name)
    assert status.split()[0] == "exited"
    assert status.split()[1] != "137", "it was killed"
    upper = Path(system.engine.output("inspect", "--format", "{{.GraphDriver.Data.UpperDir}}", system.name))
    system.engine.docker("rm", "--volumes", system.name)
    assert system.engine.output("ps", "--all", "--quiet") == ""
    assert not upper.exists()
