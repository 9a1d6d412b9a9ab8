"""Overlays that the agent mounts with the host's privilege for a container's root."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import target as support
from support.target import FIRST

from interceptor.wire import Anchor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.target import Target

    from interceptor.agent_pool import PinnedAgent

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(support.why_not() is not None, reason=str(support.why_not())),
]

LAYERS = b"lowerdir=/data/lower,upperdir=/data/upper,workdir=/data/work"


@pytest.fixture
def target() -> Iterator[Target]:
    with support.target() as made:

        def layers() -> None:
            for name in ("lower/dir", "lower2", "upper", "work"):
                Path(f"/data/{name}").mkdir(parents=True)
            for name in ("lower/file", "lower/dir/inner", "lower2/second"):
                Path(f"/data/{name}").write_text(name, encoding="ascii")

        made.inside(layers)
        yield made


@pytest.fixture
def agent(target: Target) -> Iterator[PinnedAgent]:
    with support.agent(target) as made:
        yield made


def names(directory: str) -> list[str]:
    return sorted(path.name for path in Path(directory).iterdir())


def overlay(agent: PinnedAgent, options: bytes, at: bytes = b"/mnt") -> None:
    agent.overlay(Anchor(at), source=b"overlay", flags=0, options=options)


def test_what_only_trusted_attributes_can_keep_is_kept(target: Target, agent: PinnedAgent) -> None:
    overlay(agent, LAYERS + b",redirect_dir=on,metacopy=on")

    def use() -> list[str]:
        os.chown("/mnt/file", 1000, 1000)  # metacopy: the data stays below
        Path("/mnt/dir").rename("/mnt/moved")  # redirect_dir
        Path("/mnt/dir").mkdir()  # opaque
        Path("/mnt/dir/new").mkdir()
        return names("/mnt/moved") + names("/mnt/dir")

    assert target.inside(use) == ["inner", "new"]
    upper = target.path("/data/upper")
    assert "trusted.overlay.metacopy" in os.listxattr(upper / "file")
    assert os.getxattr(upper / "moved", "trusted.overlay.redirect") == b"dir"
    assert os.getxattr(upper / "dir", "trusted.overlay.opaque") == b"y"
    assert (upper / "file").stat().st_uid == FIRST + 1000


def test_whiteouts(target: Target, agent: PinnedAgent) -> None:
    overlay(agent, LAYERS)
    target.inside(lambda: Path("/mnt/file").unlink())
    made = target.path("/data/upper/file").lstat()
    assert (made.st_mode & 0o170000, made.st_rdev) == (0o020000, 0)
    assert target.inside(lambda: names("/mnt")) == ["dir"]


def shown(target: Target, point: str) -> tuple[set[str], set[str]]:
    """Mount flags and options of the overlay at `point`."""
    fields = target.mount_at(point)
    assert fields is not None
    return set(fields[5].split(",")), set(fields[-1].split(","))


def test_layers_are_read_as_the_kernel_reads_them(target: Target, agent: PinnedAgent) -> None:
    def strange_names() -> None:
        for name in ("a:b", "c,d", "e\\f"):
            Path("/data", name).mkdir()
            Path("/data", name, f"in {name}").touch()

    target.inside(strange_names)
    for options in (
        "lowerdir=/data/a\\:b:/data/lower",
        "lowerdir=/data/c\\,d:/data/lower2",
        "lowerdir=/data/e\\\\f:/data/lower2:/data/lower",
        "lowerdir=/data/lower2:/data/lower:/data/a\\:b,volatile,upperdir=/data/upper,workdir=/data/work",
        "lowerdir=/data/nowhere,lowerdir=/data/lower:/data/lower2",
        ",,lowerdir=/data/lower:/data/lower2,,",
    ):
        native = support.error_of(
            lambda text=options: target.inside(lambda: support.mount("overlay", "/mnt", "overlay", 0, text))
        )
        expected = None if native else target.inside(lambda: names("/mnt"))
        if not native:
            target.inside(lambda: support.umount("/mnt"))
            target.inside(clean_work)
        assert support.error_of(lambda text=options: overlay(agent, text.encode())) == native, options
        if not native:
            assert target.inside(lambda: names("/mnt")) == expected
            target.inside(lambda: support.umount("/mnt"))


def clean_work() -> None:
    """A volatile overlay marks its work directory, so that it is not used again."""
    for name in ("upper", "work"):
        shutil.rmtree(f"/data/{name}")
        Path(f"/data/{name}").mkdir()


@pytest.mark.parametrize(
    "options",
    [
        "lowerdir=/data/nowhere",
        "lowerdir=/data/lower",  # one layer and no upper
        "lowerdir=/data/lower/file:/data/lower2",
        "upperdir=/data/upper,workdir=/data/work",
        "lowerdir=/data/lower,upperdir=/data/upper",
        "lowerdir=/data/lower,upperdir=/data/upper,workdir=/data/upper",
        "lowerdir=/data/lower,upperdir=/data/upper,workdir=/mnt",
        "lowerdir=/data/lower:/data/lower2,nonsense",
        "lowerdir=/data/lower:/data/lower2,index=maybe",
        "lowerdir=:/data/lower",
        "lowerdir=/data/lower:",
        "lowerdir=/data/lower::/data/lower2:/data/upper",
        "upperdir=,workdir=/data/work,lowerdir=/data/lower",
        "",
    ],
)
def test_refusals_are_the_kernels(target: Target, agent: PinnedAgent, options: str) -> None:
    native = support.error_of(lambda: target.inside(lambda: support.mount("o", "/mnt", "overlay", 0, options)))
    assert support.error_of(lambda: overlay(agent, options.encode())) == native
    assert native is not None
    assert target.mount_at("/mnt") is None


def test_data_only_layers(target: Target, agent: PinnedAgent) -> None:
    overlay(agent, b"lowerdir=/data/lower::/data/lower2,metacopy=on,redirect_dir=on")
    assert target.inside(lambda: names("/mnt")) == ["dir", "file"]


def test_relative_layers_start_at_the_working_directory(target: Target, agent: PinnedAgent) -> None:
    os.close(target.cwd_fd)
    target.cwd_fd = os.open(target.path("/data"), os.O_PATH | os.O_CLOEXEC)
    overlay(agent, b"lowerdir=lower:./lower2")
    assert target.inside(lambda: names("/mnt")) == ["dir", "file", "second"]


def test_devices_in_layers_stay_out_of_reach(target: Target, agent: PinnedAgent) -> None:
    overlay(agent, LAYERS)
    assert "nodev" in shown(target, "/mnt")[0]
    remount = support.MS_BIND | 32  # MS_REMOUNT
    assert support.error_of(lambda: target.inside(lambda: support.mount(None, "/mnt", None, remount))) == "EPERM"
    assert "nodev" in shown(target, "/mnt")[0]


def test_a_foreign_layer_is_refused(target: Target, agent: PinnedAgent) -> None:
    """Overlayfs keeps nothing from its mounter, so that a closed directory would open where two layers merge."""
    (target.path("/etc") / "foreign").mkdir()
    for options in (
        b"lowerdir=/etc/foreign:/data/lower",
        b"lowerdir=/data/lower:/etc/foreign",
        b"lowerdir=/data/lower,upperdir=/etc/foreign,workdir=/data/work",
    ):
        assert support.error_of(lambda text=options: overlay(agent, text)) == "EPERM"
    assert target.mount_at("/mnt") is None


def test_a_layer_that_the_tracee_may_not_list_is_refused(target: Target, agent: PinnedAgent) -> None:
    def close_it() -> None:
        os.chown("/data/lower2", 1000, 1000)
        Path("/data/lower2").chmod(0o700)

    target.inside(close_it)
    target.capabilities &= ~0b110
    assert support.error_of(lambda: overlay(agent, b"lowerdir=/data/lower:/data/lower2")) == "EACCES"
    target.capabilities = support.ALL_CAPABILITIES
    overlay(agent, b"lowerdir=/data/lower:/data/lower2")


def foreign(layer: Path) -> None:
    """Fills a layer of the host's with files that nobody inside owns."""
    for name, mode in (("tool", 0o4755), ("open", 0o4777), ("closed", 0o600)):
        (layer / name).write_text("host", encoding="ascii")
        os.chown(layer / name, 70_000, 70_000)  # not 0: an id-mapped mount makes that the container's root
        (layer / name).chmod(mode)


