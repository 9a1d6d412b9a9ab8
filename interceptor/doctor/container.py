"""One container: whether its calls are answered, and if not, why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from interceptor import client
from interceptor.doctor.finding import Finding, failure, ok, warning
from interceptor.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SLOW_MS = 1000
"""A call that is handled for longer waits for something: a disk, a network filesystem, a FUSE server inside."""


def container(wanted: str) -> Iterator[Finding]:
    """ConfigError when there is no supervisor, or no such container."""
    try:
        with client.connect(spawn=False) as connection:
            found = connection.call("examine", container=wanted)["containers"]
    except client.NoSupervisorError:
        raise ConfigError(f"no supervisor runs, so that container {wanted} has none of its calls answered") from None
    if not found:
        raise ConfigError(f"container {wanted} has ended")
    for facts in found:
        yield from judge(facts)


def judge(facts: Mapping[str, Any]) -> Iterator[Finding]:
    """`facts`: as the operation `examine` of docs/control.md answers."""
    yield _init(facts)
    yield _sessions(facts)
    yield _handling(facts)
    yield _parked(facts)
    yield _agents(facts)
    yield _filter(facts)
    yield _keeper(facts)


def _init(facts: Mapping[str, Any]) -> Finding:
    pid = facts["pid"]
    if pid is None:
        return warning("init", "the container is being created, or its init has ended", "interceptor-runc delete removes it.")
    if not _lives(pid):
        return warning("init", f"process {pid} has ended", "Its engine has not deleted the container yet.")
    return ok("init", f"process {pid} lives")


def _lives(pid: int) -> bool:
    """Whether it is more than an entry that its parent has not read: proc_pid_stat(5), third field."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def _sessions(facts: Mapping[str, Any]) -> Finding:
    if facts["sessions"]:
        return ok("sessions", f"{facts['sessions']} notifiers are served; {facts['calls']} calls so far")
    advice = (
        "Its notifiers were lost: supervisor and keeper died at once, or it ran under `interceptor supervise` in the\n"
        "foreground. Intercepted calls answer ENOSYS until the container is restarted."
    )
    return failure("sessions", "no notifier of the container is served", advice)


def _handling(facts: Mapping[str, Any]) -> Finding:
    milliseconds = facts["handling_ms"]
    if milliseconds < SLOW_MS:
        return ok("calls", "none is handled for long" if milliseconds else "none is being handled")
    return warning("calls", f"one is handled for {milliseconds / 1000:.1f} s", "interceptor trace shows it once it has ended.")


def _parked(facts: Mapping[str, Any]) -> Finding:
    parked, most = facts["parked"], facts["parked_max"]
    found = f"{parked} of at most {most} calls wait for slow actions"
    if parked < most:
        return ok("parked", found)
    return warning("parked", found, "Further slow calls of the container wait for them; limits: parked: in its policy.")


def _agents(facts: Mapping[str, Any]) -> Finding:
    found = f"{facts['agents']} run"
    if not facts["abandoned"]:
        return ok("agents", found)
    advice = "A filesystem of the container's does not answer (a network filesystem, FUSE): the kernel ends them when it does."
    return warning("agents", f"{found}; {facts['abandoned']} were killed and cannot end", advice)


def _filter(facts: Mapping[str, Any]) -> Finding:
    narrower = facts.get("narrower") or []
    if not narrower:
        return ok("filter", "intercepts what the policy asks for")
    advice = "The policy was changed since; a container that is created again gets a filter for it."
    return warning("filter", f"does not intercept {', '.join(narrower)}", advice)


def _keeper(facts: Mapping[str, Any]) -> Finding:
    if facts["keeper"]:
        return ok("keeper", "holds the container's notifiers")
    advice = "`interceptor supervise` in the foreground has none: what it serves loses interception when it ends."
    return warning("keeper", "there is none", advice)
