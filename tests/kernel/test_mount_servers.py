"""Network filesystems as far as a host without a server goes: who is asked, through which network, and what nobody reads."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from support import whole

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
