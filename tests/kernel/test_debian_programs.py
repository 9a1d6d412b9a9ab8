"""Programs of Debian 13 that need no systemd, in a container whose init does nothing: Podman as root and as an ordinary user,
with its own overlay storage, crun and netavark; the sandbox of mkosi; `mount -o loop` by the new mount API and without it.
"""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

import pytest
from support import whole

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

SHM = {"destination": "/dev/shm", "type": "tmpfs", "options": ["nosuid", "nodev", "mode=1777"]}  # noqa: S108
TAR = "/usr/share/interceptor/busybox.tar"
ENVIRONMENT = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "PODMAN_IGNORE_CGROUPSV1_WARNING=1"]
USER = """
echo user:x:1000:1000::/home/user:/bin/sh >>/etc/passwd; echo user:x:1000: >>/etc/group
echo user:2000:60000 >/etc/subuid; echo user:2000:60000 >/etc/subgid
mkdir -p /home/user /run/user/1000; chown 1000:1000 /home/user /run/user/1000
"""


@pytest.fixture(scope="module")
def box() -> Iterator[whole.Box]:
    with whole.host("runc", {"podman": "extends: [loop, docker]\nselectable: true\nmount: {overlay-nodes: true}\n"}) as host:
        made = host.box("podman", mounts=[SHM], image="podman")
        made.sh(USER)
        yield made


def podman(box: whole.Box, *arguments: str, user: bool = False) -> subprocess.CompletedProcess[str]:
    """The command as root, or as an ordinary user with ids of its own."""
    home = ["HOME=/home/user", "USER=user", "XDG_RUNTIME_DIR=/run/user/1000"] if user else ["HOME=/root"]
    become = ["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups"] if user else []
    return box.exec("env", "-C", "/", *ENVIRONMENT, *home, *become, "podman", *arguments, timeout=120)


def said(box: whole.Box, *arguments: str, user: bool = False) -> str:
    done = podman(box, *arguments, user=user)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module", params=[False, True], ids=["rootful", "rootless"])
def user(request: pytest.FixtureRequest, box: whole.Box) -> bool:
    """With an image `busybox`."""
    assert said(box, "import", TAR, "busybox", user=request.param).startswith("sha256:")
    return bool(request.param)


def test_it_runs_a_container(box: whole.Box, user: bool) -> None:
    assert said(box, "run", "--rm", "--network", "none", "busybox", "echo", "hello", user=user) == "hello"


def test_with_overlays_of_the_kernel(box: whole.Box, user: bool) -> None:
    assert said(box, "info", "--format", "{{.Store.GraphDriverName}}", user=user) == "overlay"


def test_with_a_network(box: whole.Box, user: bool) -> None:
    if user:
        pytest.skip("an ordinary user's network is pasta's, which is not in the image")
    assert "inet 10.88." in said(box, "run", "--rm", "busybox", "ip", "address", "show", "eth0")


def test_it_builds_an_image(box: whole.Box, user: bool) -> None:
    """A directory that is made anew is opaque, a file that is removed a whiteout."""
    where = "/home/user" if user else "/root"
    box.sh(f"mkdir -p {where}/build; chown -R {1000 if user else 0} {where}/build")
    box.sh(f"echo 'FROM busybox' >{where}/build/Containerfile")
    box.sh(f"echo 'RUN rm -r /var && mkdir /var && touch /var/new && rm /etc/group' >>{where}/build/Containerfile")
    said(box, "build", "--network", "none", "--tag", "built", f"{where}/build", user=user)
    seen = said(box, "run", "--rm", "--network", "none", "built", "sh", "-c", "ls /var /etc", user=user)
    assert "new" in seen
    assert "group" not in seen


def test_it_saves_and_loads(box: whole.Box, user: bool) -> None:
    where = "/home/user" if user else "/root"
    said(box, "save", "--output", f"{where}/busybox.tar", "busybox", user=user)
    said(box, "rmi", "--force", "busybox", user=user)
    said(box, "load", "--input", f"{where}/busybox.tar", user=user)
    assert said(box, "run", "--rm", "--network", "none", "busybox", "echo", "again", user=user) == "again"


