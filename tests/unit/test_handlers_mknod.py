"""mknod(2), mknodat(2): what is listed is made, what is not is explained."""

from __future__ import annotations

import stat

import pytest
from support.fakes import MOUNT_NAMESPACE, Asked, FakeTracee, ask, container, policy

from interceptor import registry
from interceptor.args import Arch
from interceptor.handlers.mknod import MknodArgs, MknodatArgs, major, minor
from interceptor.limits import Device, Devices, Limits
from interceptor.verdict import Continue, Return
from interceptor.wire import Anchor

NULL, DISK = 0x103, 0x800
CHR, BLK = stat.S_IFCHR | 0o666, stat.S_IFBLK | 0o660
LISTED = Devices((Device("c", 1, 3, "team.yaml:7"),), cgroup="team.yaml:9")


def mknod(mode: int, dev: int, **how: object) -> Asked:
    return ask("mknod", MknodArgs(b"/dev/x", mode, dev), by=policy(limits=Limits(devices=LISTED)), **how)  # type: ignore[arg-type]


def test_what_is_listed_is_made_and_the_list_is_the_rule() -> None:
    asked = mknod(CHR, NULL)
    assert asked.verdict == Return()
    assert asked.done == [("make_node", Anchor(b"/dev/x"), CHR, NULL)]
    assert asked.call.rule == "team.yaml:7"


@pytest.mark.parametrize(("mode", "dev"), [(BLK, NULL), (BLK, DISK), (CHR, DISK), (BLK, 0)])
def test_what_is_not_listed_is_denied_with_its_numbers(mode: int, dev: int) -> None:
    asked = mknod(mode, dev)
    assert isinstance(asked.verdict, Continue), "the kernel says what else is wrong, and else EPERM"
    assert asked.call.denied
    assert f"{major(dev)}:{minor(dev)}" in asked.call.why
    assert not asked.done


@pytest.mark.parametrize(
    ("namespace", "made"), [(MOUNT_NAMESPACE, True), (5, False)], ids=["its own", "an inner one's"]
)
def test_the_device_cgroup_counts_in_the_containers_own_mount_namespace(namespace: int, made: bool) -> None:
    asked = mknod(BLK, DISK, of=container(devices=("b 8:*",)), tracee=FakeTracee(mount_namespace=namespace))
    assert bool(asked.done) is made
    assert asked.call.denied is not made


def test_whiteouts_and_nested_user_namespaces_are_the_kernels() -> None:
    assert isinstance(mknod(CHR, 0).verdict, Continue)
    assert isinstance(mknod(CHR, NULL, tracee=FakeTracee(in_nested_user_namespace=True)).verdict, Continue)


def test_a_relative_path_starts_at_its_directory() -> None:
    asked = ask("mknodat", MknodatArgs(5, b"x", CHR, NULL), by=policy(limits=Limits(devices=LISTED)))
    assert asked.done == [("make_node", Anchor(b"x", 5), CHR, NULL)]


def test_it_reads_as_strace_writes_it() -> None:
    signature = registry.load()["mknod"].signature
    registers = (0, 0xDEAD_0000_0000 | CHR, 0xDEAD_0000_0000 | 0xFFF0_0103, 0, 0, 0)
    values = signature.registers(registers, Arch.X86_64)
    assert signature.render(MknodArgs(b"/dev/x", values["mode"], values["dev"])) == (
        f'"/dev/x", S_IFCHR|0666, makedev(1, {0xFFF03})'
    )


def test_a_refusal_proposes_the_list_with_the_device() -> None:
    text = Devices((Device("c", 1, None, "x:1"),), cgroup="x:1").entry_with("b", 8, 1)
    assert text == 'limits: {devices: ["c 1:*", "b 8:1", cgroup]}'
