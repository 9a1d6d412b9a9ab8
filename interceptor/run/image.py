"""Images from tar files: a root filesystem, what `docker save` writes, or an OCI image layout.

Each layer is unpacked once, into a directory named after the digest of what it was unpacked from, and from then on only
read, as the lower layer of any number of containers. Unpacking is left to tar(1), which defers symbolic links that lead
out, so that no later member is written through them, and strips ".." and leading slashes.
Source: OCI image-spec, image-layout.md and layer.md (whiteouts); overlayfs.rst, "whiteouts and opaque directories".
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import tarfile
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from interceptor.errors import ConfigError
from interceptor.run.place import state_directory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FORMAT = 1
"""Part of every digest: raise it when a change here changes what is unpacked."""

_ARCHIVE_MEMBER = re.compile(
    r"(\./)?(manifest\.json|repositories|index\.json|oci-layout|blobs(/.*)?|[0-9a-f]{64}(\.json|\.tar|/.*)?)"
)
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
_ARCHIVE = re.compile(r"(.+?)\.(tar(\.\w+)?|t(gz|xz|zst|bz2?))", re.IGNORECASE)
_COMPRESSIONS = {b"\x1f\x8b": "--gzip", b"\x28\xb5\x2f\xfd": "--zstd", b"\xfd7zXZ": "--xz", b"BZh": "--bzip2"}


@dataclass(frozen=True, slots=True)
class Defaults:
    """What an image says about how it is run: OCI image-spec, config.md."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    cwd: str = "/"
    user: str = ""


@dataclass(frozen=True, slots=True)
class Image:
    """Unpacked."""

    layers: tuple[str, ...]
    """Directories, topmost first."""
    defaults: Defaults
    name: str | None = None
    """The first tag, where the archive has one."""


def name_of(path: Path) -> str:
    """What an image without a tag is called: its file's name without .tar and the like."""
    archive = _ARCHIVE.fullmatch(path.name)
    return archive[1] if archive else path.name


def load(path: Path) -> Image:
    """The image in the tar file `path`, unpacked if it is not yet."""
    images = state_directory() / "images"
    for directory in (state_directory(), images, state_directory() / "layers"):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    digest = _file_digest(path, images)
    record = images / f"{digest}.json"
    with _locked(images / f".{digest}.lock"):
        if not record.exists():
            _write(record, _unpack(path, digest))
        found = json.loads(record.read_text(encoding="utf-8"))
    defaults = found["defaults"]
    defaults |= {key: tuple(defaults[key]) for key in ("entrypoint", "command")}
    return Image(tuple(found["layers"]), Defaults(**defaults), found["name"])


