"""The life of one `interceptor run`: prepare, hand over to interceptor-runc, connect the network, wait, clean up.

interceptor-runc does what needs a process of its own kind – being init's parent, the terminal – and stops between create
and start (--sync-fd), so that the network is there before the first instruction of the container. Whoever waits for the
container holds its lock: this process, or for a detached container the shell that waits in our place.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from interceptor.client import program, run_directory
from interceptor.errors import ConfigError, InterceptorError
from interceptor.run import bundle, etc, users
from interceptor.run.place import NAME, Place, claim, exists, place, places, release

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence
    from types import ModuleType

STOP_SECONDS = 10.0
CLAIM_SECONDS = 5.0
START_SECONDS = 150.0
"""Longer than interceptor-runc waits for the supervisor."""
SIGRTMIN_3 = signal.SIGRTMIN + 3
_POLL_SECONDS = 0.05
_FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_ALIVE = ("creating", "created", "running", "paused")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be run, on which root filesystem."""

    wanted: bundle.Wanted
    lower: Sequence[Path]
    """Layers, topmost first; one directory with `in_place` is used itself."""
    user: str = ""
    """As the command line or the image names it."""
    in_place: bool = False
    network: Literal["none", "bridge"] = "bridge"
    detach: bool = False
    interactive: bool = False
    warnings: list[str] = field(default_factory=list)


def run(plan: Plan) -> int:
    """The container's exit status, or 0 once a detached one runs."""
    with _signals_end_it():
        sweep()
        return _run(plan, plan.wanted.name)


def _run(plan: Plan, name: str) -> int:
    lock = _claim(name)
    here, running = place(name), None
    try:
        here.make()
    except BaseException:
        release(name, lock)
        raise
    try:
        _prepare(here, plan)
        running = _launch(here, plan, lock)
        try:
            created = _connect(here, plan, running)
        except BaseException:
            _end(running)
            raise
        if plan.detach:
            return _detached(running, started=created and _start(running))
        with _signals_go_on(running.process, systemd=bundle.is_systemd(plan.wanted.arguments)):
            if created:
                _start(running)
            return running.process.wait()
    finally:
        if running is None or not plan.detach:
            _forget(here)
            release(name, lock)


def _claim(name: str) -> int:
    """The lock; a sweep may have it for a moment."""
    deadline = time.monotonic() + CLAIM_SECONDS
    while (lock := claim(name)) is None:
        if place(name).root.exists() or time.monotonic() > deadline:
            raise exists(name)
        time.sleep(_POLL_SECONDS)
    return lock


# ---- before ----


