"""Policy: (call, args, caller) → decision, with the file and line of the rule that decided.

Pure: no files, no clocks, no kernel. Loading from YAML and the search for files live in `policy_file`; what can be
decided from registers alone is compiled by `stanza`.

A policy is *resolved*: what it extends is folded in, every name was checked when it was loaded. Conditions are values,
so that the stanza, the documentation and error messages can look into them; `test()` makes the closure that is asked
at each call. A further kind of condition is one more class here and one more reader in `policy_file`.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Protocol

from interceptor.limits import BLOCK_FILESYSTEMS, LentDevice, Limits
from interceptor.patterns import bytes_test

BUILT_IN = "(built-in)"
"""The `rule` of a decision that no file made."""
OFF = "(off by default)"
"""The `rule` for an optional call (registry.Syscall.optional) for which no file has a rule that decides."""


class Do(enum.StrEnum):
    """What a rule says about a call."""

    EMULATE = "emulate"
    """The handler performs it."""
    NATIVE = "native"
    """The kernel performs it, with what the tracee has itself."""
    DENY = "deny"
    """It fails with the rule's errno."""
    PRETEND = "pretend"
    """It succeeds with 0 and nothing is done."""
    KILL = "kill"
    """The process that made it is killed."""
    STOP = "stop"
    """The container is: its init is killed, and with it every process of its pid namespace."""

    @property
    def passes(self) -> bool:
        """Whether the call takes its course, with a handler or in the kernel; every other decision is the answer itself."""
        return self in _PASSING


_PASSING = frozenset({Do.EMULATE, Do.NATIVE})


@dataclass(frozen=True, slots=True)
class Decision:
    """What policy says about one call, and where it says so."""

    do: Do
    rule: str
    """``file:line`` of the rule that decided."""
    errno: int = 0
    """For DENY: a positive errno."""
    log: bool = False
    """The supervisor's log gets a line for each such call, besides the trace."""


class Mount(enum.StrEnum):
    """What mount(2) or fsopen(2) of a filesystem type gets."""

    NATIVE = "native"
    """The kernel's own answer."""
    EMULATE = "emulate"
    """Mounted on the tracee's behalf."""
    STAND_IN = "stand-in"
    """An empty, read-only tmpfs in its place."""
    FUSE = "fuse"
    """A program of the container's own, inside its namespaces."""
    DENY = "deny"
    """It fails with the entry's errno."""


@dataclass(frozen=True, slots=True)
class FilesystemDecision:
    """What policy says about one filesystem type, and where it says so."""

    mount: Mount
    rule: str
    """``file:line`` of the entry that decided."""
    errno: int = 0
    """For DENY: a positive errno."""
    program: str = ""
    """For FUSE: its name, to be found in the container's PATH, or its absolute path there."""


@dataclass(frozen=True, slots=True)
class Caller:
    """What a rule may ask about the caller."""

    uid: int
    """Effective uid inside the container; 65534 where it is not mapped."""
    nested: bool = False
    """In a user namespace below the container's own."""
    inner: bool = False
    """In another pid namespace than the container's init: in a container inside the container."""
    executable: bytes = b""
    """/proc/PID/exe: the path of its program, as its own mount namespace names it."""


Test = Callable[[Any], bool]


class Condition(Protocol):
    """What a rule asks of one value."""

    def test(self) -> Test:
        """The question as a closure over one decoded value."""


@dataclass(frozen=True, slots=True)
class Text:
    """A string that matches one of `patterns`; None among them is the NULL pointer.

    Patterns are globs over bytes, see `patterns`.
    """

    patterns: tuple[str | None, ...]

    def test(self) -> Test:
        return bytes_test(self.patterns)


@dataclass(frozen=True, slots=True)
class Numbers:
    """A number in one of the inclusive ranges `(first, last)`."""

    ranges: tuple[tuple[int, int], ...]

    def test(self) -> Test:
        single = frozenset(first for first, last in self.ranges if first == last)
        wide = tuple((first, last) for first, last in self.ranges if first != last)
        if not wide:
            return single.__contains__
        return lambda value: value in single or any(first <= value <= last for first, last in wide)


