"""What can be known from outside of a container in which something does not end, printed where a test of it fails."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from support.process import processes
from support.waiting import DeadlineError, wait_for

from interceptor.errors import InterceptorError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.whole import Host


@contextmanager
def when_it_fails(host: Host) -> Iterator[None]:
    """Prints all of it, once, before whatever was raised goes on."""
    try:
        yield
    except BaseException:
        sys.stderr.write(report(host) + "\n")
        raise


def report(host: Host) -> str:
    """Tasks of the containers, of the supervisor and of its agents; its own dump; the end of its log."""
    try:
        supervisor = host.supervisor_pid()
    except (InterceptorError, OSError):
        supervisor = host.supervisor.pid
    boxes = [path.name for path in host.directory.glob("box-*")]
    inside = [p.pid for p in processes() if any(box in p.text("cgroup") for box in boxes)]
    tasks = [*tasks_below(supervisor), *(task for pid in inside for task in _tasks(pid))]
    return "\n".join([
        "what the supervisor says:", dump(host, supervisor),
        "its tasks and agents, and those of containers:", *(_task(task) for task in dict.fromkeys(tasks)),
        "the end of its log:", host.log.read_text()[-6000:],
    ])  # fmt: skip


def dump(host: Host, supervisor: int) -> str:
    """What it writes on SIGUSR1: stacks of its threads, containers with what is parked, the journal, the newest calls."""
    reports = host.directory / "run/reports"
    before = set(reports.glob("*"))
    try:
        os.kill(supervisor, signal.SIGUSR1)
        new = wait_for(lambda: set(reports.glob("dump-*.json")) - before, "a dump", within=20)
        content = json.loads(wait_for(lambda: min(new).read_text(), "its content", within=5))
    except (DeadlineError, OSError, ValueError) as error:
        return f"none: {error!r}"
    return json.dumps(content, indent=1)


def tasks_below(pid: int) -> list[int]:
    """Threads of `pid` and of all of its descendants."""
    found = []
    for task in _tasks(pid):
        found.append(task)
        with suppress(OSError):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                found += tasks_below(int(child))
    return found


def _tasks(pid: int) -> list[int]:
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def _task(task: int) -> str:
    """One task: who, how it is scheduled, where it waits."""
    at = Path(f"/proc/{task}")
    with suppress(OSError):
        status = dict(line.split(":\t", 1) for line in (at / "status").read_text().splitlines() if ":\t" in line)
        words = [f"{task} of {status['Tgid']} ({status['Name']}), {status['State']}, parent {status['PPid']}"]
        words.append(f"nice {os.getpriority(os.PRIO_PROCESS, task)}, scheduler {os.sched_getscheduler(task)}")
        words += [f"{name}: {_text(at / name)}" for name in ("wchan", "syscall", "stack")]
        return "  " + "\n    ".join(words)
    return f"  {task}: gone"


def _text(path: Path) -> str:
    try:
        return path.read_text().strip().replace("\n", "\n      ")
    except OSError as error:
        return str(error)
