"""Run a system container without an engine.

The root filesystem is a directory or an image from a tar file (a plain root filesystem, the output of `docker save`, or
an OCI image layout). Neither is written to: the container gets a layer of its own above it, which goes with the
container, as do its address, its network interface and everything else. With --rootfs-rw the directory itself is the
container's root filesystem and keeps what the container writes. Unpacked images stay in
/var/lib/interceptor/{images,layers} ($INTERCEPTOR_STATE) for the next container.

What the image says of entry point, command, environment, working directory and user holds where the command line says
nothing. SIGTERM ends the container; systemd (a command named init or systemd) gets its own SIGRTMIN+3 instead.
The exit status is the container's, or 1 when it could not be run.
"""

from __future__ import annotations

import argparse
import re
import secrets
from pathlib import Path

from interceptor.errors import ConfigError
from interceptor.run import bundle, image, runner
from interceptor.run.bundle import Volume
from interceptor.run.place import check_name

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_MEMORY_MIN = 6 << 20
"""What runc and Docker, too, take for the least that a container can start in."""


def options(parser: argparse.ArgumentParser) -> None:
    rootfs = parser.add_mutually_exclusive_group(required=True)
    rootfs.add_argument("--rootfs", metavar="DIR", type=Path, help="a root filesystem, not written to")
    rootfs.add_argument("--rootfs-rw", metavar="DIR", type=Path, help="a root filesystem, written to")
    rootfs.add_argument("--image", metavar="TAR", type=Path, help="an image in a tar file")
    parser.add_argument("--name", help="the container's id, too (default: a random one)")
    parser.add_argument("--policy", metavar="P", help="the policy (default: chosen by image name)")
    parser.add_argument("--memory", "-m", metavar="M", type=memory, help="limit: bytes, or a number with k, m or g")
    parser.add_argument("--cpus", metavar="C", type=cpus, help="limit, as a number of processors: 0.5")
    parser.add_argument(
        "--volume", "-v", metavar="SRC:DST[:ro]", type=volume, action="append", default=[], help="bind SRC to DST"
    )
    parser.add_argument("--env", "-e", metavar="K=V", type=assignment, action="append", default=[], help="environment")
    parser.add_argument("--workdir", "-w", metavar="DIR", help="working directory")
    parser.add_argument("--user", "-u", metavar="USER[:GROUP]", help="names or numbers, as the container has them")
    parser.add_argument("--hostname", metavar="H", help="default: the name")
    parser.add_argument(
        "--net", choices=("bridge", "none"), default="bridge", help="an address behind NAT (default), or loopback only"
    )
    parser.add_argument("--rm", action="store_true", help="always so: nothing is kept of an ended container")
    parser.add_argument("--detach", "-d", action="store_true", help="print the name and leave it running")
    parser.add_argument("--tty", "-t", action="store_true", help="a terminal; implies -i")
    parser.add_argument("--interactive", "-i", action="store_true", help="standard input goes to the container")
    parser.add_argument("command", metavar="CMD", nargs="*", help="after --; default: the image's")


def run(arguments: argparse.Namespace) -> int:
    status = runner.run(_plan(arguments))
    if arguments.detach and status == 0:
        print(arguments.name)  # noqa: T201 - what a command is for
    return status


def _plan(arguments: argparse.Namespace) -> runner.Plan:
    arguments.name = check_name(arguments.name or f"run-{secrets.token_hex(4)}")
    found = _image(arguments)
    told = found.defaults
    command = [*told.entrypoint, *(arguments.command or told.command)]
    if not command:
        raise ConfigError("no command: give one after --; the image names none")
    wanted = bundle.Wanted(
        name=arguments.name,
        arguments=command,
        environment={**told.environment, **dict(arguments.env)},
        cwd=arguments.workdir or told.cwd,
        hostname=arguments.hostname or "",
        terminal=arguments.tty,
        memory=arguments.memory,
        cpus=arguments.cpus,
        volumes=arguments.volume,
        policy=arguments.policy,
        image=found.name or (image.name_of(arguments.image) if arguments.image else None),
    )
    return runner.Plan(
        wanted,
        [Path(layer) for layer in found.layers],
        user=arguments.user or told.user,
        in_place=arguments.rootfs_rw is not None,
        network=arguments.net,
        detach=arguments.detach,
        interactive=arguments.interactive or arguments.tty,
    )


def _image(arguments: argparse.Namespace) -> image.Image:
    if arguments.image:
        return image.load(arguments.image)
    return image.Image((str(_directory(arguments)),), image.Defaults())


def _directory(arguments: argparse.Namespace) -> Path:
    given: Path = arguments.rootfs or arguments.rootfs_rw
    if not given.is_dir():
        raise ConfigError(f"--rootfs {given}: no such directory")
    return given.resolve()


# ---- values ----


def memory(text: str) -> int:
    """Bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([bkmgt]?)i?b?", text.lower())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r}: a number of bytes, or a number with k, m or g")
    limit = int(float(match[1]) * _UNITS[match[2]])
    if limit < _MEMORY_MIN:
        raise argparse.ArgumentTypeError(f"{text!r}: a container needs at least {_MEMORY_MIN >> 20}m")
    return limit


def cpus(text: str) -> float:
    """Processors."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.01 <= number <= 100_000:  # noqa: PLR2004 - 1 ms of the kernel's 100 ms period is its least quota
        raise argparse.ArgumentTypeError(f"{text!r}: a number of processors, at least 0.01")
    return number


def assignment(text: str) -> tuple[str, str]:
    """KEY=VALUE"""
    key, separator, value = text.partition("=")
    if not key or not separator:
        raise argparse.ArgumentTypeError(f"{text!r}: KEY=VALUE is needed")
    return key, value


def volume(text: str) -> Volume:
    """SRC:DST[:ro|rw]"""
    source, _, rest = text.partition(":")
    destination, _, mode = rest.partition(":")
    if not source or not destination.startswith("/") or mode not in ("", "ro", "rw"):
        raise argparse.ArgumentTypeError(f"{text!r}: SRC:DST or SRC:DST:ro is needed, DST being an absolute path")
    path = Path(source).absolute()
    if not path.exists():
        raise argparse.ArgumentTypeError(f"{text!r}: {source} does not exist")
    return Volume(str(path), destination, mode == "ro")