def _prepare(here: Place, plan: Plan) -> None:
    wanted = plan.wanted
    rootfs = plan.lower[0] if plan.in_place else here.rootfs
    if not plan.in_place:
        here.mount(plan.lower)
    hostname = wanted.hostname or wanted.name
    etc.write(here.etc, hostname, online=plan.network != "none", read=_read_host)
    config = bundle.config(wanted, rootfs, here.etc)
    config["process"]["user"] = _user(users.resolve(plan.user, users.reader(rootfs)))
    (here.bundle / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def _user(user: bundle.User) -> dict[str, Any]:
    return {"uid": user.uid, "gid": user.gid, "additionalGids": [*user.additional]}


def _read_host(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text(encoding="utf-8", errors="replace")
    return ""


@dataclass(frozen=True, slots=True)
class Running:
    """interceptor-runc, and our end of its --sync-fd."""

    process: subprocess.Popen[bytes]
    sync: socket.socket
    log: IO[bytes] | None
    """What a detached one says."""


def _launch(here: Place, plan: Plan, lock: int) -> Running:
    ours, theirs = socket.socketpair()
    command = [program("interceptor-runc"), "run", "--bundle", str(here.bundle)]
    command += ["--sync-fd", str(theirs.fileno()), here.name]
    more: dict[str, Any] = {"pass_fds": [theirs.fileno()]}
    log = None
    if plan.detach:
        # The shell waits in our place, with the lock, and then has the container's things removed.
        command = ["/bin/sh", "-c", f'"$@"; exec {shlex.join(_finisher(here.name))}', "sh", *command]
        log = here.log.open("w+b")
        more = {"pass_fds": [theirs.fileno(), lock], "start_new_session": True, "stdout": log, "stderr": log}
    if plan.detach or not plan.interactive:
        more["stdin"] = subprocess.DEVNULL
    with theirs:
        return Running(subprocess.Popen(command, **more), ours, log)


def _finisher(name: str) -> list[str]:
    return [sys.executable, "-m", "interceptor.run", name]


# ---- between create and start ----


def _connect(here: Place, plan: Plan, running: Running) -> bool:
    """Waits for the created container and connects it; False when interceptor-runc failed and said why."""
    running.sync.settimeout(START_SECONDS)
    created = _line(running)
    if created and plan.network == "bridge":
        _connect_bridge(here, plan, int(created))
    return bool(created)


def _start(running: Running) -> bool:
    """Lets the container start; False when it could not and interceptor-runc said why."""
    with running.sync:
        running.sync.send(b"\n")
        return bool(_line(running))


def _line(running: Running) -> bytes:
    """What interceptor-runc says next; empty when it has nothing more to say."""
    with running.sync.makefile("rb") as lines:
        return lines.readline()


def _network() -> ModuleType:
    """interceptor.run.network, which takes 0.2 s to import: only for those who want one."""
    return importlib.import_module("interceptor.run.network")


def _connect_bridge(here: Place, plan: Plan, pid: int) -> None:
    given = _network().attach(here.name, pid, lambda name: place(name).root.exists(), plan.warnings.append)
    hosts = here.etc / "hosts"
    hosts.write_text(etc.hosts(plan.wanted.hostname or plan.wanted.name, str(given.address)), encoding="utf-8")
    for warning in plan.warnings:
        sys.stderr.write(f"interceptor run: {warning}\n")


@contextlib.contextmanager
def _signals_end_it() -> Iterator[None]:
    """SIGTERM while the container is made or removed undoes what we did, as ^C does, by KeyboardInterrupt."""

    def stop(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(running: Running) -> None:
    """Ends a container that is not to be started: interceptor-runc deletes it when our end of the socket closes."""
    running.sync.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        running.process.wait(STOP_SECONDS)
        return
    running.process.terminate()
    running.process.wait()


# ---- while it runs ----


def _detached(running: Running, *, started: bool) -> int:
    """The shell goes on without us; if there is nothing to go on with, its words are ours."""
    if started:
        running.process.returncode = 0  # not waited for by us: the object may go without a warning
        return 0
    running.process.wait()
    if running.log:
        running.log.seek(0)
        sys.stderr.write(running.log.read().decode(errors="replace"))
    return 1


@contextlib.contextmanager
def _signals_go_on(process: subprocess.Popen[bytes], *, systemd: bool) -> Iterator[None]:
    """Signals go on to the container; systemd ends orderly by its own signal instead of SIGTERM."""

    def forward(number: int, _frame: object) -> None:
        if number == signal.SIGTERM and systemd:
            number = SIGRTMIN_3
        process.send_signal(number)

    # A terminal sends SIGINT and SIGQUIT to interceptor-runc itself, which is in our process group.
    previous = {number: signal.signal(number, forward) for number in _FORWARDED}
    previous |= {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGQUIT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def execute(
    name: str, command: Sequence[str], *, environment: dict[str, str], cwd: str | None, user: str | None, terminal: bool
) -> int:
    """A further process in a running container; its exit status.

    It is described by a whole `process` object and not by options: crun's `exec --env` drops all other variables.
    """
    here = existing(name)
    config = json.loads((here.bundle / "config.json").read_text(encoding="utf-8"))
    process = config["process"]
    process |= {"args": [*command], "terminal": terminal, "cwd": cwd or process["cwd"]}
    process["env"] = [*_without(process["env"], environment), *(f"{key}={value}" for key, value in environment.items())]
    if user:
        process["user"] = _user(users.resolve(user, users.reader(here.bundle / config["root"]["path"])))
    with tempfile.NamedTemporaryFile("w", prefix="exec-", suffix=".json", dir=here.root, encoding="utf-8") as file:
        json.dump(process, file)
        file.flush()
        entry = subprocess.Popen([program("interceptor-runc"), "exec", "--process", file.name, name])
        with _signals_go_on(entry, systemd=False):
            return entry.wait()


def _without(entries: Sequence[str], names: Container[str]) -> list[str]:
    return [entry for entry in entries if entry.partition("=")[0] not in names]


# ---- afterwards ----


def finish(name: str) -> None:
    """Removes what is left of an ended container; for the shell of a detached one, which has the lock."""
    _delete(name)
    _forget(place(name))
    (place(name).root.parent / f".{name}.lock").unlink(missing_ok=True)


def _forget(here: Place) -> None:
    """Takes away all that is not the runtime's."""
    if (run_directory() / "network.json").exists():
        _network().detach(here.name)
    here.remove()


def sweep() -> None:
    """Finishes what was left by runs that nobody sees to any more: a crash, a kill, a reboot."""
    for left in places():
        lock = claim(left.name)
        if lock is None:
            continue
        try:
            if left.root.exists() and state_of(left.name) is None:
                _forget(left)
        finally:
            release(left.name, lock)


def state_of(name: str) -> dict[str, Any] | None:
    """What the runtime says of the container; None when it knows none."""
    done = subprocess.run([program("interceptor-runc"), "state", name], check=False, capture_output=True)
    if done.returncode != 0:
        return None
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _delete(name: str) -> None:
    if state_of(name) is not None:
        subprocess.run([program("interceptor-runc"), "delete", "--force", name], check=False, capture_output=True)


def existing(name: str) -> Place:
    """The place of a container that there is."""
    found = place(name)
    if not NAME.fullmatch(name) or not found.root.is_dir():
        names = ", ".join(each.name for each in places()) or "none"
        raise ConfigError(f"no container {name!r} of `interceptor run`; there are: {names}")
    return found


def stop(name: str, seconds: float) -> None:
    """Asks the container to end, kills it after `seconds`, and waits until its things are removed."""
    here = existing(name)
    state = state_of(name)
    if state and state["status"] in _ALIVE:
        arguments = json.loads((here.bundle / "config.json").read_text(encoding="utf-8"))["process"]["args"]
        pid = int(state["pid"])
        _kill(name, SIGRTMIN_3 if bundle.is_systemd(arguments) else signal.SIGTERM)
        if not _gone(pid, seconds):
            _kill(name, signal.SIGKILL)
            _gone(pid, STOP_SECONDS)
    _remove(here)


def remove(name: str, *, force: bool) -> None:
    """Removes what is left of a container that has ended, or, by force, also one that runs."""
    here = existing(name)
    state = state_of(name)
    if state and state["status"] in _ALIVE:
        if not force:
            raise ConfigError(f"container {name} is {state['status']}: interceptor stop {name}, or use --force")
        _kill(name, signal.SIGKILL)
        _gone(int(state["pid"]), STOP_SECONDS)
    _remove(here)


def _remove(here: Place) -> None:
    """Whoever waits for the container removes its things; where nobody does, we do."""
    deadline = time.monotonic() + STOP_SECONDS
    while here.root.exists() and time.monotonic() < deadline:
        lock = claim(here.name)
        if lock is None:
            time.sleep(_POLL_SECONDS)
            continue
        try:
            _delete(here.name)
            _forget(here)
        finally:
            release(here.name, lock)
    if here.root.exists():
        raise InterceptorError(f"container {here.name} is not removed within {STOP_SECONDS:g} s: somebody waits for it")


def _kill(name: str, number: int) -> None:
    done = subprocess.run(
        [program("interceptor-runc"), "kill", name, str(int(number))], check=False, capture_output=True, text=True
    )
    state = state_of(name)
    if done.returncode != 0 and state and state["status"] in _ALIVE:
        raise InterceptorError(done.stderr.strip() or f"interceptor-runc kill {name}: exit status {done.returncode}")


def _gone(pid: int, seconds: float) -> bool:
    """Whether the process ends within `seconds`."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    with open(pidfd, "rb", buffering=0):  # noqa: PTH123 - closes it
        return bool(select.select([pidfd], [], [], seconds)[0])
