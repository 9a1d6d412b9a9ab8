"""The supervisor dies at every stage of every call that is registered: each ends as its handler declared, none is forgotten.

All calls are made at once, each by a process of its own; whichever comes to the stage is held there (support/hold.c), and then
the supervisor is killed. What the call says then is compared with what it says undisturbed. A call that is registered is
tried without an entry here: with arguments that are there but mean little.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import select
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from interceptor.native._native import lib
from support import whole
from support.probes import probe
from support.waiting import wait_for

from interceptor import registry
from interceptor.args import Address, Arch, Buffer, String
from interceptor.registry import Redo, resolve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.registry import Syscall

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

STAGES = ("received", "acting", "asked", "replied", "acted", "answered")
ONLY_LOOK = {lib.AGENT_FSOPEN}
"""Actions that change nothing, or make what goes with the agent: asked again. (OPEN_ROOT follows one that does.)"""
AT_FDCWD, EMPTY_PATH = -100, 4
ZEROS = "\0" * 256
NULL_DEVICE = 0x103

Step = tuple[str | int, ...]
"""A call: its name, numbers and strings. PLACE is a directory of its own, {0} the result of the first step."""
PLACE = "{place}"
OVERLAY = f"lowerdir={PLACE}/l,upperdir={PLACE}/u,workdir={PLACE}/w,metacopy=on"
_TREE: tuple[Step, ...] = tuple(("mkdir", f"{PLACE}/{name}", 0o755) for name in "luw")
_PROC: tuple[Step, ...] = (("mount", "none", PLACE, "proc", 0, 0),)
SET, CREATE = 1, 6
LOOP_SET_FD, LOOP_CLR_FD = 0x4C00, 0x4C01


def _made(fstype: str, *options: str, after: int = 0) -> tuple[Step, ...]:
    """fsopen(2) to fsmount(2), where `after` steps were before."""
    texts = (option.split("=", 1) for option in options)
    chosen = tuple(("fsconfig", f"{{{after}}}", SET, key, value, 0) for key, value in texts)
    context = f"{{{after}}}"
    return (("fsopen", fstype, 0), *chosen, ("fsconfig", context, CREATE, 0, 0, 0), ("fsmount", context, 0, 0))


def _moved(mount: int) -> Step:
    """move_mount(2) of what that step made."""
    return ("move_mount", f"{{{mount}}}", "", AT_FDCWD, PLACE, EMPTY_PATH)


_NEW_OVERLAY = (*_TREE, *_made("overlay", *OVERLAY.split(","), after=len(_TREE)))
_XATTR: Step = ("setxattr", PLACE, "trusted.stage", "abc", 3, 0)
_OPEN: Step = ("open", PLACE, os.O_RDONLY)

ENTRIES: dict[str, tuple[Step, ...]] = {
    # The last step is the one that is watched.
    "mount": (*_TREE, ("mount", "none", f"{PLACE}/l", "proc", 0, 0)),
    "umount2": (("mount", "none", PLACE, "tmpfs", 0, 0), ("umount2", PLACE, 0)),
    "mknod": (("mknod", f"{PLACE}/n", 0o20666, NULL_DEVICE),),
    "mknodat": (("mknodat", AT_FDCWD, f"{PLACE}/n", 0o20666, NULL_DEVICE),),
    "sethostname": (("sethostname", "web-1", 5),),
    "setdomainname": (("setdomainname", "example", 7),),
    "setxattr": (_XATTR,),
    "lsetxattr": (("lsetxattr", *_XATTR[1:]),),
    "fsetxattr": (_OPEN, ("fsetxattr", "{0}", *_XATTR[2:])),
    "getxattr": (_XATTR, ("getxattr", PLACE, "trusted.stage", ZEROS, 64)),
    "lgetxattr": (_XATTR, ("lgetxattr", PLACE, "trusted.stage", ZEROS, 64)),
    "fgetxattr": (_XATTR, _OPEN, ("fgetxattr", "{1}", "trusted.stage", ZEROS, 64)),
    "listxattr": (_XATTR, ("listxattr", PLACE, ZEROS, 64)),
    "llistxattr": (_XATTR, ("llistxattr", PLACE, ZEROS, 64)),
    "flistxattr": (_XATTR, _OPEN, ("flistxattr", "{1}", ZEROS, 64)),
    "removexattr": (_XATTR, ("removexattr", PLACE, "trusted.stage")),
    "lremovexattr": (_XATTR, ("lremovexattr", PLACE, "trusted.stage")),
    "fremovexattr": (_XATTR, _OPEN, ("fremovexattr", "{1}", "trusted.stage")),
    "removexattrat": (_XATTR, ("removexattrat", AT_FDCWD, PLACE, 0, "trusted.stage")),
    "listxattrat": (_XATTR, ("listxattrat", AT_FDCWD, PLACE, 0, ZEROS, 64)),
    "chown": (("chown", "/proc/version", 5, 5),),
    "lchown": (("lchown", "/proc/version", 5, 5),),
    "fchownat": (("fchownat", AT_FDCWD, "/proc/version", 5, 5, 0),),
    "fchown": (("open", "/proc/version", os.O_RDONLY), ("fchown", "{0}", 5, 5)),
    "fsopen": (("fsopen", "proc", 0),),
    "fsconfig": _made("proc")[:2],
    "fsmount": _made("proc"),
    "move_mount": (*_made("proc"), _moved(2)),
    "ioctl": (
        ("open", "/dev/loop0", os.O_RDWR), ("ioctl", "{0}", LOOP_CLR_FD, 0),
        ("open", "/dev/loop0", os.O_RDWR), ("open", f"{PLACE}/f", os.O_CREAT | os.O_RDWR, 0o600),
        ("ioctl", "{2}", LOOP_SET_FD, "{3}"),
    ),
    # Without CPU time, resource 0, the caller would end.
    "setrlimit": (("setrlimit", resource.RLIMIT_CORE, ZEROS),),
    "prlimit64": (("prlimit64", 0, resource.RLIMIT_CORE, ZEROS, 0),),
    # Strict mode would end the caller.
    "seccomp": (("seccomp", 1, 8, 0),),
}  # fmt: skip
MAKE_DESCRIPTORS = ("fsopen", "fsmount", "fspick", "open_tree")
MORE: dict[str, tuple[Step, ...]] = {
    "mount sysfs": (("mount", "none", PLACE, "sysfs", 0, 0),),
    "mount overlay": (*_TREE, ("mount", "none", PLACE, "overlay", 0, OVERLAY)),
    "mount debugfs": (("mount", "none", PLACE, "debugfs", 0, 0),),
    # With its leaves; what lies below stays.
    "umount2 proc": (*_PROC, *_PROC, ("umount2", PLACE, 0)),
    "mount tmpfs": (("mount", "none", PLACE, "tmpfs", 0, 0),),
    "fsconfig stand-in": _made("debugfs")[:-1],
    "fsconfig overlay's option": _NEW_OVERLAY[:-3],
    "fsconfig overlay": _NEW_OVERLAY[:-1],
    "fsmount stand-in": _made("debugfs"),
    "fsmount overlay": _NEW_OVERLAY,
}
"""Further ways through a handler, or through C."""
AFTERWARDS: dict[str, tuple[Step, ...]] = {
    # What lay below is there, and comes off.
    "umount2 proc": (("umount2", PLACE, 0),),
    "fsopen": (*_made("proc")[1:], _moved(2)),
    "fsconfig": (*_made("proc")[2:], _moved(2)),
    "fsmount": (_moved(2),),
    "fsconfig stand-in": (*_made("debugfs")[2:], _moved(2)),
    "fsconfig overlay's option": (*_NEW_OVERLAY[-3:], _moved(9)),
    "fsconfig overlay": (*_NEW_OVERLAY[-1:], _moved(9)),
    "fsmount stand-in": (_moved(2),),
    "fsmount overlay": (_moved(9),),
}
"""What is possible then, however the call came to its end."""


def steps_of(row: Syscall) -> tuple[Step, ...]:
    """For one without an entry."""
    values: list[str | int] = []
    for argument in row.signature.fields:
        match argument.kind:
            case String():
                values.append(PLACE)
            case Buffer() | Address():
                values.append(ZEROS)
            case _:
                values.append(0)
    return ((row.name, *values),)


@dataclass
class Caller:
    """One process in the container that makes one kind of call."""

    name: str
    steps: tuple[Step, ...]
    redo: Redo
    process: subprocess.Popen[bytes]
    tid: int = 0
    """As the host sees it."""
    usual: int = 0
    results: list[int] = field(default_factory=list)

    def send(self, step: Step, place: str) -> None:
        words = [str(number_of(step))]
        for value in step[1:]:
            text = value.format(*self.results, place=place) if isinstance(value, str) else ""
            by_number = isinstance(value, int) or (value[:1] == "{" and value != PLACE and value[1:2].isdigit())
            words.append(str(value if isinstance(value, int) else int(text)) if by_number else "s" + text.encode().hex())
        assert self.process.stdin is not None
        self.process.stdin.write((" ".join(words) + "\n").encode())
        self.process.stdin.flush()

    def ready(self) -> bool:
        return bool(select.select([self.process.stdout], [], [], 0)[0])

    def receive(self) -> int:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], 60)[0], f"{self.name} hangs"
        line = self.process.stdout.readline()
        assert line, f"{self.name} has ended"
        return int(line)

    def prepare(self, place: str) -> None:
        """All steps but the last."""
        self.results = []
        self.carry_out(self.steps[:-1], place)

    def carry_out(self, steps: tuple[Step, ...], place: str) -> list[int]:
        for step in steps:
            self.send(step, place)
            self.results.append(self.receive())
        return self.results[-len(steps) :]

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.tid}/fd").iterdir()))

    def same(self, result: int) -> bool:
        """A new descriptor is one whatever its number."""
        return result == self.usual or (self.steps[-1][0] in MAKE_DESCRIPTORS and result >= 0 and self.usual >= 0)


def number_of(step: Step) -> int:
    number = resolve(str(step[0]), Arch.X86_64)
    assert number is not None
    return number


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hold")


@pytest.fixture(scope="module")
def host(held: Path) -> Iterator[whole.Host]:
    library = probe("hold", "-shared", "-fPIC", "-ldl")
    rules = "".join(f"  {name}: [{{do: emulate}}]\n" for name in sorted(registry.load()))
    policy = (
        "extends: [default, xattr, chown]\nselectable: true\nleaves: everywhere\n"
        f"limits: {{agents: 64, devices: [null], loop-devices: 4}}\ncalls:\n{rules}"
    )
    with whole.host("crun", {"stages": policy}, kept=True, under=["env", f"LD_PRELOAD={library}", f"HOLD={held}"]) as host:
        yield host


@pytest.fixture(scope="module")
def callers(host: whole.Host) -> Iterator[list[Caller]]:
    box = host.box("stages")
    rows = registry.load()
    here = {name: row for name, row in rows.items() if row.number(Arch.X86_64) is not None}
    chosen = {name: ENTRIES.get(name, steps_of(row)) for name, row in here.items()} | MORE
    program = box.probe("calls")
    made = [
        Caller(name, steps, rows[str(steps[-1][0])].redo, start(box, program, "keep")) for name, steps in chosen.items()
    ]
    for caller in made:
        caller.send(("getpid",), "")
        caller.tid = caller.receive()
    outside = {pid_inside(pid): pid for pid in tasks_of(box)}
    for caller in made:
        caller.tid = outside[caller.tid]
    (box.rootfs / "stages").mkdir()
    os.chown(box.rootfs / "stages", *owner(box))
    yield made
    for caller in made:
        caller.process.stdin.close()  # type: ignore[union-attr]
    for caller in made:
        caller.process.wait(30)
        caller.process.stdout.close()  # type: ignore[union-attr]


def tasks_of(box: whole.Box) -> list[int]:
    """Host pids of the container's processes."""
    own = Path(f"/proc/{box.init}/ns/pid").stat().st_ino
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found += [int(path.name)] if (path / "ns/pid").stat().st_ino == own else []
    return found