@dataclass(frozen=True, slots=True)
class FlagSet:
    """All bits of `has` are set and none of `lacks`."""

    has: int
    lacks: int

    def test(self) -> Test:
        mask, wanted = self.has | self.lacks, self.has
        return lambda value: value & mask == wanted


@dataclass(frozen=True, slots=True)
class Within:
    """A string that is, or begins with, an address in one of `networks`.

    ``10.1.2.3``, ``10.1.2.3:/export``, ``[2001:db8::1]:/export`` and ``//10.1.2.3/share`` begin with one; names do not.
    """

    networks: tuple[str, ...]

    def test(self) -> Test:
        networks = tuple(ipaddress.ip_network(n) for n in self.networks)

        def holds(value: bytes | None) -> bool:
            address = _address(value or b"")
            return address is not None and any(address in network for network in networks)

        return holds


_ADDRESS = re.compile(rb"(?://)?(?:\[([0-9A-Fa-f:.]+)\]|([0-9A-Fa-f:.]+?))(?=:?/|\Z)")


def _address(value: bytes) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    found = _ADDRESS.match(value)
    try:
        return ipaddress.ip_address(next(filter(None, found.groups())).decode()) if found else None
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class Truth:
    """A yes or no."""

    value: bool

    def test(self) -> Test:
        wanted = self.value
        return lambda value: value is wanted


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule for one call: all its conditions hold → its decision."""

    decision: Decision
    args: tuple[tuple[str, Condition], ...] = ()
    """By field of the call's args class."""
    caller: tuple[tuple[str, Condition], ...] = ()
    """By field of `Caller`."""

    @property
    def unconditional(self) -> bool:
        return not self.args and not self.caller

    def test(self) -> Callable[[Any, Caller], bool]:
        """The conjunction, as a closure over args and caller."""
        args = tuple((attrgetter(name), condition.test()) for name, condition in self.args)
        who = tuple((attrgetter(name), condition.test()) for name, condition in self.caller)
        if len(args) == 1 and not who:
            (get, holds) = args[0]
            return lambda values, _caller: holds(get(values))
        return lambda values, caller: all(holds(get(values)) for get, holds in args) and all(
            holds(get(caller)) for get, holds in who
        )


class LeafScope(enum.StrEnum):
    """Which proc and sysfs describe the container."""

    NONE = "none"
    """None: they show the host."""
    OWN = "own"
    """Those that the container began with."""
    EVERYWHERE = "everywhere"
    """Those that are mounted inside, too: an inner container's show its own limits. Each mount has some fifty more on it."""


class Kmsg(enum.StrEnum):
    """What /dev/kmsg is."""

    EMPTY = "empty"
    """A kernel log to which nobody ever wrote: nothing is read from it, and what is written is gone."""
    NONE = "none"
    """It is not there, unless the engine gives one."""


class EngineProfile(enum.StrEnum):
    """What becomes of the seccomp profile in the engine's config.json."""

    TIGHTEN = "tighten"
    """What it denies stays denied; what a system container needs is allowed."""
    IGNORE = "ignore"
    """It is dropped."""


@dataclass(frozen=True, slots=True)
class Match:
    """To which containers a policy applies by itself; every part that is given must hold."""

    image: tuple[str, ...] = ()
    """Globs, one of which matches the image's name."""
    annotations: tuple[tuple[str, str], ...] = ()
    """(key, glob): all of them."""
    labels: tuple[tuple[str, str], ...] = ()
    """(key, glob): all of them."""
    digest: tuple[str, ...] = ()
    """``sha256:…`` of the image or of its manifest, one of which is the container's."""
    runtime: tuple[str, ...] = ()
    """Globs for the name of the OCI runtime underneath."""
    namespace: tuple[str, ...] = ()
    """Globs for the Kubernetes namespace."""
    pod_labels: tuple[tuple[str, str], ...] = ()
    """(key, glob) of the Kubernetes pod's labels: all of them."""


