"""All probes, in the order of the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from interceptor.doctor import cgroups, directories, docker, kernel, runtimes, security, service, storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from interceptor.doctor.finding import Finding, Host

    Probe = Callable[[Host], Iterable[Finding]]

PROBES: dict[str, tuple[Probe, ...]] = {
    "Kernel": (kernel.namespaces, kernel.seccomp, kernel.resources, kernel.limits),
    "Storage": (storage.filesystems, storage.overlay),
    "Control groups": (cgroups.hierarchy,),
    "Runtimes": (runtimes.installed, docker.registration),
    "Security modules": (security.modules,),
    "Supervisor": (service.supervisor, service.policies, directories.permissions),
}


class Section(NamedTuple):
    """The findings of one heading."""

    title: str
    findings: list[Finding]


def examine(host: Host) -> Iterator[Section]:
    """Runs every probe; a section is yielded when it is complete."""
    for title, probes in PROBES.items():
        yield Section(title, [finding for probe in probes for finding in probe(host)])
