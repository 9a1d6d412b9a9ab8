"""Programs that mount by the new API, in a system container: util-linux told to use nothing else, and systemd's sandboxes.

systemd 257 and util-linux 2.41 on the main variant, systemd 262 and util-linux 2.42 on the newest.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.system_container import SystemContainer
from support.variants import MAIN, VARIANTS, Variant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from support.engine import Engine

pytestmark = [pytest.mark.root, pytest.mark.engine, pytest.mark.slow]

NEWEST = next(variant for variant in VARIANTS if variant.name == "sid")


@pytest.fixture(scope="module", params=[MAIN, NEWEST], ids=str)
def system(
    request: pytest.FixtureRequest, start_engine: Callable[[Variant], AbstractContextManager[Engine]]
) -> Iterator[SystemContainer]:
    with start_engine(request.param) as engine:
        made = SystemContainer(engine, request.param.image, "mounts")
        state, _ = made.wait_booted(within=60)
        assert state == "running", made.failed_units()
        made.sh("mkdir -p /srv/m /srv/upper /srv/lower /srv/work /srv/other; echo below >/srv/lower/f")
        yield made


MOUNTS = {
    "proc": "mount -t proc proc /srv/m; test -e /srv/m/self/status",
    "proc with options": "mount -t proc -o ro,hidepid=invisible,nosuid proc /srv/m; test -e /srv/m/self/status",
    "sysfs": "mount -t sysfs sysfs /srv/m; test -d /srv/m/class/net",
    "tmpfs": "mount -t tmpfs -o size=1m,mode=700 tmpfs /srv/m; touch /srv/m/x",
    "debugfs": "mount -t debugfs debugfs /srv/m",
    "overlay": "mount -t tmpfs t /srv/other; mkdir /srv/other/u /srv/other/w;"
    " mount -t overlay o -o lowerdir=/srv/lower,upperdir=/srv/other/u,workdir=/srv/other/w /srv/m;"
    " grep below /srv/m/f; echo x >/srv/m/new; chown 1000 /srv/m/f; test $(stat -c %u /srv/m/f) = 1000",
    "overlay with metacopy": "mount -t tmpfs t /srv/other; mkdir /srv/other/u /srv/other/w; mount -t overlay o -o"
    " lowerdir=/srv/lower,upperdir=/srv/other/u,workdir=/srv/other/w,metacopy=on,redirect_dir=on /srv/m; grep below /srv/m/f",
    "bind": "mount --bind /srv/lower /srv/m; grep below /srv/m/f",
    "bind, read-only": "mount -o bind,ro /srv/lower /srv/m; ! touch /srv/m/x",
    "recursive bind": "mount -t tmpfs t /srv/lower; mkdir /srv/lower/d; mount -t proc p /srv/lower/d;"
    " mount --rbind /srv/lower /srv/m; test -e /srv/m/d/self",
    "remount": "mount -t proc p /srv/m; mount -o remount,ro,hidepid=invisible /srv/m;"
    " grep '/srv/m ro.*hidepid' /proc/self/mountinfo; mount -o remount,rw,hidepid=off /srv/m;"
    " ! grep '/srv/m .*hidepid' /proc/self/mountinfo",
    "remount of a bind": "mount --bind /srv/lower /srv/m; mount -o remount,bind,ro,nosuid /srv/m; ! touch /srv/m/x",
    "propagation": "mount -t tmpfs t /srv/m; mount --make-shared /srv/m; mount --make-private /srv/m",
    "move": "mount --make-rprivate /; mount -t proc p /srv/m; mount --move /srv/m /srv/other; test -e /srv/other/self",
    "idmap": "mount -t tmpfs t /srv/other; touch /srv/other/f; mount --bind -o X-mount.idmap=0:1000:10 /srv/other /srv/m;"
    " test $(stat -c %u /srv/m/f) = 1000",
}


@pytest.mark.parametrize("what", MOUNTS)
@pytest.mark.parametrize("api", ["the new API", "mount(2)"])
def test_util_linux(system: SystemContainer, what: str, api: str) -> None:
    if what == "idmap" and api == "mount(2)":
        pytest.skip("mount(2) cannot do it")
    force = "never" if api == "the new API" else "always"
    script = f"export LIBMOUNT_FORCE_MOUNT2={force}; {MOUNTS[what]}; ! mountpoint -q /srv/m || umount -R /srv/m"
    done = system.exec("unshare", "-m", "bash", "-euc", script, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


SANDBOXES = {
    "PrivateTmp": "-p PrivateTmp=yes",
    "ProtectSystem": "-p ProtectSystem=strict -p ReadWritePaths=/srv",
    "PrivateDevices": "-p PrivateDevices=yes",
    "ProtectProc": "-p ProtectProc=invisible -p ProcSubset=pid",
    "ProtectKernelTunables": "-p ProtectKernelTunables=yes -p ProtectControlGroups=yes -p ProtectKernelLogs=yes",
    "PrivateNetwork": "-p PrivateNetwork=yes -p PrivateMounts=yes",
    "MountAPIVFS": "-p RootDirectory=/ -p MountAPIVFS=yes",
    "TemporaryFileSystem": "-p TemporaryFileSystem=/opt -p BindReadOnlyPaths=/etc:/opt/etc -p InaccessiblePaths=/srv/lower",
    "credentials": "-p SetCredential=secret:words",
    "DynamicUser": "-p DynamicUser=yes -p StateDirectory=mine",
    "all of them": "-p PrivateTmp=yes -p ProtectSystem=strict -p PrivateDevices=yes -p ProtectHome=yes -p DynamicUser=yes"
    " -p ProtectProc=invisible -p ProtectKernelTunables=yes -p PrivateNetwork=yes",
}


@pytest.mark.parametrize("what", SANDBOXES)
def test_systemds_sandboxes(system: SystemContainer, what: str) -> None:
    script = 'test ! -v CREDENTIALS_DIRECTORY || test "$(cat $CREDENTIALS_DIRECTORY/secret)" = words; echo fine'
    done = system.exec(
        "systemd-run", "--wait", "--pipe", "--quiet", "--expand-environment=no", *SANDBOXES[what].split(),
        "bash", "-euc", script, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "fine", done.stdout + done.stderr


def groups(mountinfo: str) -> set[str]:
    """The peer groups of mounts (proc_pid_mountinfo(5))."""
    return set(re.findall(r" (shared:[0-9]+)", mountinfo))


def test_mounts_are_shared_inside_and_with_nobody_outside(system: SystemContainer) -> None:
    root = next(line for line in system.sh("cat /proc/1/mountinfo").splitlines() if line.split()[4] == "/")
    inside, hosts = groups(system.sh("cat /proc/1/mountinfo")), Path("/proc/self/ns/user").stat().st_ino
    assert groups(root) <= inside
    assert groups(root)
    outside: set[str] = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            if (process / "ns/user").stat().st_ino == hosts:
                outside |= groups((process / "mountinfo").read_text())
    assert not inside & outside


def test_no_unit_failed(system: SystemContainer) -> None:
    assert system.failed_units() == ""
    assert system.sh("systemctl is-system-running") == "running"
