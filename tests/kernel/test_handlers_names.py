"""sethostname(2) and setdomainname(2) in containers without CAP_SYS_ADMIN: by policy, for root, in its own namespace."""

from __future__ import annotations

import os
import socket
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


@pytest.fixture(params=["runc", "crun"], scope="module")
def box(request: pytest.FixtureRequest) -> Iterator[whole.Box]:
    before = socket.gethostname()
    with whole.host(request.param) as host:
        yield host.box("names")
    assert socket.gethostname() == before


def test_the_box_has_no_cap_sys_admin(box: whole.Box) -> None:
    effective = int(box.sh("grep CapEff /proc/self/status").split()[1], 16)
    assert not effective >> 21 & 1


def test_an_allowed_name_is_set_and_procfs_agrees(box: whole.Box) -> None:
    assert box.sh("hostname web-1; hostname; cat /proc/sys/kernel/hostname") == "web-1\nweb-1\n"
    [event] = box.trace("--syscall", "sethostname", "--last", "1")
    assert (event["how"], event["result"], event["args"]) == ("emulated", 0, {"name": "web-1", "length": 5})
    assert event["rule"].endswith("names.yaml:6")


def test_another_name_is_eperm_and_the_trace_says_why(box: whole.Box) -> None:
    before = box.sh("hostname")
    done = box.exec("hostname", "evil")
    assert (done.returncode, done.stderr) == (1, "hostname: sethostname: Operation not permitted\n")
    assert box.sh("hostname") == before
    line, why = [line for line in box.lines("--denied", "--last", "1") if not line.startswith("--")]
    assert 'sethostname("evil", 4)' in line
    assert "EPERM" in line
    assert "names.yaml:8" in line
    assert "refused by" in why
    assert "names.yaml:8" in why


def set_name(box: whole.Box, call: str, name: str, *, uid: int = 0, user: str = "0:0") -> str:
    done = box.exec(box.probe("set_name"), str(uid), call, name, user=user)
    assert done.returncode == 0, done
    return done.stdout.strip()


def test_domainname_too(box: whole.Box) -> None:
    assert set_name(box, "setdomainname", "a.example") == "done"
    assert box.sh("cat /proc/sys/kernel/domainname") == "a.example\n"
    assert set_name(box, "setdomainname", "evil") == "EPERM"
    assert box.sh("cat /proc/sys/kernel/domainname") == "a.example\n"


@pytest.mark.parametrize(("call", "name"), [("sethostname", "web-9"), ("setdomainname", "b.example")])
@pytest.mark.parametrize(
    "who",
    [{"user": "1000:1000"}, {"uid": 1000}],
    ids=["started so", "dropped to it, not dumpable"],
)
def test_others_than_root_get_the_kernels_answer(box: whole.Box, call: str, name: str, who: dict[str, object]) -> None:
    before = box.sh("cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname")
    assert set_name(box, call, name, **who) == "EPERM"  # type: ignore[arg-type]
    assert box.sh("cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname") == before


def test_the_name_of_somebody_elses_namespace_is_not_lent(box: whole.Box) -> None:
    """Root of a nested user namespace is container root outside of it, but the UTS namespace is not its own."""
    before = box.sh("hostname")
    unshared = box.exec("unshare", "-Ur", "hostname", "web-7")
    assert "Operation not permitted" in unshared.stderr
    assert box.sh("hostname") == before


def test_a_uts_namespace_of_its_own_is_the_kernels(box: whole.Box) -> None:
    before = box.sh("hostname")
    assert box.sh("unshare -Uru sh -c 'hostname web-nested; hostname'") == "web-nested\n"
    assert box.sh("hostname") == before
