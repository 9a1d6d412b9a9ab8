"""Images from tar files: the three kinds, whiteouts, the cache, and what is refused."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from interceptor.errors import ConfigError
from interceptor.run import image

if TYPE_CHECKING:
    from collections.abc import Mapping

CONFIG = {
    "config": {
        "Entrypoint": ["/bin/tool"],
        "Cmd": ["--help"],
        "Env": ["A=b=c", "broken"],
        "WorkingDir": "/work",
        "User": "www",
    }
}
DEFAULTS = image.Defaults(("/bin/tool",), ("--help",), {"A": "b=c"}, "/work", "www")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if os.geteuid() != 0:
        pytest.skip("unpacking keeps owners, which needs root")
    monkeypatch.setenv("INTERCEPTOR_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


def tar(files: Mapping[str, bytes | tarfile.TarInfo]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                content.name = name
                archive.addfile(content)
                continue
            member = tarfile.TarInfo(name)
            member.size, member.uid = len(content), 1234
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def member(kind: bytes, target: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo()
    entry.type, entry.linkname, entry.mode = kind, target, 0o755
    return entry


LOWER = tar({"etc": member(tarfile.DIRTYPE), "etc/old": b"old", "etc/kept": b"kept"})
UPPER = tar(
    {
        "etc": member(tarfile.DIRTYPE),
        "etc/.wh.old": b"",
        "data": member(tarfile.DIRTYPE),
        "data/.wh..wh..opq": b"",
        "data/new": b"new",
    }
)


def docker_save(layers: list[bytes]) -> bytes:
    names = [f"{hashlib.sha256(layer).hexdigest()}/layer.tar" for layer in layers]
    manifest = [{"Config": "c.json", "RepoTags": ["tool:1"], "Layers": names}]
    files = dict(zip(names, layers, strict=True))
    return tar({**files, "c.json": json.dumps(CONFIG).encode(), "manifest.json": json.dumps(manifest).encode()})


def oci_layout(layers: list[bytes]) -> bytes:
    blobs: dict[str, bytes | tarfile.TarInfo] = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}

    def put(content: bytes) -> dict[str, str]:
        digest = hashlib.sha256(content).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = content
        return {"digest": f"sha256:{digest}"}

    manifest = {"config": put(json.dumps(CONFIG).encode()), "layers": [put(gzip.compress(layer)) for layer in layers]}
    here = {"os": "linux", "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, "")}
    elsewhere = {"os": "linux", "architecture": "s390x"}
    index = {
        "manifests": [{**put(b"{}"), "platform": elsewhere}, {**put(json.dumps(manifest).encode()), "platform": here}]
    }
    top = {
        "manifests": [
            {**put(json.dumps(index).encode()), "annotations": {"org.opencontainers.image.ref.name": "tool:1"}}
        ]
    }
    return tar({**blobs, "index.json": json.dumps(top).encode()})


def load(directory: Path, content: bytes) -> image.Image:
    path = directory / "image.tar"
    path.write_bytes(content)
    return image.load(path)


@pytest.mark.parametrize("build", [docker_save, oci_layout])
def test_archives(tmp_path: Path, build: object) -> None:
    assert callable(build)
    found = load(tmp_path, build([LOWER, UPPER]))
    assert (found.name, found.defaults) == ("tool:1", DEFAULTS)
    top, bottom = map(os.path.realpath, found.layers)
    assert Path(bottom, "etc/old").stat().st_uid == 1234
    whiteout = os.lstat(f"{top}/etc/old")
    assert (whiteout.st_mode & 0o170000, whiteout.st_rdev) == (0o020000, 0)
    assert os.getxattr(f"{top}/data", "trusted.overlay.opaque") == b"y"
    assert sorted(os.listdir(f"{top}/data")) == ["new"]


def test_a_root_filesystem(tmp_path: Path) -> None:
    found = load(tmp_path, LOWER)
    assert (found.name, found.defaults) == (None, image.Defaults())
    assert sorted(os.listdir(f"{found.layers[0]}/etc")) == ["kept", "old"]


@pytest.mark.parametrize("compress", [gzip.compress])
def test_a_compressed_root_filesystem(tmp_path: Path, compress: object) -> None:
    assert callable(compress)
    assert load(tmp_path, compress(LOWER)).layers


def test_equal_layers_are_unpacked_once(tmp_path: Path) -> None:
    first = load(tmp_path, docker_save([LOWER]))
    second = load(tmp_path, docker_save([LOWER, UPPER]))
    assert second.layers[1:] == first.layers


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("debian-12.5.tar", "debian-12.5"),
        ("web.tar.gz", "web"),
        ("web.tar.zst", "web"),
        ("web.TGZ", "web"),
        ("a.tar.b", "a"),
        ("web", "web"),
        ("web.img", "web.img"),
        (".tar", ".tar"),
    ],
)
def test_an_image_without_a_tag_is_called_as_its_file(file: str, name: str) -> None:
    assert image.name_of(Path("/images") / file) == name


def test_an_image_that_is_known_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(tmp_path, docker_save([LOWER]))
    monkeypatch.setattr(image, "_unpack", None)
    monkeypatch.setattr(hashlib, "file_digest", None)
    assert image.load(tmp_path / "image.tar") == first


def test_nothing_is_written_outside(tmp_path: Path, state: Path) -> None:
    (tmp_path / "victim").mkdir()
    hostile = tar(
        {
            "link": member(tarfile.SYMTYPE, str(tmp_path / "victim")),
            "link/through": b"x",
            "../../../escaped": b"x",
            f"{tmp_path}/victim/absolute": b"x",
        }
    )
    with pytest.raises(ConfigError):
        load(tmp_path, hostile)
    assert list((tmp_path / "victim").iterdir()) == []
    assert not list(tmp_path.glob("**/escaped"))
    assert [entry.name for entry in (state / "layers").iterdir() if not entry.name.startswith(".")] == []


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        image.load(tmp_path / "missing.tar")
    with pytest.raises(ConfigError, match="for a directory there is --rootfs"):
        image.load(tmp_path)
    with pytest.raises(ConfigError, match=r"a tar file is needed|could not be opened|file could not"):
        load(tmp_path, b"no tar" * 1000)
    with pytest.raises(ConfigError, match="which is not in it"):
        load(tmp_path, tar({"manifest.json": b'[{"Config": "c.json", "Layers": []}]'}))
    with pytest.raises(ConfigError, match=r"one image is needed, the archive has 2 \(a:1, untagged\)"):
        load(tmp_path, tar({"manifest.json": b'[{"RepoTags": ["a:1"]}, {}]'}))
    with pytest.raises(ConfigError, match="neither manifest"):
        load(tmp_path, tar({"repositories": b"{}"}))
