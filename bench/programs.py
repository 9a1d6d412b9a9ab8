"""What whole programs cost in a container: `dpkg -i`, `tar x` and a C compiler, beside stock runc with a user namespace.

Five sides in turn, round by round, each on an overlay as engines give one, of layers on a tmpfs, with the host's /usr in it:
runc alone, with a user namespace and the shortest seccomp profile there is (every engine gives one, and any filter makes every
call dearer); the same without one; ours with the default policy, with attributes on, and with everything on that is optional
(attributes, owners, ceilings). Each round does a part (the tenth of 200 packages, of 50,000 files, of 60 C files); the time is
that of the program in its container, without the container's start. Processor time is the program's and of what it started;
the supervisor's is in the other only, which says little on a busy machine. A tmpfs, because a disk's own writing is more than
any difference here.
Usage: ``python bench/programs.py [--quick]`` (root).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import tarfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import _container

if TYPE_CHECKING:
    from collections.abc import Mapping

FIRST_ID, IDS = 1_000_000_000, 65_536
"""Of the side without us: far from the ranges that a supervisor gives."""
ROUNDS, PACKAGES, FILES, SOURCES = 10, 20, 5_000, 6
"""Of each round."""
EVERYTHING = """\
description: everything that is optional
selectable: true
extends: [xattr, chown]
limits: {nice: -10, realtime-priority: 10, io-realtime: 4, rlimits: {nofile: 1048576}}
"""
PROFILE = {
    "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "syscalls": [{"names": ["acct"], "action": "SCMP_ACT_ERRNO"}],
}  # fmt: skip
STOCK = {"stock": PROFILE, "unfiltered": None}
POLICIES = ("default", "xattr", "everything")
WORK = {
    "dpkg -i": "dpkg -i --force-unsafe-io /work/packages/$1/*.deb",
    "tar x": "tar -x -C /tmp/files -f /work/files.tar",
    "cc": "for f in /work/sources/*.c; do gcc -O1 -c -o /tmp/o $f || exit 1; done",
}
SCRIPT = """\
rm -rf /tmp/files; mkdir /tmp/files; TIMEFORMAT='%R %U %S'
{{ time {{ {work}; }} >/tmp/out 2>&1; }} 2>/tmp/time || {{ cat /tmp/out >&2; exit 1; }}
cat /tmp/time
"""


class Took(NamedTuple):
    """Seconds."""

    wall: float
    processor: float


class Stock:
    """runc alone."""

    def __init__(self, host: _container.Host, root: Path, profile: Mapping[str, object] | None) -> None:
        self._host, self._root, self._profile = host, root, profile

    def run(self, command: list[str]) -> str:
        bundle = self._host.bundle("stock", self._root, command)
        change(bundle, {})
        config = bundle / "config.json"
        spec = json.loads(config.read_text())
        spec["linux"]["namespaces"].append({"type": "user"})
        ids = [{"containerID": 0, "hostID": FIRST_ID, "size": IDS}]
        spec["linux"] |= {"uidMappings": ids, "gidMappings": ids, "seccomp": self._profile}
        config.write_text(json.dumps(spec))
        argv = ["runc", "--root", str(self._host.directory / "stock-runc"), "run", "--bundle", str(bundle), "bench-stock"]
        return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout


class Ours:
    """The same by interceptor-runc, with a policy."""

    def __init__(self, host: _container.Host, root: Path, policy: str) -> None:
        self._host, self._root, self._policy = host, root, policy

    def run(self, command: list[str]) -> str:
        bundle = self._host.bundle(self._policy, self._root, command)
        change(bundle, {"interceptor.policy": self._policy})
        return self._host.run_bundle(self._policy, bundle)


def change(bundle: Path, annotations: Mapping[str, str]) -> None:
    """The same rights and mounts for all sides."""
    config = bundle / "config.json"
    spec = json.loads(config.read_text())
    spec["annotations"] = dict(annotations)
    names = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "MKNOD", "SETGID", "SETUID", "SYS_CHROOT")
    rights = [f"CAP_{name}" for name in names]
    spec["process"]["capabilities"] = {"bounding": rights, "effective": rights, "permitted": rights}
    spec["process"]["env"] = ["PATH=/usr/sbin:/usr/bin", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"]
    spec["mounts"].append({"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]})
    config.write_text(json.dumps(spec))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two rounds: does it run, not how fast")
    rounds = 2 if parser.parse_args().quick else ROUNDS
    if not Path("/bin").is_symlink():
        raise SystemExit("the host's /bin lies in /usr since Debian 12: this needs such a host")
    _container.in_private_namespace()
    with _container.host() as host, ExitStack() as mounts:
        (host.policies / "everything.yaml").write_text(EVERYTHING)
        template = machine(host.volatile / "template", rounds)
        layers = {False: template, True: copied(template, host.volatile / "given-away")}
        given_away(layers[True])
        roots = {name: overlay(layers[name in STOCK], host.volatile / name, mounts) for name in (*STOCK, *POLICIES)}
        sides = {name: Stock(host, roots[name], profile) for name, profile in STOCK.items()}
        sides |= {name: Ours(host, roots[name], name) for name in POLICIES}
        print(f"programs in containers, medians of {rounds} rounds as ratios to stock runc's: time (processor time)")
        for name, work in WORK.items():
            command = ["bash", "-c", SCRIPT.format(work=work), "bench"]
            taken: dict[str, list[Took]] = {side: [] for side in sides}
            for number in range(rounds):
                for side in rotated(list(sides), number):
                    taken[side].append(took(sides[side].run([*command, str(number)])))
            native = taken["stock"]
            print(f"  {name:8} runc {statistics.median(t.wall for t in native) * 1000:6.0f} ms", end="")
            for side in ("unfiltered", *POLICIES):
                pairs = list(zip(taken[side], native, strict=True))
                wall, processor = (statistics.median(a[i] / b[i] for a, b in pairs) for i in (0, 1))
                print(f"   {side} {wall:5.3f}× ({processor:5.3f}×)", end="")
            print()


def rotated(sides: list[str], by: int) -> list[str]:
    """Whoever is first finds caches colder."""
    at = by % len(sides)
    return sides[at:] + sides[:at]


def took(output: str) -> Took:
    wall, user, system = map(float, output.split())
    return Took(wall, user + system)


# The machine that is worked in


def machine(root: Path, rounds: int) -> Path:
    """A root filesystem around the host's /usr, with what is to be done in /work."""
    for name in ("usr", "etc", "proc", "sys", "dev", "tmp", "opt", "work/sources", "var/log", "var/lib/dpkg/info",
                 "var/lib/dpkg/updates", "var/lib/dpkg/triggers"):  # fmt: skip
        (root / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    shutil.copy2("/etc/ld.so.cache", root / "etc/ld.so.cache")
    shutil.copytree("/etc/alternatives", root / "etc/alternatives", symlinks=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    (root / "var/lib/dpkg/status").touch()
    for number in range(rounds):
        packages(root / "work/packages" / str(number), number)
    archive(root / "work/files.tar")
    for number in range(SOURCES):
        (root / f"work/sources/{number}.c").write_text(source(number))
    return root


def packages(directory: Path, of: int) -> None:
    directory.mkdir(parents=True)
    for number in range(PACKAGES):
        name = f"bench-{of}-{number}"
        tree = directory / name
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN/control").write_text(
            f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: bench <bench@localhost>\nDescription: bench\n"
        )
        for file in range(10):
            at = tree / f"opt/{name}/{file % 3}/file-{file}"
            at.parent.mkdir(parents=True, exist_ok=True)
            at.write_text(f"{name} {file}\n" * 50)
        build = ["dpkg-deb", "--build", "--root-owner-group", "-Znone", tree, f"{tree}.deb"]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
        shutil.rmtree(tree)


def archive(path: Path) -> None:
    """Owners of all kinds, so that each file is given to somebody."""
    data = b"what is in a small file\n" * 40
    with tarfile.open(path, "w") as tar:
        for number in range(FILES):
            entry = tarfile.TarInfo(f"{number // 100}/{number % 100}")
            entry.size, entry.mode, entry.mtime = len(data), 0o644, 1_700_000_000
            entry.uid, entry.gid = number % 1000, number % 100
            tar.addfile(entry, io.BytesIO(data))


def source(number: int) -> str:
    body = 'char b[64]; snprintf(b, sizeof b, "%d %s", a, s); return (int)strlen(b)'
    functions = "\n".join(f"int f{number}_{i}(int a, const char *s) {{ {body} + {i}; }}" for i in range(40))
    return f"#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <sys/stat.h>\n{functions}\n"


def copied(template: Path, to: Path) -> Path:
    subprocess.run(["cp", "-a", template, to], check=True)
    return to


def overlay(lower: Path, at: Path, mounts: ExitStack) -> Path:
    """A root filesystem with `lower` below, whose owner it has; unmounted with `mounts`."""
    upper, work, root = (at / name for name in ("upper", "work", "root"))
    owner = lower.stat()
    for directory in (upper, work, root):
        directory.mkdir(parents=True)
        os.chown(directory, owner.st_uid, owner.st_gid)
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, root], check=True)
    mounts.callback(subprocess.run, ["umount", "--lazy", root], check=True)
    return root


def given_away(root: Path) -> None:
    """To the user namespace of the side without us, whose files are not id-mapped."""
    for path in (root, *root.rglob("*")):
        status = path.lstat()
        os.lchown(path, FIRST_ID + status.st_uid, FIRST_ID + status.st_gid)


if __name__ == "__main__":
    main()
