#!/usr/bin/python3
"""Builds the root filesystems that the demonstration and the end-to-end tests run, without a container registry.

Every image is one row of IMAGES. It comes out of mmdebstrap and the archive that this machine's own apt is configured
with, so a machine that can install packages can build images. A finished image is a tar in the cache, named after a
hash of its recipe: changing a row builds anew, and a tar that exists is never wrong, because it is put there by
rename(2) once it is complete.

Weighed against debootstrap (twice as slow, no tar output, no hooks) and against committing blobs (unreviewable).
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FORMAT = 1
"""Part of every recipe's hash: raise it when a change of this program changes what it builds."""

INNER_IMAGE = "/usr/share/interceptor/busybox.tar"
"""Where an image that carries an engine keeps a root filesystem for its own `docker import`; it has no registry."""

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

NOT_NEEDED_TO_RUN = (
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/lintian/*",
)


@dataclass(frozen=True, slots=True)
class Image:
    """One row: a Debian suite and what is installed from it, or, without a suite, busybox alone."""

    about: str
    suite: str | None = None
    variant: str = "essential"
    packages: tuple[str, ...] = ()
    inner_image: bool = False
    """Place busybox's root filesystem at INNER_IMAGE."""


_ENGINE = (
    "busybox-static", "containerd", "dbus", "docker.io", "docker-cli", "iproute2", "iptables", "kmod", "mount", "procps",
    "runc", "systemd", "systemd-sysv", "util-linux",
)  # fmt: skip

IMAGES = {
    "busybox": Image(about="busybox alone"),
    "systemd": Image(
        about="the smallest Debian 12 whose systemd reaches `running`",
        suite="bookworm",
        packages=("busybox-static", "dbus", "iproute2", "mount", "procps", "systemd", "systemd-sysv", "util-linux"),
    ),
    "docker": Image(
        about="Debian 13 with systemd and Docker, and an image for the inner Docker",
        suite="trixie",
        variant="apt",
        packages=_ENGINE,
        inner_image=True,
    ),
    "podman": Image(
        about="Debian 13 with Podman, crun, mkosi, and programs that mount filesystems by FUSE",
        suite="trixie",
        packages=(
            "busybox-static", "crun", "e2fsprogs", "fuse2fs", "iproute2", "mkosi", "mount", "netavark", "nftables", "podman",
            "squashfs-tools", "squashfuse", "uidmap", "util-linux",
        ),
        inner_image=True,
    ),
    "machine": Image(
        about="Debian 12 with a kernel, and what the tests need: `make machine` boots it",
        suite="bookworm",
        packages=(
            "busybox-static", "crun", "gcc", "iproute2", "kmod", "libc6-dev", "libseccomp2", "linux-image-cloud-amd64",
            "nfs-kernel-server", "procps", "python3", "runc", "samba", "util-linux",
        ),
    ),
    "docker-sid": Image(
        about="the same from unstable, for whatever Docker, runc and systemd ship next",
        suite="sid",
        variant="apt",
        packages=_ENGINE,
        inner_image=True,
    ),
}


DEBOOTSTRAP = "debootstrap"
"""A variant that is no root filesystem: the packages of debootstrap's `minbase`, to be unpacked by `--unpack-tarball`."""

IMAGES["bookworm-packages"] = Image(
    about="the packages of a minimal Debian 12, for debootstrap without a network", suite="bookworm", variant=DEBOOTSTRAP
)


class BuildError(Exception):
    """What is wrong, and what to do about it."""


# ---------------------------------------------------------------------------------------------------------------------
# The archive: whatever this machine's apt uses for its own release.


@dataclass(frozen=True, slots=True)
class Source:
    """One apt source of type `deb`: sources.list(5)."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str | None
    origin: str
    """The file that it stands in."""


def one_line_sources(text: str, origin: str) -> Iterator[Source]:
    """The traditional format: `deb [option=value …] URI SUITE COMPONENT…`."""
    entry = re.compile(r"^\s*deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s*(?P<components>[^#]*)")
    for match in filter(None, map(entry.match, text.splitlines())):
        options = dict(option.split("=", 1) for option in (match["options"] or "").split() if "=" in option)
        yield Source(match["uri"], match["suite"], tuple(match["components"].split()), options.get("signed-by"), origin)


def deb822_sources(text: str, origin: str) -> Iterator[Source]:
    """The deb822 format: one stanza can stand for several URIs and suites."""
    uncommented = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", uncommented):
        fields = {
            match["name"].lower(): match["value"].strip()
            for match in re.finditer(r"^(?P<name>[A-Za-z-]+):(?P<value>.*(?:\n[ \t].*)*)", stanza, re.MULTILINE)
        }
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in {"no", "false", "0"}:
            continue
        key = fields.get("signed-by", "")
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                components = tuple(fields.get("components", "").split())
                yield Source(uri, suite, components, key if key.startswith("/") else None, origin)


def configured_sources(etc_apt: Path) -> Iterator[Source]:
    """Every source that apt would read below `etc_apt`, in apt's order."""
    parts = sorted((etc_apt / "sources.list.d").glob("*"))
    for path in [etc_apt / "sources.list", *parts]:
        if path.suffix == ".list" and path.is_file():
            yield from one_line_sources(path.read_text(encoding="utf-8"), str(path))
        elif path.suffix == ".sources" and path.is_file():
            yield from deb822_sources(path.read_text(encoding="utf-8"), str(path))


def own_release(os_release: str) -> str:
    """The codename of the Debian release that runs here: os-release(5)."""
    fields = dict(line.split("=", 1) for line in os_release.splitlines() if "=" in line)
    name, codename = (fields.get(key, "").strip("\"'") for key in ("ID", "VERSION_CODENAME"))
    if name != "debian" or not codename:
        message = (
            f"/etc/os-release: ID is {name!r} and VERSION_CODENAME {codename!r}; images are built on a Debian release"
        )
        raise BuildError(message)
    return codename


def source_for(suite: str, etc_apt: Path = Path("/etc/apt")) -> str:
    """The one-line source of `suite` in the archive that this machine's apt is configured with."""
    codename = own_release(Path("/etc/os-release").read_text(encoding="utf-8"))
    for source in configured_sources(etc_apt):
        if source.suite in {codename, "stable"} and "main" in source.components and not source.uri.startswith("cdrom:"):
            key = str(KEYRING) if KEYRING.exists() else source.signed_by
            return f"deb [signed-by={key}] {source.uri} {suite} main" if key else f"deb {source.uri} {suite} main"
    message = (
        f"{etc_apt}/sources.list and sources.list.d name no archive with {codename} main: apt itself could not install"
    )
    raise BuildError(message)


def inherited_apt_options() -> Iterator[str]:
    """How this machine's apt reaches archives (proxies) and what it accepts (a clock that runs ahead): apt.conf(5)."""
    inherit = re.compile(r'^Acquire::(?:Check-Valid-Until|Check-Date|Retries|https?::[\w:.-]+|https?::Proxy) ".+";$')
    dump = subprocess.run(["apt-config", "dump"], check=True, capture_output=True, text=True).stdout
    yield from filter(inherit.match, dump.splitlines())


# ---------------------------------------------------------------------------------------------------------------------
# busybox: a root filesystem of one file and its links.


def static_busybox() -> Path:
    """The busybox of this machine, which must need no library: it will be alone."""
    found = shutil.which("busybox", path=os.environ.get("PATH", os.defpath) + ":/bin:/usr/bin")
    if found is None:
        message = "no busybox found in PATH; install it: apt-get install busybox-static"
        raise BuildError(message)
    if b"/ld-linux" in Path(found).read_bytes():
        message = f"{found} is dynamically linked; a static one is needed: apt-get install busybox-static"
        raise BuildError(message)
    return Path(found)


def busybox_files(busybox: Path) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Every member of the root filesystem, parents first; root's and of 1970, so that equal input gives equal tars."""
    for directory in ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr", "var"):
        member = tarfile.TarInfo(directory)
        member.type, member.mode = tarfile.DIRTYPE, 0o1777 if directory == "tmp" else 0o755
        yield member, b""
    member = tarfile.TarInfo("bin/busybox")
    member.mode = 0o755
    yield member, busybox.read_bytes()
    applets = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split()
    for applet in sorted({*applets} - {"busybox"}):
        member = tarfile.TarInfo(f"bin/{applet}")
        member.type, member.mode, member.linkname = tarfile.SYMTYPE, 0o777, "busybox"
        yield member, b""
    texts = {"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
             "etc/group": "root:x:0:\nnogroup:x:65534:\n"}  # fmt: skip
    for name, text in texts.items():
        member = tarfile.TarInfo(name)
        member.mode = 0o644
        yield member, text.encode()


def build_busybox(target: Path) -> None:
    """Write the root filesystem `busybox` as a tar."""
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as tar:
        for member, content in busybox_files(static_busybox()):
            member.size, member.uname, member.gname = len(content), "root", "root"
            tar.addfile(member, io.BytesIO(content))


# ---------------------------------------------------------------------------------------------------------------------
# Debian


def customize_hooks(image: Image, scratch: Path) -> Iterator[str]:
    """What is done in the finished tree ($1), as mmdebstrap's customize hooks."""
    # The host's proxy is not the image's, and mmdebstrap would leave it in there.
    yield 'rm -f "$1/etc/apt/apt.conf.d/99mmdebstrap"'
    # Empty, each boot makes its own identity; `uninitialized` would be a first boot, which applies all presets.
    yield ': > "$1/etc/machine-id"'
    if image.inner_image:
        inner = scratch / "busybox.tar"
        build_busybox(inner)
        yield f'install -D -m 0644 "{inner}" "$1{INNER_IMAGE}"'


def mmdebstrap_command(image: Image, suite: str, target: Path, scratch: Path) -> list[str]:
    """The whole command; nothing of it outlives this process, nor is any of its mounts seen outside.

    The death of this process kills unshare(1), whose death kills the pid namespace with all that runs in it.
    """
    options = [f"--dpkgopt=path-exclude={pattern}" for pattern in NOT_NEEDED_TO_RUN]
    options += [f"--aptopt={option}" for option in inherited_apt_options()]
    options += [f"--customize-hook={hook}" for hook in customize_hooks(image, scratch)]
    return [
        "setpriv", "--pdeathsig=KILL",
        "unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc",
        "mmdebstrap", "--mode=root", f"--variant={image.variant}", "--format=tar", "--skip=output/dev",
        "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", f"--include={','.join(image.packages)}", *options,
        suite, str(target), source_for(suite),
    ]  # fmt: skip


def build_debian(name: str, image: Image, suite: str, target: Path, scratch: Path) -> None:
    """Let mmdebstrap write `image` as a tar."""
    if shutil.which("mmdebstrap") is None:
        message = f"image {name!r} is made by mmdebstrap, which is not installed: apt-get install mmdebstrap"
        raise BuildError(message)
    if os.geteuid() != 0:
        message = f"image {name!r} holds files of several users: building it needs root"
        raise BuildError(message)
    environment = {**os.environ, "TMPDIR": str(scratch), "SOURCE_DATE_EPOCH": "0", "LC_ALL": "C.UTF-8"}
    result = subprocess.run(
        mmdebstrap_command(image, suite, target, scratch),
        check=False,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if result.returncode != 0:
        raise BuildError(explain_mmdebstrap(name, suite, result.returncode, result.stdout))


def build_packages(suite: str, target: Path, scratch: Path) -> None:
    """Let debootstrap fetch the packages of `suite`; its tar is compressed, which tar(1) finds out by itself."""
    if shutil.which("debootstrap") is None:
        message = "the packages are fetched by debootstrap, which is not installed: apt-get install debootstrap"
        raise BuildError(message)
    mirror = source_for(suite).rpartition(f" {suite} ")[0].split()[-1]
    command = ["debootstrap", "--variant=minbase", f"--make-tarball={target}", suite, str(scratch / "root"), mirror]
    if KEYRING.exists():
        command.insert(1, f"--keyring={KEYRING}")
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    if result.returncode != 0:
        message = f"debootstrap of {suite} from {mirror} ended with status {result.returncode}: {result.stdout[-500:]}"
        raise BuildError(message)


def append_directory(tar: Path, name: str) -> None:
    """Add an empty directory: with its device nodes, mmdebstrap leaves /dev itself out."""
    with tarfile.open(tar, "a") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.mode, member.uname, member.gname = tarfile.DIRTYPE, 0o755, "root", "root"
        archive.addfile(member)


def explain_mmdebstrap(name: str, suite: str, status: int, output: str) -> str:
    """The end of what mmdebstrap said, and advice for what it says when a key is too old."""
    tail = "\n".join(f"  {line}" for line in output.splitlines()[-15:])
    advice = ""
    if "NO_PUBKEY" in output:
        advice = f"\n{KEYRING} lacks the key that signs {suite}: apt-get install --only-upgrade debian-archive-keyring"
    return f"image {name!r}: mmdebstrap ended with status {status}:\n{tail}{advice}"


# ---------------------------------------------------------------------------------------------------------------------
# The cache


def default_cache() -> Path:
    """XDG Base Directory Specification: $XDG_CACHE_HOME, if set and absolute, else ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return Path(home if home.startswith("/") else Path.home() / ".cache") / "interceptor" / "images"


def cached_name(name: str, image: Image) -> str:
    """NAME-HASH.tar; the hash covers the row, this machine's architecture and FORMAT."""
    recipe = repr((FORMAT, os.uname().machine, sorted(asdict(image).items())))
    return f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}.tar"


@contextlib.contextmanager
def only_builder(cache: Path, name: str) -> Iterator[None]:
    """Hold the lock of image `name`; whoever comes second waits, and then finds the tar."""
    with (cache / f".{name}.lock").open("w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def discard_scratch(cache: Path, name: str) -> None:
    """Remove what a killed builder of `name` left; the caller holds the lock, so no builder is alive."""
    for scratch in cache.glob(f".{name}.build-*"):
        shutil.rmtree(scratch)


def ensure(name: str, cache: Path) -> Path:
    """The path of image `name` in `cache`, built if it is not there."""
    image = IMAGES[name]
    finished = cache / cached_name(name, image)
    cache.mkdir(parents=True, exist_ok=True)
    with only_builder(cache, name):
        discard_scratch(cache, name)
        if not finished.exists():
            build(name, image, finished)
    return finished


def build(name: str, image: Image, finished: Path) -> None:
    """Build into a scratch directory of the cache, then rename."""
    print(f"building image {name} ({image.about})", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix=f".{name}.build-", dir=finished.parent) as scratch:
        partial = Path(scratch) / "image.tar"
        if image.suite is None:
            build_busybox(partial)
        elif image.variant == DEBOOTSTRAP:
            build_packages(image.suite, partial, Path(scratch))
        else:
            build_debian(name, image, image.suite, partial, Path(scratch))
            append_directory(partial, "./dev")
        partial.rename(finished)


def unpack(tar: Path, directory: Path) -> None:
    """Extract with owners and extended attributes; device nodes are left out, as every runtime makes its own /dev."""
    if os.geteuid() != 0:
        message = f"--unpack {directory}: keeping the owners of the files needs root"
        raise BuildError(message)
    if directory.exists() and any(directory.iterdir()):
        message = f"--unpack {directory}: the directory is not empty"
        raise BuildError(message)
    directory.mkdir(parents=True, exist_ok=True)
    command: list[str | Path] = [
        "tar", "--extract", "--file", tar, "--directory", directory, "--numeric-owner", "--preserve-permissions",
        "--xattrs", "--xattrs-include=*", "--exclude=dev/*", "--exclude=./dev/*",
    ]  # fmt: skip
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    if result.returncode != 0:
        message = f"--unpack {directory}: tar ended with status {result.returncode}: {result.stderr.strip()}"
        raise BuildError(message)


def parse(arguments: Iterable[str]) -> argparse.Namespace:
    """The command line."""
    table = "\n".join(f"  {name:<12}{image.about}" for name, image in IMAGES.items())
    parser = argparse.ArgumentParser(
        description="Build root filesystems and print the path of each.",
        epilog=f"images:\n{table}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", metavar="NAME", nargs="+", choices=IMAGES, help="an image, see below")
    parser.add_argument("--cache", metavar="DIR", type=Path, default=default_cache(), help="default: %(default)s")
    parser.add_argument(
        "--unpack", metavar="DIR", type=Path, help="unpack the one image named there, and print DIR instead"
    )
    parsed = parser.parse_args([*arguments])
    if parsed.unpack and len(parsed.names) != 1:
        parser.error(f"--unpack takes one image, not {len(parsed.names)}: {' '.join(parsed.names)}")
    return parsed


def main() -> int:
    """0, or 1 with the reason on stderr."""
    options = parse(sys.argv[1:])
    try:
        for name in options.names:
            tar = ensure(name, options.cache)
            if options.unpack:
                unpack(tar, options.unpack)
            print(options.unpack or tar)
    except (BuildError, OSError, subprocess.CalledProcessError) as error:
        print(f"images/build.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