def pid_inside(pid: int) -> int:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("NSpid:"))
    return int(line.split()[-1])


def owner(box: whole.Box) -> tuple[int, int]:
    """Of its root directory."""
    found = (box.rootfs / "data").stat()
    return found.st_uid, found.st_gid


def start(box: whole.Box, *command: str) -> subprocess.Popen[Any]:
    return box.begin(*command, stdin=subprocess.PIPE, stderr=None, text=False)


def place(caller: Caller, stage: str) -> str:
    return f"/stages/{stage}-{caller.name.replace(' ', '-')}"


def unanswered(host: whole.Host) -> int:
    reports = host.directory / "run/reports"
    before = set(reports.glob("*"))
    os.kill(host.supervisor_pid(), signal.SIGUSR1)
    (path,) = wait_for(lambda: set(reports.glob("dump-*")) - before, "a dump", within=10)
    wait_for(lambda: path.read_text().endswith("}"), "the whole dump", within=10)
    return int(json.loads(path.read_text())["unanswered"])


def make_places(callers: list[Caller], stage: str) -> None:
    for caller in callers:
        caller.results = []
        caller.send(("mkdir", PLACE, 0o755), place(caller, stage))
    for caller in callers:
        assert caller.receive() == 0, caller.name


def test_undisturbed(callers: list[Caller]) -> None:
    """What each says when nobody dies; those whose entry says what they are for succeed."""
    make_places(callers, "usual")
    for caller in callers:
        caller.prepare(place(caller, "usual"))
        caller.send(caller.steps[-1], place(caller, "usual"))
        caller.usual = caller.receive()
    failed = [f"{c.name}: {c.usual}" for c in callers if (c.name in ENTRIES or c.name in MORE) and c.usual < 0]
    assert failed == ["seccomp: -14"]