def use_foreign() -> dict[str, str | None]:
    return {
        "chmod": support.error_of(lambda: Path("/mnt/tool").chmod(0o4777)),
        "chown": support.error_of(lambda: os.chown("/mnt/tool", 0, 0)),
        "append": support.error_of(lambda: Path("/mnt/tool").open("a").close()),
        "append to one that all may write": support.error_of(lambda: Path("/mnt/open").open("a").close()),
        "read": support.error_of(lambda: Path("/mnt/closed").read_text(encoding="ascii")),
    }


REFUSED = {"chmod": "EPERM", "chown": "EPERM", "append": "EACCES", "read": "EACCES"}


def test_files_of_nobody_cannot_be_copied_out_of_an_id_mapped_layer(target: Target, agent: PinnedAgent) -> None:
    layer = target.path("/etc/layer")
    layer.mkdir()
    foreign(layer)
    with support.idmapped(target, "/etc/layer"):
        overlay(agent, b"lowerdir=/etc/layer,upperdir=/data/upper,workdir=/data/work")
        outcomes = target.inside(use_foreign)
        target.inside(lambda: support.umount("/mnt"))
    # A file whose owner has no id at all in the mount may not even be opened for writing (HAS_UNMAPPED_ID()).
    assert outcomes == REFUSED | {"chmod": "EOVERFLOW", "append to one that all may write": "EACCES"}
    assert list(target.path("/data/upper").iterdir()) == []