@dataclass(frozen=True, slots=True)
class Told:
    """What is known of a container when a policy is chosen for it."""

    image: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    digests: frozenset[str] = frozenset()
    """``sha256:…`` of the image's configuration (which engines call its id), its manifest, or its index."""
    runtime: str = ""
    namespace: str | None = None
    pod_labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Case:
    """One of a policy's own tests: what a call is expected to get."""

    place: str
    """``file:line``."""
    call: str
    """As strace writes it."""
    expected: Decision
    caller: Caller
    rung: str = ""
    """Who answers (`explain.Rung`); empty: whoever does."""


@dataclass(frozen=True, slots=True)
class Policy:
    """One resolved policy (its `extends` folded in)."""

    name: str
    origin: str
    """The file, as the administrator knows it."""
    capabilities: str = "all"
    """"all": every capability inside the container's user namespace; "engine": what the engine's config.json gives."""
    id_range_size: int = 65536
    limits: Limits = field(default_factory=Limits)
    description: str = ""
    default: Decision = Decision(Do.NATIVE, BUILT_IN)
    """For an intercepted call whose rules do not decide."""
    rules: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)
    """Per call, in order; the first that holds decides."""
    filesystems: Mapping[str, FilesystemDecision] = field(default_factory=dict)
    """By filesystem type; "*" for every other."""
    engine_profile: EngineProfile = EngineProfile.TIGHTEN
    overlay_nodes: bool = False
    """Every overlay is mounted by us, so that device nodes can be made in it."""
    immutable_mounts: bool = True
    """umount2(2) of mounts that existed when the container was created fails with EBUSY."""
    devices: Mapping[str, LentDevice] = field(default_factory=dict)
    """What can be mounted of the host's block devices, by the name (``/dev/NAME``) that the container says."""
    kmsg: Kmsg = Kmsg.NONE
    leaves: LeafScope = LeafScope.OWN
    """Where the files of proc and sysfs that would tell of the host are covered, one by one."""
    hidden: tuple[str, ...] = ()
    """Files and directories of proc and sysfs that are empty to the container, with `leaves`."""
    selectable: bool = False
    """A container may choose this policy by annotation or label."""
    match: Match | None = None
    cases: tuple[Case, ...] = ()
    """Of the file itself; not inherited."""
    _compiled: Mapping[str, tuple[tuple[Callable[[Any, Caller], bool], Decision], ...]] = field(
        init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        compiled = {call: tuple((r.test(), r.decision) for r in rules) for call, rules in self.rules.items() if rules}
        object.__setattr__(self, "_compiled", compiled)

    def decide(self, call: str, args: Any, caller: Caller) -> Decision:
        """The first rule for `call` whose conditions hold; the policy's default otherwise.

        `args` is an instance of the call's args class, with the fields that the rules name.
        """
        for holds, decision in self._compiled.get(call, ()):
            if holds(args, caller):
                return decision
        return self.default

    def filesystem(self, fstype: bytes) -> FilesystemDecision:
        """The entry for a filesystem type; a subtype without one (``fuse.sshfs``) is its type, as for get_fs_type()."""
        name = fstype.decode(errors="surrogateescape")
        table = self.filesystems
        return table.get(name) or table.get(name.partition(".")[0]) or table.get("*") or _KERNELS_ANSWER

    def device(self, source: bytes | None, fstype: bytes) -> LentDevice | None:
        """What `source` names as a device, for a mount of such a type."""
        if not self.devices or source is None or fstype.decode(errors="surrogateescape") not in BLOCK_FILESYSTEMS:
            return None
        return self.devices.get(source.decode(errors="surrogateescape"))

    @property
    def device_types(self) -> frozenset[str]:
        """For which the source decides."""
        return BLOCK_FILESYSTEMS if self.devices else frozenset()

    @property
    def leaves_everywhere(self) -> bool:
        return self.leaves is LeafScope.EVERYWHERE

    def ladder(self, call: str) -> tuple[Rule, ...]:
        """The rules for `call`, in order, ending with one that always holds (the default, if need be)."""
        rules = self.rules.get(call, ())
        for i, rule in enumerate(rules):
            if rule.unconditional:
                return rules[: i + 1]
        return (*rules, Rule(self.default))


_KERNELS_ANSWER = FilesystemDecision(Mount.NATIVE, BUILT_IN)
