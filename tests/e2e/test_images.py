"""images/build.py: where packages come from, what ends up in the cache, and what is said when something is missing."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING

import pytest
from support.images import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

PROGRAM = REPOSITORY / "images" / "build.py"


@pytest.fixture(scope="module")
def build() -> ModuleType:
    specification = importlib.util.spec_from_file_location("images_build", PROGRAM)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[module.__name__] = module
    specification.loader.exec_module(module)
    return module


def run(*arguments: str | Path, path: str = os.environ["PATH"]) -> subprocess.CompletedProcess[str]:
    """The program, with images only where the test says."""
    command = [sys.executable, PROGRAM, *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, "PATH": path})


# -- the archive -------------------------------------------------------------------------------------------------------


def test_both_formats_of_apt_sources_are_read(build: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text(
        "# deb http://commented.test/debian bookworm main\n"
        "deb-src http://source.test/debian bookworm main\n"
        "deb [arch=amd64 signed-by=/k.gpg] http://one.test/debian bookworm main contrib # why\n",
        encoding="utf-8",
    )
    (tmp_path / "sources.list.d" / "more.sources").write_text(
        "Types: deb deb-src\nURIs: http://two.test/debian\nSuites: bookworm bookworm-updates\n"
        "Components: main\n# a comment\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n -----END-----\n\n"
        "Enabled: no\nTypes: deb\nURIs: http://disabled.test/debian\nSuites: bookworm\nComponents: main\n",
        encoding="utf-8",
    )
    (tmp_path / "sources.list.d" / "ignored.bak").write_text("deb http://ignored.test/debian bookworm main\n")
    found = [(source.uri, source.suite, source.components, source.signed_by)
             for source in build.configured_sources(tmp_path)]  # fmt: skip
    assert found == [
        ("http://one.test/debian", "bookworm", ("main", "contrib"), "/k.gpg"),
        ("http://two.test/debian", "bookworm", ("main",), None),
        ("http://two.test/debian", "bookworm-updates", ("main",), None),
    ]


def test_another_suite_comes_from_the_archive_of_the_own_release(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "own_release", lambda _: "bookworm")
    monkeypatch.setattr(build, "KEYRING", tmp_path / "none")
    lines = ("deb cdrom:[Debian]/ bookworm main", "deb http://security.test/debian bookworm-security main",
             "deb http://third.test/tools stable tools", "deb http://archive.test/debian bookworm main")  # fmt: skip
    (tmp_path / "sources.list").write_text("\n".join(lines), encoding="utf-8")
    assert build.source_for("sid", tmp_path) == "deb http://archive.test/debian sid main"


def test_a_host_without_an_archive_is_told_so(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "own_release", lambda _: "bookworm")
    with pytest.raises(build.BuildError, match="name no archive with bookworm main"):
        build.source_for("sid", tmp_path)


def test_another_distribution_is_told_so(build: ModuleType) -> None:
    assert build.own_release('ID=debian\nVERSION_CODENAME="bookworm"\n') == "bookworm"
    with pytest.raises(build.BuildError, match=r"ID is 'fedora'.*on a Debian release"):
        build.own_release("ID=fedora\n")


def test_an_old_keyring_is_explained(build: ModuleType) -> None:
    said = build.explain_mmdebstrap("docker", "trixie", 25, "E: the signature: NO_PUBKEY 0123456789ABCDEF")
    assert "status 25" in said
    assert "apt-get install --only-upgrade debian-archive-keyring" in said


# -- the cache ---------------------------------------------------------------------------------------------------------


def test_a_changed_recipe_has_another_name(build: ModuleType) -> None:
    names = {build.cached_name("x", build.Image(about="x", packages=packages)) for packages in ((), ("a",), ("a", "b"))}
    assert len(names) == 3
    assert all(name.startswith("x-") and name.endswith(".tar") for name in names)


def test_busybox_is_complete_and_owned_by_root(tmp_path: Path) -> None:
    result = run("busybox", "--cache", tmp_path)
    if "install busybox-static" in result.stderr:
        pytest.skip(result.stderr.strip())
    (tar,) = tmp_path.glob("busybox-*.tar")
    assert result.stdout == f"{tar}\n"
    with tarfile.open(tar) as archive:
        members = {member.name: member for member in archive}
    assert members["bin/sh"].linkname == "busybox"
    assert {"proc", "sys", "dev", "tmp", "etc/passwd"} <= members.keys()
    assert {(member.uid, member.gid, member.mtime) for member in members.values()} == {(0, 0, 0)}
    assert not [path for path in tmp_path.iterdir() if "build-" in path.name], "scratch is removed"


def test_a_finished_image_is_not_built_again(tmp_path: Path) -> None:
    if run("busybox", "--cache", tmp_path).returncode != 0:
        pytest.skip("no static busybox on this host")
    (tar,) = tmp_path.glob("busybox-*.tar")
    tar.write_bytes(b"as it was")
    again = run("busybox", "--cache", tmp_path)
    assert (again.returncode, again.stderr) == (0, "")
    assert tar.read_bytes() == b"as it was"


def test_builders_that_come_at_once_build_once(tmp_path: Path) -> None:
    command = [sys.executable, str(PROGRAM), "busybox", "--cache", str(tmp_path)]
    builders = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    outputs = [builder.communicate(timeout=60) for builder in builders]
    if any("busybox-static" in said for _, said in outputs):
        pytest.skip("no static busybox on this host")
    assert len({path for path, _ in outputs}) == 1
    assert [said for _, said in outputs].count("") == 3


def test_what_a_killed_builder_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".busybox.build-dead").mkdir()
    (tmp_path / ".busybox.build-dead" / "image.tar").write_bytes(b"half")
    run("busybox", "--cache", tmp_path)
    assert not (tmp_path / ".busybox.build-dead").exists()


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_a_missing_program_is_named_with_its_package(tmp_path: Path) -> None:
    result = run("docker", "--cache", tmp_path, path=str(tmp_path))
    assert result.returncode == 1
    assert "mmdebstrap" in result.stderr
    assert "apt-get install mmdebstrap" in result.stderr
    assert not list(tmp_path.glob("*.tar"))


def test_an_unknown_image_is_refused_with_those_there_are(tmp_path: Path) -> None:
    result = run("fedora", "--cache", tmp_path)
    assert result.returncode == 2
    assert "'fedora'" in result.stderr
    assert "docker-sid" in result.stderr


@pytest.mark.root
def test_unpack_wants_an_empty_directory_and_one_image(tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").touch()
    refused = run("busybox", "--cache", tmp_path / "cache", "--unpack", full)
    assert refused.returncode == 1
    assert f"--unpack {full}: the directory is not empty" in refused.stderr
    assert "takes one image, not 2" in run("busybox", "systemd", "--unpack", tmp_path / "new").stderr


@pytest.mark.root
def test_an_unpacked_busybox_runs(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    result = run("busybox", "--cache", tmp_path / "cache", "--unpack", tmp_path / "root")
    assert result.stdout == f"{tmp_path / 'root'}\n", result.stderr
    said = subprocess.run(["chroot", tmp_path / "root", "/bin/sh", "-c", "echo $((6*7)); ls /dev"],
                          check=True, capture_output=True, text=True)  # fmt: skip
    assert said.stdout == "42\n"
