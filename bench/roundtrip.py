"""The round trip of one notification as the tracee sees it: a table hit and a Python miss, against a bare C loop.

All three are measured in turn, several times, and compared pair by pair, because machines drift. The C loop receives
and answers and does nothing else: nobody can be faster. Usage: ``python bench/roundtrip.py [--quick]`` (root).
"""

from __future__ import annotations

import argparse
import errno
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interceptor import registry
from interceptor.agent_pool import AgentPool
from interceptor.args import Arch
from interceptor.container import Container, IdRange
from interceptor.dispatch import Dispatcher, routes_of
from interceptor.native.notifier import Notifier, Table, receive_returns
from interceptor.policy import Decision, Do, Policy
from interceptor.ports import Call
from interceptor.session import Parking, Session
from interceptor.stanza import Action, TableRow
from interceptor.trace.ring import Ring
from interceptor.verdict import Return, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class NoArgs:
    """getpgrp(2) and getppid(2) have none."""


ONE = Return(1)


def answer_one(_call: Call, _args: NoArgs) -> Verdict:
    return ONE


def build(directory: Path) -> None:
    for name in ("tracee", "loop"):
        subprocess.run(["gcc", "-O2", "-o", directory / name, HERE / f"{name}.c"], check=True)


def tracee(directory: Path, calls: int, number: int, serve: Callable[[int], Callable[[], Any]]) -> float:
    """Median µs of one call while `serve(notifier)` answers; what `serve` returns waits for its end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        argv = [str(directory / "tracee"), str(theirs.fileno()), str(calls), str(number)]
        with subprocess.Popen(argv, pass_fds=[theirs.fileno()], stdout=subprocess.PIPE, text=True) as process:
            _, (notifier,), _, _ = socket.recv_fds(ours, 1, 1)
            ended = serve(notifier)
            ours.send(b"g")
            output, _ = process.communicate()
        ended()
    if process.returncode:
        sys.exit(f"the tracee ended with {process.returncode}")
    return int(output) / 1000


def c_loop(directory: Path) -> Callable[[int], Callable[[], Any]]:
    def serve(notifier: int) -> Callable[[], Any]:
        process = subprocess.Popen([str(directory / "loop"), str(notifier)], pass_fds=[notifier])
        os.close(notifier)
        return process.wait

    return serve


def session(rows: dict[str, registry.Syscall], table: Table, poll_first: bool) -> Callable[[int], Callable[[], Any]]:
    def serve(notifier: int) -> Callable[[], Any]:
        container = Container(id="bench", ids=IdRange(0, 65536), policy="bench")
        policy = Policy("bench", "(bench)", default=Decision(Do.EMULATE, "(bench)"))
        held = Notifier(notifier, table, poll_first=poll_first)
        ended = threading.Event()
        dispatcher = Dispatcher(container, policy, routes_of(rows, policy), AgentPool(container.ids, policy.limits))
        Session(held, dispatcher, Parking(1), Ring("bench"), lambda _session: ended.set()).start()
        return ended.wait

    return serve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer calls and rounds: does it run, not how fast")
    quick = parser.parse_args().quick
    calls, rounds = (2000, 3) if quick else (20000, 15)
    for name in ("getppid", "getpgrp"):
        answer_one.__annotations__ = {"_call": Call, "_args": NoArgs, "return": Verdict}
        registry.handles(name, pure=True)(answer_one)
    rows = {row.name: row for row in registry.rows_of(__name__)}
    arch = Arch.X86_64 if os.uname().machine == "x86_64" else Arch.AARCH64
    hit, miss = rows["getppid"].number(arch), rows["getpgrp"].number(arch)
    assert hit is not None and miss is not None
    table = Table({arch: [TableRow(hit, (), Action.ERRNO, errno.EPERM, "(bench)")]})
    poll_first = not receive_returns()
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        build(directory)
        kinds = {"C loop": (c_loop(directory), hit), "table hit": (session(rows, table, poll_first), hit),
                 "Python miss": (session(rows, table, poll_first), miss)}  # fmt: skip
        taken: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(rounds):
            for kind, (serve, number) in kinds.items():
                taken[kind].append(tracee(directory, calls, number, serve))
    print(f"round trip of one notification, {rounds} rounds of {calls} calls each (medians)")
    for kind, values in taken.items():
        ratios = [value / base for value, base in zip(values, taken["C loop"], strict=True)]
        print(f"  {kind:12} {statistics.median(values):7.2f} µs   {statistics.median(ratios):5.2f} × the C loop")


if __name__ == "__main__":
    main()
