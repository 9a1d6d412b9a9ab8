"""The grammar of policy files: one YAML document → one PolicyFile, unresolved.

Strict: a rule that names an unknown call, field or flag, or tests a field with the wrong kind of value, is an error
with `file:line:column`, what was found and what is allowed. What a rule may name follows from the registry: a call
that a plugin registered is in the vocabulary too. A new key is one more reader in `_Reader.keys()`, a new kind of
condition one more branch in `condition()`.

Described for people in policies/README.md and for editors by docs/policy.schema.json (see `docgen`).
"""

from __future__ import annotations

import errno
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from interceptor.args import Buffer, Field, Flags, Integer, Kind, String
from interceptor.errors import PolicyError
from interceptor.policy import (
    Caller,
    Case,
    Condition,
    Decision,
    Do,
    EngineProfile,
    FilesystemDecision,
    FlagSet,
    Kmsg,
    LeafScope,
    Match,
    Mount,
    Numbers,
    Rule,
    Text,
    Truth,
    Within,
)
from interceptor.policy_limits import Given, fuse_programs, lent_devices, limit_readers, program
from interceptor.strict_yaml import (
    List,
    Map,
    Node,
    Place,
    Problems,
    Scalar,
    choice,
    entries,
    integer,
    is_null,
    items,
    mapping,
    one_or_more,
    parse,
    text,
    truth,
    unknown,
    whole_number,
    wrong,
)

if TYPE_CHECKING:
    from interceptor.limits import LentDevice
    from interceptor.registry import Syscall

T = TypeVar("T")
Rows = Mapping[str, "Syscall"]


@dataclass(slots=True)
class PolicyFile:
    """One file as written; None is what it leaves to what it extends."""

    name: str
    origin: str
    rank: int
    """Of its directory in the search path; lower is stronger."""
    top: Place
    extends: list[tuple[Place, str]] = field(default_factory=list)
    description: str = ""
    selectable: bool = False
    match: Match | None = None
    default: Decision | None = None
    rules: dict[str, tuple[Rule, ...]] = field(default_factory=dict)
    filesystems: dict[str, FilesystemDecision] = field(default_factory=dict)
    devices: dict[str, LentDevice] = field(default_factory=dict)
    capabilities: str | None = None
    engine_profile: EngineProfile | None = None
    id_range_size: int | None = None
    overlay_nodes: bool | None = None
    immutable_mounts: bool | None = None
    kmsg: Kmsg | None = None
    leaves: LeafScope | None = None
    hidden: tuple[str, ...] | None = None
    limits: Given = field(default_factory=dict)
    cases: list[Case] = field(default_factory=list)


def read_policy(data: bytes, origin: str, rows: Rows, problems: Problems, *, name: str, rank: int = 0) -> PolicyFile:
    """The file's content as values; mistakes go to `problems`, except those that leave nothing to read."""
    document = parse(data, origin, problems)
    if document is None:
        raise PolicyError(f"{origin}:1:1", "the file is empty; a policy says at least `default:` or `extends:`")
    file = PolicyFile(name, origin, rank, document.place)
    entries(document, "a policy", _Reader(file, rows, problems).keys(), problems)
    return file


_HIDDEN = re.compile(r"/(?:proc|sys)(?:/(?!\.\.?(?:/|\Z))[^/\s]+)+")
_NOBODYS = re.compile(r"/proc/(?:[0-9]+|self|thread-self|net|mounts|sys/net)(?:/.*)?")


def hidden_path(node: Node) -> str:
    """A path below /proc or /sys that is the same for every reader."""
    path = text(node, "a path")
    if not _HIDDEN.fullmatch(path):
        raise wrong(node, "an absolute path of a file or directory below /proc or /sys")
    if _NOBODYS.fullmatch(path):
        raise wrong(node, "a path that is the same for every process and network namespace")
    return path


