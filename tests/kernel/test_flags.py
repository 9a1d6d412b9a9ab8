"""Flag tables and numbers against what the compiler finds in the kernel's headers."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from interceptor import args, registry
from interceptor.handlers import mount, sethostname
from interceptor.handlers.fsopen import FsopenFlag
from interceptor.handlers.mount import MountFlag
from interceptor.handlers.umount2 import UmountFlag
from interceptor.native import notifier
from interceptor.ports import Cap

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

HEADERS = """\
#include <asm/unistd.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/limits.h>
#include <linux/mount.h>
#include <linux/seccomp.h>
#include <linux/utsname.h>
#include <stdio.h>
"""
GLIBC_ONLY = "#include <sys/mount.h>\n#include <stdio.h>\n"
"""Its enums clash with <linux/mount.h> before glibc 2.37."""

IN_NO_HEADER = {"MS_KERNMOUNT", "MS_POSIXACL"}
"""Not in every version of the headers; checked where they are."""


@pytest.fixture(scope="module")
def compiler() -> str:
    found = shutil.which("gcc") or shutil.which("cc")
    if found is None:
        pytest.skip("needs a C compiler: apt-get install gcc")
    return found


def values(compiler: str, directory: Path, headers: str, names: list[str]) -> dict[str, int]:
    """What the macros and constants `names` are; those that the headers lack are left out."""
    lines = [f'#ifdef {name}\nprintf("{name} %lld\\n", (long long){name});\n#endif' for name in names]
    source = directory / "values.c"
    source.write_text(headers + "int main(void)\n{\n" + "\n".join(lines) + "\nreturn 0;\n}\n", encoding="utf-8")
    program = directory / "values"
    done = subprocess.run([compiler, "-o", program, source], check=False, capture_output=True, text=True)
    if done.returncode and "No such file" in done.stderr:
        pytest.skip(f"needs the headers of the kernel and of libc: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    out = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    return {name: int(value) for name, value in (line.split() for line in out.splitlines())}


def unsigned(table: Mapping[str, int], bits: int = 32) -> dict[str, int]:
    return {name: value & ((1 << bits) - 1) for name, value in table.items()}


@pytest.mark.parametrize(
    ("flags", "headers", "least"),
    [(MountFlag, HEADERS, 20), (UmountFlag, GLIBC_ONLY, 4), (FsopenFlag, HEADERS, 1)],
    ids=["mount", "umount2", "fsopen"],
)
def test_flags_are_the_headers(compiler: str, tmp_path: Path, flags: type[MountFlag], headers: str, least: int) -> None:
    ours = {flag.name: int(flag) for flag in flags if flag.name}
    theirs = values(compiler, tmp_path, headers, list(ours))
    assert len(theirs) >= least, theirs
    assert unsigned(theirs) == {name: value for name, value in ours.items() if name in theirs}
    assert set(ours) - set(theirs) <= IN_NO_HEADER


def test_umount_flags_are_libcs(compiler: str, tmp_path: Path) -> None:
    """There they are an enum: compared by a static assertion."""
    checks = [f'_Static_assert({flag.name} == {int(flag)}, "{flag.name}");' for flag in UmountFlag]
    source = tmp_path / "checks.c"
    source.write_text(GLIBC_ONLY + "\n".join(checks) + "\n", encoding="utf-8")
    done = subprocess.run([compiler, "-fsyntax-only", source], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_numbers_are_the_headers(compiler: str, tmp_path: Path) -> None:
    ours = {
        "MS_MGC_VAL": mount.MS_MGC_VAL,
        "MS_MGC_MSK": mount.MS_MGC_MSK,
        "AUDIT_ARCH_X86_64": args.Arch.X86_64,
        "AUDIT_ARCH_I386": args.Arch.I386,
        "AUDIT_ARCH_AARCH64": args.Arch.AARCH64,
        "PATH_MAX": args.PATH_MAX,
        "__NEW_UTS_LEN": sethostname.NAME_MAX,
        "__X32_SYSCALL_BIT": args.X32_SYSCALL_BIT,
        "SECCOMP_USER_NOTIF_FLAG_CONTINUE": notifier.CONTINUE_FLAG,
        **{f"CAP_{cap.name}": int(cap) for cap in Cap},
    }
    theirs = values(compiler, tmp_path, HEADERS, list(ours))
    assert unsigned(theirs) == {name: int(value) for name, value in ours.items() if name in theirs}
    assert set(ours) - set(theirs) <= {"__X32_SYSCALL_BIT"}


def test_call_numbers_are_the_headers(compiler: str, tmp_path: Path) -> None:
    """libseccomp's, compared with <asm/unistd.h> for the architecture that we are on."""
    rows = registry.load()
    machine = subprocess.run(["uname", "-m"], check=True, capture_output=True, text=True).stdout.strip()
    arch = {"x86_64": args.Arch.X86_64, "aarch64": args.Arch.AARCH64}.get(machine)
    if arch is None:
        pytest.skip(f"{machine} is no architecture of ours")
    ours = {f"__NR_{name}": row.number(arch) for name, row in rows.items() if row.number(arch) is not None}
    assert values(compiler, tmp_path, HEADERS, list(ours)) == ours