def _file_digest(path: Path, images: Path) -> str:
    """sha256 of the file; remembered by what changes when the file does, since it takes a second for a gigabyte."""
    try:
        status = path.stat()
    except OSError as error:
        raise ConfigError(f"--image {path}: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"--image {path}: a tar file is needed; for a directory there is --rootfs")
    identity = (FORMAT, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    known = images / f".known-{hashlib.sha256(repr(identity).encode()).hexdigest()[:32]}"
    with contextlib.suppress(FileNotFoundError):
        return known.read_text(encoding="ascii")
    with path.open("rb") as file:
        digest = f"{hashlib.file_digest(file, 'sha256').hexdigest()[:32]}-{FORMAT}"
    _write_text(known, digest)
    return digest


def _unpack(path: Path, digest: str) -> Image:
    try:
        with tarfile.open(path) as archive:
            first = archive.next()
            if first is None:
                raise ConfigError(f"--image {path}: the tar file is empty")
            if not _ARCHIVE_MEMBER.fullmatch(first.name):
                layer = _layer(digest, lambda target: _extract_file(path, target))
                return Image((str(layer),), Defaults())
            return _unpack_archive(path, archive)
    except (tarfile.TarError, EOFError) as error:
        raise ConfigError(f"--image {path}: {error}; an uncompressed or gzip, bzip2 or xz tar file is needed") from error


# ---- archives ----


def _unpack_archive(path: Path, archive: tarfile.TarFile) -> Image:
    members = {member.name.removeprefix("./"): member for member in archive}

    def blob(name: str) -> IO[bytes]:
        member = members.get(name)
        opened = archive.extractfile(member) if member else None
        if opened is None:
            raise ConfigError(f"--image {path}: the archive names {name}, which is not in it")
        return opened

    def document(name: str) -> Any:
        try:
            return json.loads(blob(name).read())
        except ValueError as error:
            raise ConfigError(f"--image {path}: {name}: {error}") from error

    if "manifest.json" in members:
        configuration, layers, tag = _docker(path, document("manifest.json"))
    elif "index.json" in members:
        configuration, layers, tag = _oci(path, document)
    else:
        raise ConfigError(f"--image {path}: neither manifest.json (docker save) nor index.json (OCI layout) is in it")
    unpacked = [_layer(_blob_digest(blob(name)), lambda target, name=name: _extract(blob(name), target)) for name in layers]
    return Image(tuple(map(str, reversed(unpacked))), _defaults(document(configuration)), tag)


def _docker(path: Path, manifest: list[dict[str, Any]]) -> tuple[str, list[str], str | None]:
    """(configuration, layers from the lowest on, tag) of a `docker save` archive."""
    if len(manifest) != 1:
        tags = ", ".join(str((entry.get("RepoTags") or ["untagged"])[0]) for entry in manifest)
        raise ConfigError(f"--image {path}: one image is needed, the archive has {len(manifest)} ({tags})")
    return manifest[0]["Config"], manifest[0]["Layers"], (manifest[0].get("RepoTags") or [None])[0]


def _oci(path: Path, document: Any) -> tuple[str, list[str], str | None]:
    """The same of an OCI image layout; of several platforms, this machine's."""
    index = document("index.json")
    name = (index["manifests"][0].get("annotations") or {}).get("org.opencontainers.image.ref.name")
    while "manifests" in index:
        candidates = [entry for entry in index["manifests"] if _fits(entry.get("platform"))]
        if len(candidates) != 1:
            what = f"one image for {_architecture()} is needed, the index has {len(candidates)}"
            raise ConfigError(f"--image {path}: {what}")
        index = document(_blob_path(candidates[0]))
    return _blob_path(index["config"]), [_blob_path(layer) for layer in index["layers"]], name


def _blob_path(descriptor: Mapping[str, Any]) -> str:
    return "blobs/" + str(descriptor["digest"]).replace(":", "/", 1)


def _architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


def _fits(platform: Mapping[str, str] | None) -> bool:
    return platform is None or (platform.get("os"), platform.get("architecture")) == ("linux", _architecture())


def _defaults(document: Mapping[str, Any]) -> Defaults:
    told = document.get("config") or {}
    return Defaults(
        entrypoint=tuple(told.get("Entrypoint") or ()),
        command=tuple(told.get("Cmd") or ()),
        environment=dict(entry.split("=", 1) for entry in told.get("Env") or () if "=" in entry),
        cwd=told.get("WorkingDir") or "/",
        user=told.get("User") or "",
    )


# ---- layers ----


def _blob_digest(blob: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while chunk := blob.read(1 << 20):
        digest.update(chunk)
    return f"{digest.hexdigest()[:32]}-{FORMAT}"


def _layer(digest: str, unpack: Any) -> Path:
    """The directory of a layer; `unpack(directory)` fills it if it does not exist yet."""
    layers = state_directory() / "layers"
    finished = layers / digest
    with _locked(layers / f".{digest}.lock"):
        for left in layers.glob(f".{digest}.unpack-*"):
            shutil.rmtree(left)
        if not finished.exists():
            with tempfile.TemporaryDirectory(prefix=f".{digest}.unpack-", dir=layers) as scratch:
                partial = Path(scratch) / "layer"
                partial.mkdir(mode=0o755)
                unpack(partial)
                _convert_whiteouts(partial)
                partial.rename(finished)
    return finished


def _tar(target: Path, *arguments: str) -> list[str]:
    # Device nodes are left out of /dev only: every runtime makes its own.
    return [
        "tar", "--extract", "--directory", str(target), "--numeric-owner", "--same-owner", "--preserve-permissions",
        "--xattrs", "--xattrs-include=*", "--exclude=dev/*", "--exclude=./dev/*", "--anchored", *arguments,
    ]  # fmt: skip


def _extract_file(path: Path, target: Path) -> None:
    _check(subprocess.run([*_tar(target, "--file", str(path))], check=False, capture_output=True, text=True), str(path))


def _extract(blob: IO[bytes], target: Path) -> None:
    head = blob.read(6)
    blob.seek(0)
    compression = [option for magic, option in _COMPRESSIONS.items() if head.startswith(magic)]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(_tar(target, "--file", "-", *compression), stdin=subprocess.PIPE, stderr=said)
        if process.stdin is None:
            raise AssertionError
        with contextlib.suppress(BrokenPipeError), process.stdin:
            shutil.copyfileobj(blob, process.stdin, 1 << 20)
        process.wait()
        said.seek(0)
        done = subprocess.CompletedProcess(process.args, process.returncode, "", said.read().decode(errors="replace"))
    _check(done, "a layer")


def _check(done: subprocess.CompletedProcess[str], what: str) -> None:
    if done.returncode != 0:
        why = done.stderr.strip()[-500:]
        raise ConfigError(f"cannot unpack {what}: tar ended with status {done.returncode}: {why}")


def _convert_whiteouts(layer: Path) -> None:
    """`.wh.NAME` becomes overlayfs's character device 0:0, `.wh..wh..opq` its opaque mark."""
    for directory, _, files, fd in os.fwalk(layer, topdown=False, follow_symlinks=False):
        for name in files:
            if not name.startswith(_WHITEOUT):
                continue
            os.unlink(name, dir_fd=fd)
            if name == _OPAQUE:
                os.setxattr(directory, "trusted.overlay.opaque", b"y")
            elif not name.startswith(_WHITEOUT * 2):  # .wh..wh.plnk and the like are aufs's own
                os.mknod(name.removeprefix(_WHITEOUT), stat.S_IFCHR, os.makedev(0, 0), dir_fd=fd)


# ---- files ----


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        os.lockf(lock.fileno(), os.F_LOCK, 0)
        yield


def _write(record: Path, image: Image) -> None:
    _write_text(record, json.dumps(asdict(image)))


def _write_text(path: Path, text: str) -> None:
    """Whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.rename(path)