def test_a_foreign_setuid_file_in_a_plain_layer_gains_nothing(target: Target, agent: PinnedAgent) -> None:
    """On a filesystem of the host's without an id map its owner can be copied: an exact copy, which changes no more."""
    layer = target.path("/etc/layer")
    layer.mkdir()
    os.chown(layer, FIRST, FIRST)
    foreign(layer)
    overlay(agent, b"lowerdir=/etc/layer,upperdir=/data/upper,workdir=/data/work")
    assert target.inside(use_foreign) == REFUSED | {"append to one that all may write": None}
    target.inside(lambda: Path("/mnt/open").write_text("ours", encoding="ascii"))
    copied = target.path("/data/upper/open").stat()
    assert (copied.st_uid, copied.st_mode & 0o7000) == (70_000, 0)
    assert (layer / "open").read_text(encoding="ascii") == "host"


def test_what_is_copied_up_keeps_its_owner_and_loses_nothing(target: Target, agent: PinnedAgent) -> None:
    def prepare() -> None:
        Path("/data/lower/of-1000").write_text("x", encoding="ascii")
        os.chown("/data/lower/of-1000", 1000, 1001)
        Path("/data/lower/of-1000").chmod(0o600)
        os.setxattr("/data/lower/of-1000", "user.name", b"value")

    target.inside(prepare)
    overlay(agent, LAYERS)

    def append() -> None:
        with Path("/mnt/of-1000").open("a", encoding="ascii") as file:
            file.write("y")

    target.inside(append)
    copied = target.path("/data/upper/of-1000")
    status = copied.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (FIRST + 1000, FIRST + 1001, 0o600)
    assert copied.read_text(encoding="ascii") == "xy"
    assert os.getxattr(copied, "user.name") == b"value"


def test_the_mounter_is_not_the_hosts_root(target: Target, agent: PinnedAgent) -> None:
    overlay(agent, LAYERS)
    target.inside(lambda: Path("/mnt/new").touch())
    assert target.path("/data/work/work").stat().st_uid == FIRST
    assert target.path("/data/upper/new").stat().st_uid == FIRST


def test_flags_of_mount_hold_for_an_overlay_too(target: Target, agent: PinnedAgent) -> None:
    flags = support.MS_RDONLY | support.MS_NOSUID | support.MS_NOEXEC
    agent.overlay(Anchor(b"/mnt"), source=b"the source", flags=flags, options=LAYERS)
    assert shown(target, "/mnt")[0] == {"ro", "nosuid", "nodev", "noexec", "relatime"}
    assert support.error_of(lambda: target.inside(lambda: Path("/mnt/new").touch())) == "EROFS"