class _Reader:
    """Reads the keys of one file into a PolicyFile."""

    def __init__(self, file: PolicyFile, rows: Rows, problems: Problems) -> None:
        self.file = file
        self.rows = rows
        self.problems = problems

    def keys(self) -> dict[str, Callable[[Node], None]]:
        """What may stand at the top of a file."""
        return {
            "description": self._sets("description", text),
            "extends": self._extends,
            "selectable": self._sets("selectable", truth),
            "match": self._match,
            "default": self._sets("default", decision),
            "calls": self._calls,
            "filesystems": self._filesystems,
            "capabilities": self._sets("capabilities", lambda n: choice(n, "capabilities", CAPABILITIES)),
            "seccomp": self._seccomp,
            "ids": self._ids,
            "limits": self._limits,
            "mount": self._mount,
            "tests": self._tests,
            "immutable-mounts": self._sets("immutable_mounts", truth),
            "hidden": self._hidden,
            "kmsg": self._sets("kmsg", lambda node: Kmsg(choice(node, "kmsg", Kmsg))),
            "leaves": self._sets("leaves", lambda node: LeafScope(choice(node, "leaves", LeafScope))),
        }

    def _sets(self, attribute: str, read: Callable[[Node], T]) -> Callable[[Node], None]:
        return lambda node: setattr(self.file, attribute, read(node))

    def _extends(self, node: Node) -> None:
        self.file.extends = items(node, lambda n: (n.place, text(n, "a policy's name")), self.problems, "policies")

    def _hidden(self, node: Node) -> None:
        self.file.hidden = tuple(items(node, hidden_path, self.problems, "paths"))

    def _match(self, node: Node) -> None:
        found: dict[str, tuple[str, ...] | tuple[tuple[str, str], ...]] = {}
        readers: dict[str, Callable[[Node], None]] = {
            "image": lambda n: found.update(image=tuple(glob(p) for p in one_or_more(n))),
            "annotations": lambda n: found.update(annotations=self._patterns(n)),
            "labels": lambda n: found.update(labels=self._patterns(n)),
            "digest": lambda n: found.update(digest=tuple(_digest(d) for d in one_or_more(n))),
            "runtime": lambda n: found.update(runtime=tuple(glob(p) for p in one_or_more(n))),
            "namespace": lambda n: found.update(namespace=tuple(glob(p) for p in one_or_more(n))),
            "pod-labels": lambda n: found.update(pod_labels=self._patterns(n)),
        }
        entries(node, "match", readers, self.problems)
        if not any(found.values()):
            raise wrong(node, f"at least one of {', '.join(readers)}")
        self.file.match = Match(**found)  # type: ignore[arg-type] # each key's reader gives its field's type

    def _patterns(self, node: Node) -> tuple[tuple[str, str], ...]:
        return tuple((key, glob(value)) for key, (_, value) in mapping(node, "key: glob").entries.items())

    def _calls(self, node: Node) -> None:
        for call, (place, rules) in mapping(node, "call: rules").entries.items():
            with self.problems:
                if call not in self.rows:
                    raise unknown(place, "call", call, self.rows)
                found = items(rules, RuleReader(self.rows[call]).read, self.problems, "rules")
                self._reachable(call, found, rules)
                self.file.rules[call] = tuple(found)

    def _reachable(self, call: str, rules: list[Rule], node: Node) -> None:
        """A rule after one that always holds is a mistake: it looks as if it did something."""
        if not isinstance(node, List) or len(rules) < len(node.items):
            return  # some could not be read; first things first
        for rule, following in zip(rules, node.items[1:], strict=False):
            if rule.unconditional:
                raise PolicyError(str(following.place), f"never reached: {rule.decision.rule} decides every {call}")

    def _filesystems(self, node: Node) -> None:
        for name, (place, value) in mapping(node, "filesystem type: what it gets").entries.items():
            with self.problems:
                if not FILESYSTEM.fullmatch(name):
                    raise PolicyError(str(place), f"{name!r} is no filesystem type, and not * for every other one")
                self.file.filesystems[name] = filesystem_decision(value, place)

    def _tests(self, node: Node) -> None:
        self.file.cases = items(node, self._case, self.problems, "cases")

    def _case(self, node: Node) -> Case:
        found: dict[str, Any] = {"caller": Caller(uid=0)}
        readers: dict[str, Callable[[Node], None]] = {
            "call": lambda n: found.update(call=text(n, "a call, as strace writes it")),
            "expect": lambda n: found.update(expected=decision(n)),
            "caller": lambda n: found.update(caller=self._caller(n)),
            "rung": lambda n: found.update(rung=choice(n, "rung", RUNGS)),
        }
        entries(node, "a case", readers, self.problems)
        for key, name in (("call", "call"), ("expected", "expect")):
            if key not in found:
                raise PolicyError(str(node.place), f"a case without `{name}:`; it says what call is expected to get what")
        return Case(place=node.place.rule, **found)

    def _caller(self, node: Node) -> Caller:
        found: dict[str, Any] = {"uid": 0}
        readers: dict[str, Callable[[Node], None]] = {
            "uid": lambda n: found.update(uid=integer(n, "a uid", 0, (1 << 32) - 1)),
            "nested": lambda n: found.update(nested=truth(n)),
            "inner": lambda n: found.update(inner=truth(n)),
            "executable": lambda n: found.update(executable=text(n, "a path").encode()),
        }
        entries(node, "a caller", readers, self.problems)
        return Caller(**found)

    def _seccomp(self, node: Node) -> None:
        def engine_profile(value: Node) -> None:
            self.file.engine_profile = EngineProfile(choice(value, "engine-profile", EngineProfile))

        entries(node, "seccomp", {"engine-profile": engine_profile}, self.problems)

    def _ids(self, node: Node) -> None:
        def size(value: Node) -> None:
            self.file.id_range_size = integer(value, "a number of ids", 1, ID_RANGE_MAX)

        entries(node, "ids", {"size": size}, self.problems)

    def _limits(self, node: Node) -> None:
        entries(node, "limits", limit_readers(self.file.limits, self.problems), self.problems)

    def _mount(self, node: Node) -> None:
        """`mount.fuse` is another way to write `filesystems: {TYPE: {fuse: PROGRAM}}`; an entry there says it better."""

        def add(fstype: str, program: str, rule: str) -> None:
            self.file.filesystems.setdefault(fstype, FilesystemDecision(Mount.FUSE, rule, program=program))

        entries(
            node,
            "mount",
            {
                "fuse": lambda value: fuse_programs(value, self.problems, add),
                "devices": lambda value: lent_devices(value, self.problems, self.file.devices),
                "overlay-nodes": self._sets("overlay_nodes", truth),
            },
            self.problems,
        )


