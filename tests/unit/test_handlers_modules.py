"""Modules by name: what a file says of itself, and what becomes of it."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fakes import Asked, FakeAgent, FakeModules, FakeTracee, ask, policy
from support.modules import image

from interceptor.errors import InterceptorError
from interceptor.handlers.init_module import (
    DeleteModuleArgs,
    FinitModuleArgs,
    InitModuleArgs,
    ModuleFlag,
    module_name,
)
from interceptor.limits import Limits, Module
from interceptor.modules import HostModules
from interceptor.verdict import Continue, Fail, Return

if TYPE_CHECKING:
    from pathlib import Path

FD, AT = 5, 0x10000
LENDS = policy(limits=Limits(modules=(Module("br_netfilter", "p.yaml:3"), Module("ip_vs*", "p.yaml:3"))))


def named(content: bytes) -> str | None:
    return module_name(lambda offset, size: content[offset : offset + size])


def by_fd(content: bytes, *, flags: int = 0, parameters: bytes | None = b"", **more: object) -> Asked:
    tracee = FakeTracee(taken={FD: 50})
    return ask(
        "finit_module",
        FinitModuleArgs(FD, parameters, flags),
        **{"tracee": tracee, "agent": FakeAgent(gives=content), **more},
    )  # type: ignore[arg-type]


def by_image(content: bytes, **more: object) -> Asked:
    class Memory(FakeTracee):
        def read(self, address: int, length: int) -> bytes:
            if not AT <= address <= address + length <= AT + len(content):
                raise OSError(errno.EFAULT, "unreadable")
            return content[address - AT :][:length]

    return ask("init_module", InitModuleArgs(AT, len(content), b""), **{"tracee": Memory(), **more})  # type: ignore[arg-type]


def test_the_name_is_the_one_in_modinfo() -> None:
    assert named(image("br_netfilter")) == "br_netfilter"
    assert named(image("snd-hda")) == "snd_hda"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x7fELF",
        b"#!/bin/sh\n" * 100,
        image("x", kind=2),
        image("x")[:-1],
        image("../../etc/x"),
        image(""),
        image("x" * 56),
    ],
)
def test_what_is_no_module_has_none(content: bytes) -> None:
    assert named(content) is None
    assert by_fd(content).verdict == Fail(errno.ENOEXEC)


@given(st.binary(max_size=400), st.integers(0, 400), st.binary(max_size=8))
def test_whatever_a_file_holds_costs_little_and_gives_a_word_or_nothing(tail: bytes, at: int, put: bytes) -> None:
    content = image("abc")
    content = content[:at] + put + content[at + len(put) :] + tail
    asked = 0

    def read(offset: int, size: int) -> bytes:
        nonlocal asked
        assert 0 <= offset <= 1 << 40
        assert size >= 0
        asked += size
        return content[offset : offset + size]

    name = module_name(read)
    assert asked < 1 << 22
    assert name is None or name.replace("_", "a").isalnum()


@pytest.mark.parametrize("call", [by_fd, by_image])
def test_what_is_there_already_succeeds_and_nothing_is_loaded(call: type[Asked]) -> None:
    modules = FakeModules(there={"overlay"}, known={"overlay"})
    asked = call(image("overlay"), modules=modules)  # type: ignore[call-arg]
    assert asked.verdict == Return()
    assert not modules.loaded


@pytest.mark.parametrize("call", [by_fd, by_image])
def test_what_policy_lists_the_host_loads_by_name(call: type[Asked]) -> None:
    modules = FakeModules(known={"br_netfilter", "ip_vs_rr"})
    for name in ("br-netfilter", "ip_vs_rr"):
        asked = call(image(name), by=LENDS, modules=modules)  # type: ignore[call-arg]
        assert asked.verdict == Return()
        assert asked.call.rule == "p.yaml:3"
    assert modules.loaded == ["br_netfilter", "ip_vs_rr"]


def test_what_policy_does_not_list_is_eperm_and_the_trace_says_what_would_allow_it() -> None:
    modules = FakeModules(known={"evil"})
    asked = by_fd(image("evil"), by=LENDS, modules=modules)
    assert asked.verdict == Fail(errno.EPERM)
    assert asked.call.allow == "limits: {modules: [evil]}"
    assert not modules.loaded


def test_the_containers_parameters_are_not_the_hosts() -> None:
    asked = by_fd(image("ip_vs"), by=LENDS, parameters=b"conn_tab_bits=20", modules=FakeModules(known={"ip_vs"}))
    assert asked.verdict == Return()
    assert "parameters are the host's" in asked.call.why


def test_what_the_host_has_not_is_enoent() -> None:
    with pytest.raises(OSError, match="not found") as raised:
        by_fd(image("ip_vs_new"), by=LENDS)
    assert raised.value.errno == errno.ENOENT


def test_a_compressed_file_is_not_looked_into() -> None:
    asked = by_fd(b"\xfd7zXZ\0", flags=ModuleFlag.MODULE_INIT_COMPRESSED_FILE)
    assert asked.verdict == Fail(errno.ENOSYS)
    assert not asked.done


def test_flags_that_do_not_exist_and_descriptors_that_are_not_open() -> None:
    assert by_fd(image("a"), flags=8).verdict == Fail(errno.EINVAL)
    with pytest.raises(OSError, match="descriptor") as raised:
        by_fd(image("a"), tracee=FakeTracee())
    assert raised.value.errno == errno.EBADF


def test_delete_module_removes_nothing() -> None:
    def delete(name: bytes) -> object:
        return ask("delete_module", DeleteModuleArgs(name, 0), modules=FakeModules(there={"ip_vs"})).verdict

    assert (delete(b"ip-vs"), delete(b"other"), delete(b"\xff/")) == (
        Fail(errno.EPERM),
        Fail(errno.ENOENT),
        Fail(errno.ENOENT),
    )


def test_a_nested_user_namespace_gets_the_kernels_answer() -> None:
    nested = FakeTracee(in_nested_user_namespace=True)
    for name, args in (
        ("init_module", InitModuleArgs(AT, 10, b"")),
        ("finit_module", FinitModuleArgs(FD, b"", 0)),
        ("delete_module", DeleteModuleArgs(b"a", 0)),
    ):
        assert isinstance(ask(name, args, tracee=nested).verdict, Continue)


# The host's


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HostModules:
    """Its modprobe "loads" good, and says that it has loaded blacklisted."""
    program = tmp_path / "bin/modprobe"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "$@" >>{tmp_path}/ran\ncase "$3" in\n'
        f" good) mkdir {tmp_path}/module/good; echo live >{tmp_path}/module/good/initstate ;;\n"
        " blacklisted) ;;\n slow) exec sleep 100 ;;\n"
        ' *) echo "FATAL: Module $3 not found." >&2; exit 1 ;;\nesac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    for name, state in (("loaded", "live\n"), ("going", "going\n"), ("builtin", None)):
        (tmp_path / "module" / name).mkdir(parents=True)
        if state:
            (tmp_path / "module" / name / "initstate").write_text(state)
    return HostModules(lambda: None, 5, tmp_path / "module", tmp_path / "lib")


def test_present_is_what_is_live_or_built_in(host: HostModules, tmp_path: Path) -> None:
    assert [name for name in ("loaded", "going", "builtin", "quiet", "..", "") if host.present(name)] == [
        "loaded",
        "builtin",
    ]
    files = tmp_path / "lib" / os.uname().release
    files.mkdir(parents=True)
    (files / "modules.builtin").write_text("kernel/fs/quiet.ko\nkernel/drivers/a-b.ko\n")
    assert [name for name in ("quiet", "a_b", "other") if host.present(name)] == ["quiet", "a_b"]


def test_modprobe_is_the_hosts_and_believed_only_when_the_module_is_there(host: HostModules, tmp_path: Path) -> None:
    host.load("good")
    with pytest.raises(OSError, match="blacklisted on the host"):
        host.load("blacklisted")
    with pytest.raises(OSError, match="FATAL: Module other not found"):
        host.load("other")
    with pytest.raises(OSError, match="no name"):
        host.load("--help")
    assert (tmp_path / "ran").read_text() == "-b -- good\n-b -- blacklisted\n-b -- other\n"


def test_modprobe_has_a_deadline_and_may_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: HostModules
) -> None:
    with pytest.raises(InterceptorError, match="takes longer"):
        HostModules(lambda: None, 0.05, tmp_path / "module", tmp_path).load("slow")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InterceptorError, match="no modprobe"):
        host.load("good")
