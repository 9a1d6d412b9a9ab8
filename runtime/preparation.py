"""Everything between the engine's bundle and a bundle that stock runc or crun can create a system container from.

Each step pushes what undoes it before it acts. Steps inside the caller's mount namespace are undone inside it.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from interceptor import stanza
from interceptor.errors import InterceptorError
from interceptor.native import mounts
from interceptor.native.fd import Fd
from interceptor.native.files import text
from interceptor.native.namespaces import in_mount_namespace
from interceptor.policy import Told
from runtime import (
    binds,
    bundle,
    cgroups,
    commandline,
    datadirs,
    devices,
    dockerd,
    image,
    mountinfo,
    nodes,
    ociconfig,
    oomscore,
    place,
    process,
    rootfs,
    sharing,
)
from runtime import record as records
from runtime.idmapped import Clones, mapping, mount_point
from runtime.record import Record
from runtime.refusals import refuse, refuse_links
from runtime.seccomp import Rules, merge_profile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from interceptor.container import IdRange
    from interceptor.policy import Policy
    from interceptor.ports import Core
    from interceptor.registry import Syscall
    from runtime.config import HostConfig, Places
    from runtime.idrange import Ranges
    from runtime.ociconfig import Config
    from runtime.requests import Creation
    from runtime.underneath import Underneath


@dataclass(frozen=True, slots=True)
class Host:
    """What is the same for every container of this host."""

    core: Core
    places: Places
    config: HostConfig
    ranges: Ranges
    rows: Mapping[str, Syscall]
    rules: Rules
    capabilities: Sequence[str]

    def facts(self, ids: IdRange, policy: Policy) -> ociconfig.Facts:
        """What rewriting a process needs to know."""
        return ociconfig.Facts(
            ids,
            capabilities=policy.capabilities,
            capability_names=self.capabilities,
            hard_limits=process.hard_limits(),
            oom_score_floor=process.oom_score_floor(),
        )

    def store(self, record: Record) -> str:
        """Where a container's data directories lie: in the engine's layer, which the engine removes; else below
        $state.
        """
        if record.rootfs.layer is not None:
            return f"{record.rootfs.layer}/{datadirs.DIRECTORY}"
        return f"{self.places.state}/data/{record.id}"


def prepare(host: Host, asked: Creation, runtime: Underneath, namespace: Fd, undo: ExitStack) -> Record:
    """Prepares the container; answers its record. What is undone is pushed on `undo`, also when this raises."""
    run = os.stat(host.places.run)
    with in_mount_namespace(namespace.fileno()):
        _same_directory(host.places.run, run)
        original = bundle.content(f"{asked.bundle}/config.json")
        config = bundle.parse(original, f"{asked.bundle}/config.json")
        refuse(config)
        told = image.identify(asked.id, config, asked.bundle)
        shared = sharing.look(config["linux"].get("namespaces") or [], list(host.core.containers.values()))
    annotations = {str(key): str(value) for key, value in (config.get("annotations") or {}).items()}
    policy = host.core.choose_policy(
        Told(
            told.image, annotations, told.labels, digests=told.digests, runtime=os.path.basename(runtime.path),
            namespace=told.namespace, pod_labels=told.pod_labels,
        )
    )  # fmt: skip
    ids = _allocate(host, asked.id, policy, shared, undo=undo)
    record = Record(
        asked.id, ids, policy.name, runtime.path, asked.bundle,
        boot=process.boot(), namespace=os.fstat(namespace.fileno()).st_ino, rootfs=rootfs.Rootfs(""),
        options=commandline.global_options(asked.argv), engine_pid=_engine(asked.id, config, namespace),
        image=told.image, name=told.name,
        creator=asked.creator, creator_start=process.start_time(asked.creator) if asked.creator else None,
        wait_killable=runtime.wait_killable, created_ns=time.time_ns(), annotations=annotations,
        hidden=list(policy.hidden), sysctls=dict(policy.limits.ceilings.sysctls),
        devices=devices.openable((config["linux"].get("resources") or {}).get("devices") or []),
    )  # fmt: skip
    with mapping(ids) as user_namespace, _undone_in(namespace, undo) as inside, in_mount_namespace(namespace.fileno()):
        _Preparation(host, record, original, config, policy, shared, runtime, user_namespace, inside).run()
    return record


def _engine(container_id: str, config: Config, namespace: Fd) -> int | None:
    """Docker's process, for containers of Docker's."""
    found = dockerd.engine_pid(config)
    if found is None and image.docker_directory(container_id, config.get("mounts") or []):
        found = dockerd.engine_in(os.fstat(namespace.fileno()).st_ino)
    return found


def _same_directory(path: str, ours: os.stat_result) -> None:
    """What we record and what we attach must be found at one place by the caller, by us and by the next supervisor."""
    try:
        same = os.path.samestat(os.stat(path), ours)
    except FileNotFoundError:
        same = False
    if not same:
        raise InterceptorError(
            f"{path} is another directory in the caller's mount namespace than in the supervisor's: start a supervisor "
            "with a directory that both see ($INTERCEPTOR_RUN)"
        )


def _allocate(host: Host, container_id: str, policy: Policy, shared: sharing.Shared, *, undo: ExitStack) -> IdRange:
    size = host.config.size or policy.id_range_size
    with_container = shared.container.id if shared.container else None
    ids = host.ranges.allocate(container_id, size, with_container=with_container)
    undo.callback(host.ranges.release, container_id)
    return ids


@contextmanager
def _undone_in(namespace: Fd, undo: ExitStack) -> Iterator[ExitStack]:
    """A stack whose callbacks run inside `namespace`, whenever `undo` is closed."""
    inside = ExitStack()
    kept = namespace.duplicate()

    def close() -> None:
        with kept, in_mount_namespace(kept.fileno()):
            inside.close()

    undo.callback(close)
    yield inside


@dataclass(slots=True)
class _Preparation:
    """What is done in the caller's mount namespace: attach everything, then write config.json."""

    host: Host
    record: Record
    original: bytes
    """The engine's config.json as it was."""
    config: Config
    policy: Policy
    shared: sharing.Shared
    runtime: Underneath
    user_namespace: Fd
    undo: ExitStack

    def run(self) -> None:
        base = self._make_place()
        entries = self.config.get("mounts") or []
        table = mountinfo.parse(text("/proc/thread-self/mountinfo"))
        named = cgroups.named(self.config["linux"].get("cgroupsPath") or "", table)
        self.record.cgroups = [directory for directory in named if not os.path.exists(directory)]
        clones = Clones(table, self.user_namespace)
        found = rootfs.describe(os.path.join(self.record.bundle, self.config["root"].get("path") or ""), table)
        self.record.rootfs = found[0]
        refuse_links(self.config, self.record.rootfs.engine, self.record.bundle)
        arguments = self.config["process"].get("args") or []
        systemd = ociconfig.is_systemd(arguments, _resolved(self.record.rootfs.engine, arguments))
        self.record.machine = systemd
        data = self._fill_data_directories(entries)
        rootfs.attach(found, f"{base}/rootfs", clones, self.record.ids, self.undo)
        bound = binds.attach(
            entries, f"{base}/mounts", clones, self.record.bundle, self._lock_in(base, systemd=systemd)
        )
        native = sharing.attach(entries, self.shared, f"{base}/mounts")
        facts = self._facts(base)
        lowest = self.policy.limits.ceilings.oom_score_adj
        lent = devices.binds(nodes.lent(self.policy), self.config)
        self.record.oom_score = oomscore.lend(self.config, lowest, facts.oom_score_floor)
        facts = replace(
            facts,
            oom_score=self.record.oom_score,
            systemd=systemd,
            sources={**bound.sources, **native},
            inside=bound.inside,
            sysctls=sharing.set_sysctls(self.config["linux"].get("sysctl") or {}, self.shared),
            devices=devices.renamed(self.config["linux"].get("devices") or []),
            lent=self.policy.limits.devices.listed,
            mounts=[*_attach_data(data, f"{base}/mounts", clones), *lent],
        )
        self._write(base, facts)

    def _make_place(self) -> str:
        base = self.host.places.container(self.record.id)
        self.undo.callback(place.remove, base)
        self.undo.callback(place.unmount, base)
        return place.make(self.host.places, self.record.id)

    def _lock_in(self, base: str, *, systemd: bool) -> binds.RootFilesystem:
        hidden = ociconfig.SYSTEMD_DIRECTORIES if systemd else ()
        return binds.RootFilesystem(f"{base}/rootfs", self.record.ids, hidden)

    def _fill_data_directories(self, entries: Sequence[Mapping[str, Any]]) -> list[datadirs.DataDirectory]:
        """The data directories, filled from the engine's view of the image, which ours covers a moment later."""
        if not self.host.config.data:
            return []
        store = self.host.store(self.record)
        with Fd(os.open(self.record.rootfs.engine, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as root:
            found = datadirs.find(root.fileno(), store, (entry.get("destination") or "/" for entry in entries))
            if found:
                os.makedirs(store, mode=0o700, exist_ok=True)
            for directory in found:
                datadirs.fill(root.fileno(), directory)
        return found

    def _facts(self, base: str) -> ociconfig.Facts:
        rules = self.host.rules.of(self.policy)
        profile = merge_profile(
            self.config["linux"].get("seccomp"), self.host.rows, self.policy, rules=rules,
            listener_path=self.host.core.listener_path, metadata=self.record.id,
            wait_killable=self.record.wait_killable,
        )  # fmt: skip
        self.record.filter = rules
        self.record.absent = stanza.absent(self.host.rows, self.policy, knows_young=self.runtime.knows_young)
        return replace(
            self.host.facts(self.record.ids, self.policy),
            rootfs=f"{base}/rootfs",
            seccomp=profile,
            user_namespace=self.shared.user_namespace,
        )

    def _write(self, base: str, facts: ociconfig.Facts) -> None:
        bundle.keep(self.original, base)
        self.undo.callback(bundle.restore, self.record.bundle, base)
        records.write(f"{base}/{records.RUNTIME}", self.record.runtime)
        self.record.save(base)
        bundle.replace(f"{self.record.bundle}/config.json", ociconfig.rewrite(self.config, facts))


def _attach_data(data: Sequence[datadirs.DataDirectory], directory: str, clones: Clones) -> Sequence[Mapping[str, Any]]:
    entries = []
    for number, found in enumerate(data):
        at = f"{directory}/data{number}"
        with mount_point(found.outside, at) as point:
            clones.bind(found.outside, point, f"the data directory for {found.inside}", recursive=False)
        entries.append({"destination": found.inside, "type": "bind", "source": at, "options": ["rbind", "rw"]})
    return entries


def _resolved(root: str, arguments: Sequence[str]) -> str | None:
    """What the container's first program is, symbolic links followed as inside."""
    if not arguments or not arguments[0].startswith("/"):
        return None
    try:
        with (
            Fd(os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as top,
            mounts.open_in_root(top.fileno(), arguments[0], os.O_PATH) as found,
        ):
            return os.readlink(f"/proc/thread-self/fd/{found.fileno()}")
    except OSError:
        return None