CAPABILITIES = ("all", "engine")
RUNGS = ("kernel", "filter", "table", "handler")
"""explain.Rung."""
ID_RANGE_MAX = 1 << 31
FILESYSTEM = re.compile(r"\*|[A-Za-z0-9_][A-Za-z0-9_.+-]*")


def _digest(node: Node) -> str:
    """``sha256:`` and 64 digits."""
    digest = text(node, "a digest")
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise wrong(node, "a digest, sha256: and 64 hexadecimal digits,")
    return digest


def glob(node: Node) -> str:
    """A pattern as in `policy.Text`."""
    pattern = text(node, "a pattern")
    if re.search(r"\[(?!!?\]?[^]]*\])", pattern):
        raise PolicyError(str(node.place), f"{pattern!r}: '[' without ']'; a literal '[' is written [[]")
    if "\0" in pattern:
        raise PolicyError(str(node.place), "a NUL, which no string of a system call holds")
    return pattern


# Decisions


def decision(node: Node) -> Decision:
    """``emulate``, ``native``, ``pretend``, ``kill``, ``stop``, ``deny`` (EPERM) or ``{deny: ERRNO}``."""
    if isinstance(node, Map):
        return Decision(Do.DENY, node.place.rule, _denied(node))
    do = Do(choice(node, "decision", Do))
    return Decision(do, node.place.rule, errno.EPERM if do is Do.DENY else 0)


def filesystem_decision(node: Node, place: Place) -> FilesystemDecision:
    """``native``, ``emulate``, ``stand-in``, ``deny`` (EPERM), ``{deny: ERRNO}`` or ``{fuse: PROGRAM}``."""
    if isinstance(node, Map):
        if list(node.entries) == [str(Mount.FUSE)]:
            return FilesystemDecision(Mount.FUSE, place.rule, program=program(node.entries[Mount.FUSE][1]))
        return FilesystemDecision(Mount.DENY, place.rule, _denied(node))
    mount = Mount(choice(node, "decision", set(Mount) - {Mount.FUSE}))
    return FilesystemDecision(mount, place.rule, errno.EPERM if mount is Mount.DENY else 0)


