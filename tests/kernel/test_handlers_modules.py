"""init_module(2), finit_module(2) and delete_module(2), with and without the filter.

The host's modprobe is a script here, but for the last tests: they have a kernel load modules, under `make machine`.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import machine, whole
from support.modules import image

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(
        platform.machine() != "x86_64", reason="modules of the tests are for 64-bit little-endian machines"
    ),
]

LENDS = 'extends: [default]\nselectable: true\nlimits: {modules: ["lent_*"]}\n'
MODPROBE = """\
#!/bin/sh
echo "$@" >>{ran}
case "$3" in
  lent_good) mkdir /sys/module/lent_good && echo live >/sys/module/lent_good/initstate ;;
  *) echo "modprobe: FATAL: Module $3 not found in directory /lib/modules/x" >&2; exit 1 ;;
esac
"""
THE_SAME = {
    "finit_module of no descriptor": "EBADF",
    "finit_module of one for writing": "EBADF",
    "finit_module of a pipe": "EINVAL",
    "finit_module of a directory": "EINVAL",
    "finit_module of another file": "ENOEXEC",
    "finit_module of a path": "EBADF",
    "finit_module of a compressed file": "ENOSYS",
    "finit_module with a flag that is none": "EINVAL",
    "init_module beyond it": "ok",
    "init_module of nothing": "ENOEXEC",
    "init_module of no memory": "EFAULT",
    "delete_module of none": "ENOENT",
    "delete_module of no memory": "EFAULT",
}
"""Whatever the file is. The kernel asks for the capability first: EPERM for all of it."""
REFUSED = ({"EPERM"}, {"ENOSYS"})
"""By a kernel with and without CONFIG_MODULES."""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[whole.Host]:
    """A supervisor that sees a /sys/module of its own and the modprobe above."""
    directory = tmp_path_factory.mktemp("modprobe")
    (directory / "modprobe").write_text(MODPROBE.format(ran=directory / "ran"))
    (directory / "modprobe").chmod(0o755)
    script = (
        "mount -t tmpfs none /sys/module; mkdir -p /sys/module/there; echo live >/sys/module/there/initstate; "
        f'PATH={shlex.quote(str(directory))}:$PATH; exec "$@"'
    )
    under = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", script, "sh"]
    with whole.host("runc", {"lends": LENDS}, under=under) as host:
        host.ran = directory / "ran"  # type: ignore[attr-defined]
        yield host


@pytest.fixture(scope="module")
def box(host: whole.Host) -> whole.Box:
    return host.box("lends")


def ran(host: whole.Host) -> list[str]:
    path: Path = host.ran  # type: ignore[attr-defined]
    return path.read_text().splitlines() if path.exists() else []


def add(box: whole.Box, name: str) -> str:
    path = box.rootfs / "probe" / f"{name}.ko"
    path.write_bytes(image(name))
    return f"/probe/{path.name}"


def answers(box: whole.Box, name: str, *, filtered: bool = True) -> dict[str, str]:
    done = (box.exec if filtered else box.unfiltered)(box.probe("modules"), add(box, name))
    assert done.returncode == 0, done.stderr
    return dict(line.split(": ") for line in done.stdout.splitlines())


def test_the_kernel_alone_refuses_everything(box: whole.Box) -> None:
    assert set(answers(box, "there", filtered=False).values()) in REFUSED


@pytest.mark.parametrize(("name", "answer", "removed"), [("there", "ok", "EPERM"), ("another", "EPERM", "ENOENT")])
def test_what_is_there_succeeds_and_what_is_not_lent_does_not(
    box: whole.Box, name: str, answer: str, removed: str
) -> None:
    found = answers(box, name)
    assert {call: found.pop(call) for call in THE_SAME} == {**THE_SAME, "init_module beyond it": answer}
    assert found.pop("delete_module") == removed
    assert set(found.values()) == {answer}
    assert not [line for line in ran(box.host) if line.endswith(name)]


def test_what_policy_lists_is_the_hosts_to_load(box: whole.Box) -> None:
    assert answers(box, "lent_good")["finit_module"] == "ok"
    [_event] = box.trace("--syscall", "finit_module", "--last", "1")
    assert answers(box, "lent_bad")["finit_module"] == "ENOENT"
    assert [line for line in ran(box.host) if "lent_good" in line] == ["-b -- lent_good"]
    assert set(ran(box.host)) == {"-b -- lent_good", "-b -- lent_bad"}


def test_programs_hear_what_they_understand(box: whole.Box) -> None:
    there, another = add(box, "there"), add(box, "another")
    box.sh(f"busybox insmod {there}")
    assert "can't insert" in box.exec("busybox", "insmod", another).stderr
    assert "No such file" in box.exec("busybox", "rmmod", "nothing").stderr
    [event] = box.trace("--syscall", "finit_module", "--syscall", "init_module", "--last", "1")
    assert "limits: modules:" in event["why"]


def test_without_the_capability_the_kernel_decides(box: whole.Box) -> None:
    done = box.exec(box.probe("modules"), add(box, "there"), user="1000:1000")
    found = dict(line.split(": ") for line in done.stdout.splitlines())
    assert set(found.values()) in REFUSED


REAL = "extends: [default]\nselectable: true\nlimits: {modules: [dummy, vxlan, ifb, no_such_*]}\n"
HOSTS = Path("/etc/modprobe.d/interceptor-test.conf")
"""What the host's administrator has said: modprobe.d(5)."""


