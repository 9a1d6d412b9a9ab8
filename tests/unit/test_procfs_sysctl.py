"""The sysctl leaves; tests/kernel/test_procfs_sysctl.py asks the kernel whether the kinds are right."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.procfs.leaf import View
from runtime.procfs.values import LEAVES, sysctl
from runtime.procfs.values.sysctl_kinds import Ints, Latched, Parameter, Text, Unsigned

if TYPE_CHECKING:
    from pathlib import Path

    from runtime.procfs.leaf import Leaf

BY_PATH = {leaf.path: leaf for leaf in LEAVES}


def write(leaf: Leaf, now: bytes, written: bytes) -> bytes:
    assert leaf.write
    return leaf.write(View({}), now, written)


@pytest.mark.parametrize(
    ("path", "good", "bad"),
    [
        ("vm/overcommit_memory", b"1\n", b"3\n"),
        ("vm/panic_on_oom", b"0", b"-1"),
        ("vm/max_map_count", b"262144\n", b"2147483648"),
        ("vm/swappiness", b"200", b"201"),
        ("kernel/panic", b"-1\n", b"ten"),
        ("kernel/panic_on_oops", b"1\n", b""),
        ("kernel/kptr_restrict", b"2", b"3"),
        ("kernel/keys/root_maxkeys", b"1000000", b"-1"),
        ("fs/protected_regular", b"2", b"3"),
        ("fs/file-max", b"9223372036854775807", b"9223372036854775808"),
        ("fs/nr_open", b"1048576", b"63"),
        ("fs/inotify/max_user_watches", b"1048576", b"-1"),
    ],
)
def test_what_programs_set_is_remembered_within_the_kernels_range(path: str, good: bytes, bad: bytes) -> None:
    leaf = BY_PATH[f"/proc/sys/{path}"]
    assert write(leaf, b"0\n", good).strip() == good.strip()
    with pytest.raises(OSError, match="is not") as refused:
        write(leaf, b"0\n", bad)
    assert refused.value.errno == errno.EINVAL


def test_before_a_write_the_hosts_value_is_shown(tmp_path: Path) -> None:
    (tmp_path / "proc/sys/vm").mkdir(parents=True)
    (tmp_path / "proc/sys/vm/swappiness").write_text("60\n", encoding="ascii")
    view = View({}, proc=str(tmp_path / "proc"), sys=str(tmp_path / "sys"))
    assert BY_PATH["/proc/sys/vm/swappiness"].read(view) == b"60\n"
    assert BY_PATH[sysctl.HASHSIZE].read(view) == b""


def test_what_is_written_partly_keeps_the_rest() -> None:
    printk = BY_PATH["/proc/sys/kernel/printk"]
    assert write(printk, b"4\t4\t1\t7\n", b"3 2\n") == b"3\t2\t1\t7\n"
    assert write(printk, b"4\t4\t1\t7\n", b" 0x10\t010 2 3 4 5") == b"16\t8\t2\t3\n"


def test_a_file_name_for_cores_is_cut_off_as_the_kernel_does() -> None:
    pattern = BY_PATH["/proc/sys/kernel/core_pattern"]
    assert write(pattern, b"core\n", b"|/usr/lib/systemd-coredump %P\nrest") == b"|/usr/lib/systemd-coredump %P\n"
    assert write(pattern, b"core\n", b"x" * 500) == b"x" * 127 + b"\n"


def test_a_lock_stays() -> None:
    kind = Latched(0, 3)
    assert kind(b"1\n", b"0") == b"0\n"
    assert kind(b"3\n", b"3") == b"3\n"
    with pytest.raises(OSError, match="is not"):
        kind(b"3\n", b"1")


@given(
    st.binary(max_size=64), st.sampled_from([Ints(), Ints(0, 1), Ints(count=4), Unsigned(), Parameter(1), Text(128)])
)
def test_any_bytes_are_a_value_or_einval(written: bytes, kind: Ints | Unsigned | Parameter | Text) -> None:
    try:
        shown = kind(b"4\t4\t1\t7\n", written)
    except OSError as error:
        shown, number = b"\n", error.errno
    else:
        number = 0
    assert number in {0, errno.EINVAL}
    assert shown.endswith(b"\n")
    assert number or kind(b"4\t4\t1\t7\n", shown) == shown, "what is shown can be written back"


def test_a_modules_parameter_is_a_number_alone() -> None:
    kind = Parameter(1)
    assert kind(b"", b"65536\n") == b"65536\n"
    for bad in (b"0", b"", b"\n", b" 1", b"1 ", b"1 2", b"-1", b"4294967296", b"1\n\n"):
        with pytest.raises(OSError, match="is not"):
            kind(b"", bad)


def test_every_row_is_a_leaf_that_can_be_written() -> None:
    rows = {path for tree in (sysctl.REMEMBERED, sysctl.RAISED) for path, _ in sysctl.paths(tree)}
    leaves = {leaf.path for leaf in sysctl.LEAVES}
    assert rows - leaves <= {"/proc/sys/kernel/pid_max"}, "where it belongs to a namespace it is the kernel's"
    assert all(leaf.write for leaf in sysctl.LEAVES)