ERRNOS = {name: number for number, name in errno.errorcode.items()} | {"ENOTSUP": errno.EOPNOTSUPP}
"""By name, as policies write them; the kernel has one number for ENOTSUP and EOPNOTSUPP."""


def _denied(node: Map) -> int:
    """The errno in ``{deny: ERRNO}``."""
    if list(node.entries) != ["deny"]:
        raise wrong(node, "a decision, as a word or as {deny: ERRNO}")
    value = node.entries["deny"][1]
    name = text(value, "the name of an errno (EPERM, ENOSYS, …)")
    if name not in ERRNOS:
        what = unknown(value.place, "errno", name, ERRNOS).what.partition(" (there")[0]
        raise PolicyError(str(value.place), f"{what} (errno(3) lists them)")
    return ERRNOS[name]


# Rules


class RuleReader:
    """Reads the rules of one call; conditions are typed by the call's args class."""

    def __init__(self, row: Syscall) -> None:
        self.row = row
        self.fields = {f.name: f for f in row.signature.fields}

    def read(self, node: Node) -> Rule:
        """The rule at `node`. Raises PolicyErrors with everything that is wrong with it."""
        problems = Problems()
        decisions: list[Decision] = []
        args: list[tuple[str, Condition]] = []
        caller: list[tuple[str, Condition]] = []
        logged: list[bool] = []
        readers: dict[str, Callable[[Node], None]] = {
            "when": lambda n: self._when(n, args, caller, problems),
            "do": lambda n: decisions.append(decision(n)),
            "log": lambda n: logged.append(truth(n)),
        }
        entries(node, f"a rule for {self.row.name}", readers, problems)
        problems.report()
        if not decisions:
            raise PolicyError(str(node.place), "a rule without `do:`; it says emulate, native, {deny: ERRNO} …")
        decided = replace(decisions[0], rule=node.place.rule, log=any(logged))
        return Rule(decided, tuple(args), tuple(caller))

    def _when(
        self,
        node: Node,
        args: list[tuple[str, Condition]],
        caller: list[tuple[str, Condition]],
        problems: Problems,
    ) -> None:
        conditions = mapping(node, "argument: condition").entries
        if not conditions:
            raise PolicyError(str(node.place), "an empty `when`; a rule without `when` always holds")
        for name, (place, value) in conditions.items():
            with problems:
                if name == CALLER and name not in self.fields:
                    caller.extend(self._caller(value))
                elif name in self.fields:
                    args.append((name, condition(self.fields[name], value)))
                else:
                    raise unknown(place, f"argument of {self.row.name}", name, [*self.fields, CALLER])

    def _caller(self, node: Node) -> Iterable[tuple[str, Condition]]:
        for name, (place, value) in mapping(node, "what the caller is").entries.items():
            if name not in CALLER_CONDITIONS:
                raise unknown(place, "property of a caller", name, CALLER_CONDITIONS)
            yield name, CALLER_CONDITIONS[name](value)


CALLER = "caller"
CALLER_CONDITIONS: Mapping[str, Callable[[Node], Condition]] = {
    "uid": lambda node: numbers(node, Integer(32)),
    "nested": lambda node: Truth(truth(node)),
    "inner": lambda node: Truth(truth(node)),
    "executable": lambda node: Text(tuple(glob(n) for n in one_or_more(node))),
}
assert set(CALLER_CONDITIONS) == {f.name for f in fields(Caller)}  # noqa: S101 - one table, kept whole