def loaded(name: str) -> bool:
    return Path("/sys/module", name).is_dir()


@pytest.fixture(scope="module")
def real() -> Iterator[whole.Box]:
    """A container to which modules are lent that this kernel can load, and has not."""
    HOSTS.write_text("options dummy numdummies=2\nblacklist ifb\n", encoding="ascii")
    try:
        with whole.host("runc", {"real": REAL}) as host:
            assert not any(map(loaded, ("dummy", "vxlan", "udp_tunnel", "ifb", "zram")))
            yield host.box("real")
    finally:
        subprocess.run(["modprobe", "--remove", "dummy", "vxlan", "ifb"], check=True)
        HOSTS.unlink()


@machine.only
def test_the_hosts_own_module_is_loaded_with_the_hosts_parameters(real: whole.Box) -> None:
    """The container's file, though it is a module of that kernel's, and its parameters are not."""
    found = subprocess.run(["modinfo", "--filename", "dummy"], check=True, capture_output=True, text=True).stdout.strip()
    shutil.copy(found, real.rootfs / "probe/dummy.ko")
    real.sh("busybox insmod /probe/dummy.ko numdummies=7")
    assert Path("/sys/module/dummy/initstate").read_text() == "live\n"
    assert sorted(path.name for path in Path("/sys/class/net").glob("dummy*")) == ["dummy0", "dummy1"]
    # Now it is there, for containers as well to which it is not lent; and nobody inside removes it.
    another = real.host.box()
    another.sh(f"busybox insmod {add(another, 'dummy')}")
    assert "not permitted" in real.exec("busybox", "rmmod", "dummy").stderr
    assert loaded("dummy")


@machine.only
def test_a_module_comes_with_what_it_needs_and_in_every_way_to_ask(real: whole.Box) -> None:
    found = answers(real, "vxlan")
    assert {call: found.pop(call) for call in THE_SAME} == THE_SAME
    assert found.pop("delete_module") == "EPERM"
    assert set(found.values()) == {"ok"}
    assert loaded("vxlan")
    assert loaded("udp_tunnel")


@machine.only
def test_the_kernel_gets_no_other(real: whole.Box) -> None:
    """What is not lent; what the host's administrator has forbidden; what the host has not."""
    for name, answer in (("zram", "EPERM"), ("ifb", "ENOENT"), ("no_such_module", "ENOENT")):
        found = answers(real, name)
        assert (found["finit_module"], found["init_module"], found["delete_module"]) == (answer, answer, "ENOENT")
        assert not loaded(name)
