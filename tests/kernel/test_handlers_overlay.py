"""Overlays as storage drivers and image builders make them, by both APIs: options, and on what their layers lie."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import whole

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

STATIC = ("-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-pie", "-no-pie")
APIS = ("mount(2)", "the new API")


@pytest.fixture(params=["runc", "crun"], scope="module")
def box(request: pytest.FixtureRequest) -> Iterator[whole.Box]:
    with whole.host(request.param) as host:
        volume = host.directory / "volume"
        for name in ("lower/d", "upper", "work"):
            (volume / name).mkdir(parents=True)
        (volume / "lower/f").write_text("below\n", encoding="utf-8")
        (volume / "lower/gone").write_text("gone\n", encoding="utf-8")
        (volume / "lower/d/inner").touch()
        readonly = host.directory / "readonly"
        shutil.copytree(volume / "lower", readonly)
        mounts = [
            {"destination": "/volume", "type": "bind", "source": str(volume), "options": ["bind"]},
            {"destination": "/readonly", "type": "bind", "source": str(readonly), "options": ["bind", "ro"]},
        ]
        yield host.box(mounts=mounts)


def mounting(box: whole.Box, api: str, options: str) -> str:
    """A shell command that mounts an overlay at /mnt."""
    if api == "mount(2)":
        return f"mount -t overlay o -o {options} /mnt"
    steps = " ".join(f"set {option}" for option in options.split(","))
    return f"{box.probe('newmount', *STATIC)} open overlay {steps} create mount 0 move /mnt close >/data/said"


USE = (
    'test "$(cat /mnt/f)" = below; echo new >/mnt/new; chown 1000:1000 /mnt/f; mv /mnt/d /mnt/moved; test -e /mnt/moved/inner;'
    " mkdir /mnt/d; rm /mnt/gone; test ! -e /mnt/d/inner; ls -A /mnt; stat -c %u /mnt/f; umount /mnt"
)
SEEN = ["d", "f", "moved", "new", "1000"]


def used(box: whole.Box, api: str, options: str, *, before: str = "true") -> list[str]:
    done = box.exec("unshare", "-m", "sh", "-euc", f"{before}; {mounting(box, api, options)}; {USE}")
    assert done.returncode == 0, (
        done.stderr + box.exec("cat", "/data/said").stdout + "\n".join(box.lines("--last", "12"))
    )
    return done.stdout.split()


LAYERS = "lowerdir=/data/l,upperdir=/data/u,workdir=/data/w"
FRESH = "rm -rf /data/l /data/u /data/w; mkdir /data/l /data/u /data/w; cp -a /volume/lower/. /data/l"
OPTIONS = [
    "redirect_dir=on", "redirect_dir=on,metacopy=on", "redirect_dir=on,index=on", "redirect_dir=on,index=on,nfs_export=on",
    "redirect_dir=on,volatile", "redirect_dir=on,xino=on", "redirect_dir=on,xino=off", "redirect_dir=on,default_permissions",
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("api", APIS)
def test_options(box: whole.Box, api: str, options: str) -> None:
    assert used(box, api, f"{LAYERS},{options}", before=FRESH) == SEEN


@pytest.mark.parametrize("api", APIS)
def test_what_old_engines_ask_for(box: whole.Box, api: str) -> None:
    """Without userxattr: opaque directories and whiteouts are trusted attributes, which the next mount understands."""
    before = f"{FRESH}; {mounting(box, api, LAYERS)}; rm -r /mnt/d; mkdir /mnt/d; touch /mnt/d/own; rm /mnt/gone"
    again = mounting(box, api, "lowerdir=/data/u:/data/l")
    done = box.exec("unshare", "-m", "sh", "-euc", f"{before}; umount /mnt; {again}; ls -A /mnt /mnt/d; umount /mnt")
    assert done.stdout.split() == ["/mnt:", "d", "f", "/mnt/d:", "own"], done.stderr
    upper = Path(f"/proc/{box.init}/root/data/u/d")
    assert os.getxattr(upper, "trusted.overlay.opaque") == b"y"


@pytest.mark.parametrize("api", APIS)
def test_all_layers_on_an_id_mapped_volume(box: whole.Box, api: str) -> None:
    before = "rm -rf /volume/upper /volume/work; mkdir /volume/upper /volume/work"
    layers = "lowerdir=/volume/lower,upperdir=/volume/upper,workdir=/volume/work,redirect_dir=on,metacopy=on"
    assert used(box, api, layers, before=before) == SEEN
    on_disk = box.host.directory / "volume/upper"
    assert (on_disk / "f").stat().st_uid == 1000
    assert (on_disk / "new").stat().st_uid == 0


@pytest.mark.parametrize("api", APIS)
def test_a_lower_layer_on_a_read_only_volume(box: whole.Box, api: str) -> None:
    before = "rm -rf /data/u /data/w; mkdir /data/u /data/w"
    layers = "lowerdir=/readonly,upperdir=/data/u,workdir=/data/w,redirect_dir=on,metacopy=on"
    assert used(box, api, layers, before=before) == SEEN
    done = box.exec("sh", "-c", "touch /readonly/x")
    assert done.returncode != 0


@pytest.mark.parametrize("api", APIS)
def test_layers_on_different_filesystems(box: whole.Box, api: str) -> None:
    before = (
        "rm -rf /volume/upper /volume/work; mkdir /volume/upper /volume/work; mkdir -p /data/t; mount -t tmpfs t /data/t;"
        " mkdir /data/t/extra; touch /data/t/extra/more"
    )
    layers = "lowerdir=/data/t/extra:/readonly,upperdir=/volume/upper,workdir=/volume/work,redirect_dir=on"
    assert used(box, api, layers, before=before) == ["d", "f", "more", "moved", "new", "1000"]


@pytest.mark.parametrize("api", APIS)
def test_an_upper_layer_on_a_read_only_volume_is_refused(box: whole.Box, api: str) -> None:
    layers = "lowerdir=/volume/lower,upperdir=/readonly/d,workdir=/readonly/d"
    done = box.exec("unshare", "-m", "sh", "-euc", f"{mounting(box, api, layers)}; mountpoint /mnt")
    assert done.returncode != 0
