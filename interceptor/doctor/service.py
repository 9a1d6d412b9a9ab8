"""The supervisor itself: whether one runs and answers, and whether the next one would start with these policies."""

from __future__ import annotations

from importlib.metadata import version
from resource import RLIMIT_NOFILE
from typing import TYPE_CHECKING

from interceptor import client, policy_file
from interceptor.doctor.finding import Finding, Host, failure, ok, warning
from interceptor.errors import PolicyError
from interceptor.limits import RLIM_INFINITY

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from interceptor.policy import Policy


def supervisor(_host: Host) -> Iterator[Finding]:
    try:
        with client.connect(spawn=False) as connection:
            answer = connection.call("ping")
    except client.NoSupervisorError:
        yield ok("supervisor", "none runs; the first container starts one")
    except client.ControlError as error:
        log = client.run_directory() / "supervisor.log"
        yield failure("supervisor", str(error), f"Its log may say why: {log}")
    else:
        yield _running(int(answer["pid"]), str(answer["version"]))


def _running(pid: int, running: str) -> Finding:
    installed = version("interceptor")
    if running == installed:
        return ok("supervisor", f"version {running} runs, pid {pid}")
    advice = "It ends by itself a minute after its last container; the next container starts the new one."
    return warning("supervisor", f"version {running} runs, pid {pid}, but {installed} is installed", advice)


def policies(host: Host) -> Iterator[Finding]:
    try:
        found = policy_file.load_all(policy_file.search_path(host.environment))
    except PolicyError as error:
        first, *others = str(error).splitlines()
        more = f" (and {len(others)} more)" if others else ""
        yield failure("policies", f"{first}{more}", "No supervisor starts with them. All mistakes: interceptor policy check")
    else:
        yield ok("policies", ", ".join(sorted(found.policies)))
        yield from _ceilings(host, found.policies.values())


def _ceilings(host: Host, found: Iterable[Policy]) -> Iterator[Finding]:
    """Policies that lend more descriptors than the host gives anybody (fs/file.c, sysctl_nr_open)."""
    most = host.number("/proc/sys/fs/nr_open")
    for policy in found:
        ceiling = policy.limits.ceilings.rlimits.get(RLIMIT_NOFILE, 0)
        if most is not None and most < ceiling < RLIM_INFINITY:
            advice = f"sysctl -w fs.nr_open={ceiling}, or `limits: {{rlimits: {{nofile: {most}}}}}` in {policy.origin}"
            yield warning(f"  … {policy.name}", f"lends nofile up to {ceiling:,}, but fs.nr_open is {most:,}", advice)