@pytest.mark.parametrize("stage", STAGES)
def test_dies_when_it_was(stage: str, host: whole.Host, callers: list[Caller], held: Path) -> None:
    make_places(callers, stage)
    for caller in callers:
        caller.prepare(place(caller, stage))
    before = {caller.name: caller.descriptors() for caller in callers}
    armed = held / "armed"
    (held / "new").write_text(stage)
    (held / "new").rename(armed)
    for caller in callers:
        caller.send(caller.steps[-1], place(caller, stage))
    parked = wait_for(lambda: _parked(callers, held), "every call to be held or answered", within=30)
    armed.unlink()
    os.kill(host.supervisor_pid(), signal.SIGKILL)
    wrong = []
    for caller in callers:
        result = caller.receive()
        op = parked.get(caller.name)
        may = stage in ("received", "answered") or op is None or redone(caller, stage, op)
        if not (caller.same(result) if may else result == -errno.EINTR):
            wrong.append(f"{caller.name} (action {op}): {result}, usually {caller.usual}")
        made = caller.descriptors() - before[caller.name]
        if made != (caller.steps[-1][0] in MAKE_DESCRIPTORS and result >= 0):
            wrong.append(f"{caller.name} (action {op}): {result}, and {made} more descriptors")
        if may and caller.name in AFTERWARDS:
            caller.results.append(result)
            said = caller.carry_out(AFTERWARDS[caller.name], place(caller, stage))
            if min(said) < 0:
                wrong.append(f"{caller.name}: what comes then says {said}")
    for path in held.iterdir():
        path.unlink()
    assert not wrong, f"{wrong}\n{host.log.read_text()[-3000:]}"
    wait_for(lambda: unanswered(host) == 0, "an end of what nobody waits for", within=20)
    assert len(parked) > (20 if stage in ("received", "acted", "answered") else 15), parked


def _parked(callers: list[Caller], held: Path) -> dict[str, int | None] | None:
    """Caller → the action of those that are held; None until each is, or was answered."""
    found = {}
    for path in held.glob("*-*"):
        tid, op = path.name.split("-", 1)
        found[int(tid)] = None if op == "-" else int(op)
    if all(caller.tid in found or caller.ready() for caller in callers):
        return {caller.name: found[caller.tid] for caller in callers if caller.tid in found}
    return None


def redone(caller: Caller, stage: str, op: int) -> bool:
    """Whether its result is as usual although an agent was asked."""
    return stage == "acted" or op in ONLY_LOOK or caller.redo is not Redo.NEVER
