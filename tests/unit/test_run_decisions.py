"""What `interceptor run` decides without touching the host."""

from __future__ import annotations

import argparse
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from interceptor.commands import run as command
from interceptor.errors import ConfigError
from interceptor.run import bundle, etc, network, place, users

ACCOUNTS = "root:x:0:0:root:/root:/bin/sh\nwww:x:33:34:www:/:/bin/false\nbroken line\n"
GROUP = "root:x:0:\nweb:x:34:\naudio:x:29:www,other\n"


def read(name: str) -> str:
    return {"passwd": ACCOUNTS, "group": GROUP}[name]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", bundle.User()),
        ("0", bundle.User(0, 0)),
        ("1000", bundle.User(1000, 0)),
        ("1000:100", bundle.User(1000, 100)),
        ("www", bundle.User(33, 34, (29,))),
        ("33", bundle.User(33, 34, (29,))),
        ("www:audio", bundle.User(33, 29)),
    ],
)
def test_users(text: str, expected: bundle.User) -> None:
    assert users.resolve(text, read) == expected


@pytest.mark.parametrize("text", ["nobody", "www:staff"])
def test_users_that_are_not_there(text: str) -> None:
    with pytest.raises(ConfigError, match="is neither a number nor in the container's /etc/"):
        users.resolve(text, read)


def test_etc_is_read_without_leaving_the_root_filesystem(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "passwd").write_text(ACCOUNTS, encoding="utf-8")
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "etc").symlink_to(outside)
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "etc").mkdir()
    (tmp_path / "file" / "etc" / "passwd").symlink_to(outside / "passwd")
    assert users.reader(tmp_path / "link")("passwd") == users.reader(tmp_path / "file")("passwd") == ""
    (tmp_path / "plain").mkdir()
    outside.rename(tmp_path / "plain" / "etc")
    assert users.reader(tmp_path / "plain")("passwd") == ACCOUNTS


def test_name_servers_on_loopback_are_left_out() -> None:
    files = {
        "/etc/resolv.conf": "nameserver 127.0.0.53\nsearch example.org\n",
        "/run/systemd/resolve/resolv.conf": "nameserver ::1\nnameserver 192.0.2.1\nsearch example.org\n",
    }
    assert etc.resolv_conf(files.__getitem__) == "nameserver 192.0.2.1\nsearch example.org\n"
    files["/etc/resolv.conf"] = "nameserver fe80::1%eth0\n"
    assert etc.resolv_conf(files.__getitem__) == "nameserver fe80::1%eth0\n"
    assert etc.resolv_conf(lambda _: "").startswith("# the host has no name server")


def test_the_first_subnet_that_no_route_overlaps_with_is_taken() -> None:
    routes = [IPv4Network("0.0.0.0/0"), IPv4Network("10.213.0.128/25"), IPv4Network("10.213.2.0/23")]
    assert network.choose_subnet(routes) == IPv4Network("10.213.1.0/24")
    with pytest.raises(network.NetworkError, match="use --net none"):
        network.choose_subnet([IPv4Network("10.0.0.0/8")])


def test_addresses_are_given_once() -> None:
    state = network.State(subnet="10.213.0.0/24")
    given = [network.lease(state, f"c{number}") for number in range(253)]
    assert len({each.address for each in given}) == 253
    assert {str(each.gateway) for each in given} == {"10.213.0.1"}
    assert "10.213.0.1" not in state.leases.values()
    with pytest.raises(network.NetworkError, match="all 253 addresses"):
        network.lease(state, "one more")
    del state.leases["c7"]
    assert str(network.lease(state, "again").address) == "10.213.0.9"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("64m", 64 << 20), ("1g", 1 << 30), ("1.5GiB", 3 << 29), ("8388608", 8 << 20), ("9000kb", 9000 << 10)],
)
def test_amounts_of_memory(text: str, expected: int) -> None:
    assert command.memory(text) == expected


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (command.memory, "1m"),
        (command.memory, "lots"),
        (command.cpus, "0"),
        (command.cpus, "many"),
        (command.cpus, "nan"),
        (command.assignment, "A"),
        (command.assignment, "=b"),
        (command.volume, "/usr"),
        (command.volume, "/usr:relative"),
        (command.volume, "/usr:/x:rx"),
        (command.volume, "/does/not/exist:/x"),
    ],
)
def test_values_that_are_refused_are_named(parse: object, text: str) -> None:
    assert callable(parse)
    with pytest.raises(argparse.ArgumentTypeError, match=text):
        parse(text)


def test_volumes() -> None:
    assert command.volume("/usr:/x") == bundle.Volume("/usr", "/x")
    assert command.volume("/usr:/x:ro") == bundle.Volume("/usr", "/x", read_only=True)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-a", "a" * 65, "a b", "ä"])
def test_names_that_are_no_container_id(name: str) -> None:
    with pytest.raises(ConfigError, match="--name"):
        place.check_name(name)


def test_mount_points_below_a_directory_are_unescaped() -> None:
    mountinfo = (
        "22 1 0:21 / /run rw - tmpfs tmpfs rw\n"
        "23 22 0:22 / /run/a\\040b rw - tmpfs tmpfs rw\n"
        "24 23 0:23 / /run/a\\040b/c rw - tmpfs tmpfs rw\n"
        "25 22 0:24 / /run/a\\040bc rw - tmpfs tmpfs rw\n"
    )
    assert place.mount_points(Path("/run/a b"), mountinfo) == ["/run/a b", "/run/a b/c"]


def test_the_configuration_says_what_was_asked_for() -> None:
    wanted = bundle.Wanted(
        name="c1",
        arguments=["/sbin/init"],
        environment={"A": "b=c", "PATH": "/bin"},
        terminal=True,
        memory=64 << 20,
        cpus=0.5,
        volumes=[bundle.Volume("/s", "/d", read_only=True)],
        policy="systemd",
        image="debian:12",
    )
    config = bundle.config(wanted, Path("/rootfs"), Path("/etc-of-it"))
    assert config["root"] == {"path": "/rootfs", "readonly": False}
    assert config["hostname"] == "c1"
    assert config["process"]["env"] == ["PATH=/bin", "HOSTNAME=c1", "A=b=c", "TERM=xterm"]
    assert config["linux"]["resources"]["memory"] == {"limit": 64 << 20}
    assert config["linux"]["resources"]["cpu"] == {"quota": 50_000, "period": 100_000}
    assert config["annotations"] == {
        "interceptor.name": "c1", "interceptor.image": "debian:12", "interceptor.policy": "systemd",
    }  # fmt: skip
    binds = {mount["destination"]: mount for mount in config["mounts"] if mount["type"] == "bind"}
    assert {*binds} == {"/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/d"}
    assert binds["/d"]["options"] == ["rbind", "rprivate", "ro"]
    assert bundle.is_systemd(wanted.arguments)
    assert not bundle.is_systemd(["/bin/initialise"])