def test_a_build_makes_device_nodes(box: whole.Box, user: bool) -> None:
    """`mount: overlay-nodes:`; Podman leaves them out of the image, as it does in every user namespace."""
    if user:
        pytest.skip("a nested user namespace is lent none")
    script = "mknod /x c 1 3 && stat -c %t:%T /x && ! mknod /y b 8 0 && touch /z && chown 5:6 /z && stat -c %u:%g /z"
    seen = said(box, "run", "--rm", "--cap-add", "MKNOD", "--network", "none", "busybox", "sh", "-c", script)
    assert seen.split() == ["1:3", "5:6"]
    box.sh("mkdir -p /root/nodes; echo 'FROM busybox' >/root/nodes/Containerfile")
    box.sh("echo 'RUN mknod /x c 1 3 && touch /made' >>/root/nodes/Containerfile")
    said(box, "build", "--cap-add", "MKNOD", "--network", "none", "--tag", "nodes", "/root/nodes")
    assert said(box, "run", "--rm", "--network", "none", "nodes", "sh", "-c", "ls -d /made /x || true") == "/made"


# -- mkosi -------------------------------------------------------------------------------------------------------------

TOOLS = (
    "--ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 /lib64"
    " --proc /proc --dev /dev --tmpfs /tmp"
)
SANDBOXES = {
    "of tools": (f"{TOOLS} --unshare-net", "ls / | tr '\\n' ' '; echo lost >/dev/null", "bin dev lib lib64 proc tmp usr"),
    "with a read-only tree": ("--bind / / --ro-bind /etc /srv", "! touch /srv/x 2>/dev/null; echo kept", "kept"),
    "with an overlay": (
        "--bind / / --overlay-lowerdir /etc --overlay-upperdir tmpfs --overlay /srv",
        "touch /srv/made; ls /srv/passwd /srv/made | tr '\\n' ' '", "/srv/made /srv/passwd",
    ),
    "that becomes root": (f"{TOOLS} --become-root --suppress-chown", "touch /tmp/x; chown 5:6 /tmp/x; id -u", "0"),
}  # fmt: skip
"""(mkosi-sandbox's options, what runs in it, what it says): open_tree(2), mount_setattr(2) and move_mount(2) throughout."""


@pytest.mark.parametrize("who", ["", "setpriv --reuid 1000 --regid 1000 --clear-groups"], ids=["root", "user"])
@pytest.mark.parametrize("what", SANDBOXES)
def test_mkosis_sandbox(box: whole.Box, what: str, who: str) -> None:
    options, script, expected = SANDBOXES[what]
    seen = box.sh(f"export PATH=/usr/sbin:/usr/bin; {who} mkosi-sandbox {options} -- sh -euc {shlex.quote(script)}")
    assert seen.strip() == expected, "\n".join(box.lines("--last", "20"))


# -- mount -o loop -----------------------------------------------------------------------------------------------------


MAKE = {
    "squashfs": "mksquashfs /srv/tree /srv/i -quiet -no-progress -noappend",
    "ext4": "mke2fs -q -t ext4 -d /srv/tree /srv/i 4M",
}


@pytest.mark.parametrize("fstype", MAKE)
@pytest.mark.parametrize("api", ["never", "always"], ids=["the new API", "mount(2)"])
def test_the_plain_mount_o_loop(box: whole.Box, fstype: str, api: str) -> None:
    path = "export PATH=/usr/sbin:/usr/bin"
    box.sh(f"{path}; mkdir -p /srv/tree; echo content >/srv/tree/file; rm -f /srv/i; {MAKE[fstype]} >/dev/null")
    mount = f"export LIBMOUNT_FORCE_MOUNT2={api}; mount -o loop /srv/i /mnt; cat /mnt/file; umount /mnt; losetup -f"
    assert box.sh(f"{path}; {mount}").split() == ["content", "/dev/loop0"]