def condition(argument: Field, node: Node) -> Condition:
    """The condition on one argument, of the form that its kind has."""
    kind = argument.kind
    if isinstance(kind, String | Buffer):
        if isinstance(node, Map):
            return within(node)
        return Text(tuple(_pattern(p, kind) for p in one_or_more(node)))
    if isinstance(kind, Integer | Flags) and isinstance(node, Map) and MASK.intersection(node.entries):
        return masked(node, kind)
    if isinstance(kind, Flags):
        return flag_set(node, kind)
    if isinstance(kind, Integer):
        return numbers(node, kind)
    raise PolicyError(
        str(node.place), f"argument {argument.name!r} is an address that is not followed; rules cannot test it"
    )


def _pattern(node: Node, kind: Kind) -> str | None:
    if is_null(node) and isinstance(node, Scalar) and node.text == "null":
        if isinstance(kind, String) and kind.null:
            return None
        raise PolicyError(str(node.place), "null, but this argument is never NULL; in quotes it is a text")
    return glob(node)


def numbers(node: Node, kind: Integer) -> Numbers:
    """A number, its name, a range ``1..10`` (both ends included) or a list of these, within what the argument can hold."""
    return Numbers(tuple(_range(n, kind) for n in one_or_more(node)))


def _range(node: Node, kind: Integer) -> tuple[int, int]:
    least, most = bounds(kind)
    names = kind.names.__members__ if kind.names else {}
    what = f"a number or a range FIRST..LAST from {least} to {most}" + "".join(f", {name}" for name in names)
    if not isinstance(node, Scalar):
        raise wrong(node, what)
    if node.text in names:
        return int(names[node.text]), int(names[node.text])
    first, dots, last = node.text.partition("..")
    ends = whole_number(first), whole_number(last if dots else first)
    if ends[0] is None or ends[1] is None or not least <= ends[0] <= ends[1] <= most:
        raise wrong(node, what)
    return ends[0], ends[1]


def bounds(kind: Integer) -> tuple[int, int]:
    """The least and the greatest value of an argument, on the widest architecture."""
    bits = kind.bits or 64
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if kind.signed else (0, (1 << bits) - 1)


def within(node: Map) -> Within:
    """``{cidr: NETWORK}`` or a list of them."""
    if list(node.entries) != ["cidr"]:
        raise wrong(node, "a pattern, a list of patterns, or {cidr: [NETWORK, …]}")
    return Within(tuple(_network(n) for n in one_or_more(node.entries["cidr"][1])))


def _network(node: Node) -> str:
    written = text(node, "a network")
    try:
        return str(ipaddress.ip_network(written))
    except ValueError as error:
        raise PolicyError(str(node.place), f"{error} (a network is written 10.0.0.0/8 or 2001:db8::/32)") from None


MASK = frozenset({"mask", "is"})


def masked(node: Map, kind: Integer | Flags) -> FlagSet:
    """``{mask: BITS, is: BITS}``: what is left of the number under the mask."""
    if set(node.entries) != MASK:
        raise wrong(node, "{mask: BITS, is: BITS}")
    most = (1 << (kind.bits or 64)) - 1
    mask, value = (integer(node.entries[key][1], "a number", 0, most) for key in ("mask", "is"))
    if value & ~mask:
        raise PolicyError(str(node.place), f"{value & ~mask:#x} of `is` lies outside `mask`; that can never hold")
    return FlagSet(value, mask & ~value)


def flag_set(node: Node, kind: Flags) -> FlagSet:
    """``{has: [FLAG, …], not: [FLAG, …]}``."""
    parts = mapping(node, "has: [flags], not: [flags]").entries
    masks = {"has": 0, "not": 0}
    for key, (place, value) in parts.items():
        if key not in masks:
            raise unknown(place, "key of a flag condition", key, masks)
        for flag in one_or_more(value):
            masks[key] |= _flag(flag, kind)
    if not any(masks.values()):
        raise wrong(node, "a flag condition, {has: [FLAG, …], not: [FLAG, …]},")
    if masks["has"] & masks["not"]:
        both = kind.render(masks["has"] & masks["not"])
        raise PolicyError(str(node.place), f"{both} stands under `has` and under `not`")
    return FlagSet(masks["has"], masks["not"])


def _flag(node: Node, kind: Flags) -> int:
    name = text(node, "a flag's name")
    if name not in kind.names.__members__:
        raise unknown(node.place, "flag", name, kind.names.__members__)
    return int(kind.names[name])
