"""Policy files: the search path, loading all of them at once, `extends`, and the choice of a policy for a container.

Loading is all or nothing: one broken file, and the set that was there stays; every error of every file is reported at
once. How one file is read stands in `policy_grammar`, how a choice is made in `policy_choice`.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from interceptor import policy_choice, registry
from interceptor.errors import ConfigError, PolicyError
from interceptor.policy import OFF, Decision, Do, Policy, Rule, Told
from interceptor.policy_grammar import PolicyFile, Rows, read_policy
from interceptor.policy_limits import limits_of
from interceptor.strict_yaml import Place, Problems, unknown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

T = TypeVar("T")

SHIPPED = Path(__file__).parent / "policies"
"""The policies of the package; their decisions show bare file names."""
LOCAL = Path("/etc/interceptor/policies")
SELECT = "interceptor.policy"
"""The annotation or label by which a container asks for a policy."""
FALLBACK = "default"
"""The policy of a container that nothing else matches."""


def search_path(environ: Mapping[str, str]) -> list[Path]:
    """Directories with policies, strongest first: the administrator's, then the package's."""
    return [Path(environ.get("INTERCEPTOR_POLICIES") or LOCAL), SHIPPED]


@dataclass(frozen=True, slots=True)
class PolicySet:
    """All policies of one load, resolved and checked against each other."""

    policies: Mapping[str, Policy]
    candidates: Sequence[policy_choice.Candidate] = ()

    def get(self, name: str) -> Policy:
        """A policy by name. Raises ConfigError with the names there are."""
        if name not in self.policies:
            raise ConfigError(f"there is no policy {name!r}; there are: {', '.join(sorted(self.policies))}")
        return self.policies[name]

    def choose(self, told: Told) -> Policy:
        """The policy that the container asks for, if it may; else the most specific match; else `default`.

        Raises ConfigError for a policy that does not exist or may not be asked for: a container that names one must
        not quietly run with another.
        """
        for source, values in (("annotation", told.annotations), ("label", told.labels)):
            if SELECT in values:
                return self._selected(values[SELECT], source)
        for candidate in self.candidates:
            if candidate.holds(told):
                return candidate.policy
        return self.get(FALLBACK)

    def _selected(self, name: str, source: str) -> Policy:
        selectable = sorted(p.name for p in self.policies.values() if p.selectable)
        offer = f"a container may choose: {', '.join(selectable) or 'none'}"
        found = self.policies.get(name)
        if found is None:
            raise ConfigError(f"{source} {SELECT}={name!r}: there is no such policy; {offer}")
        if not found.selectable:
            raise ConfigError(f"{source} {SELECT}={name!r}: {found.origin} does not say `selectable: true`; {offer}")
        return found


def load_all(directories: Sequence[Path], rows: Rows | None = None) -> PolicySet:
    """Every ``*.yaml`` in `directories`; a file in an earlier directory replaces one of the same name in a later one.

    `rows` is the vocabulary (default: registry.load()). A directory that does not exist holds no policies. Raises
    PolicyErrors with every mistake of every file.
    """
    vocabulary = registry.load() if rows is None else rows
    problems, files = Problems(), []
    for rank, directory in enumerate(directories):
        for path in _files(directory):
            with problems:
                files.append(_load(path, rank, vocabulary, problems))
    policies = _Resolver(files, vocabulary, problems).policies() if not problems.errors else {}
    problems.report()
    found = policy_choice.candidates(policies.values())
    with problems:
        _check(policies, found, problems)
    problems.report()
    return PolicySet(policies, found)


def remember(directories: Sequence[Path], kept: Path) -> None:
    """Copies the files of a good load, but for the package's own, to `kept`: what a supervisor goes back to that takes over
    while somebody is in the middle of changing them. Replaced as a whole.
    """
    draft, old = kept.with_name(kept.name + ".new"), kept.with_name(kept.name + ".old")
    for left in (draft, old):
        shutil.rmtree(left, ignore_errors=True)
    draft.mkdir(mode=0o700)
    for directory in reversed([d for d in directories if d != SHIPPED]):
        for path in _files(directory):
            (draft / path.name).write_bytes(path.read_bytes())
    if kept.exists():
        kept.rename(old)
    draft.rename(kept)
    shutil.rmtree(old, ignore_errors=True)


def _files(directory: Path) -> list[Path]:
    return sorted(directory.glob("[!.]*.yaml")) if directory.is_dir() else []


def check(path: Path, directories: Sequence[Path], rows: Rows | None = None) -> Policy:
    """One file as it would be if it stood before `directories`. Raises PolicyErrors."""
    vocabulary = registry.load() if rows is None else rows
    problems = Problems()
    own = _load(path, -1, vocabulary, problems)
    problems.report()
    others = [p for d in directories for p in _files(d)]
    rank = {d: i for i, d in enumerate(directories)}
    files = [_load(p, rank[p.parent], vocabulary, problems) for p in others if not p.samefile(path)]
    problems.report()
    resolved = _Resolver([own, *files], vocabulary, problems).policies()
    problems.report()
    return resolved[own.name]


def _check(policies: Mapping[str, Policy], found: Sequence[policy_choice.Candidate], problems: Problems) -> None:
    """What only all files together show."""
    for a, b in policy_choice.ties(found):
        problems.errors.append(
            PolicyError(
                b.policy.origin,
                f"match is as specific as that of {a.policy.origin} and a container could satisfy both"
                f" ({_shown(a)}; {_shown(b)}); add a condition to one of them",
            )
        )
    if FALLBACK not in policies:
        raise PolicyError(f"{FALLBACK}.yaml", "there is no such policy; it is for containers that nothing else matches")


def _shown(candidate: policy_choice.Candidate) -> str:
    match = candidate.match
    image = f"image {candidate.image}" if candidate.image is not None else "any image"
    pairs = (*match.annotations, *match.labels, *match.pod_labels)
    others = [f"{key} {' or '.join(v)}" for key in ("digest", "runtime", "namespace") if (v := getattr(match, key))]
    return " ".join([image, *others, *(f"{key}={pattern}" for key, pattern in pairs)])


_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


def _load(path: Path, rank: int, rows: Rows, problems: Problems) -> PolicyFile:
    shown = path.name if path.parent == SHIPPED else os.path.abspath(path)  # noqa: PTH100 - resolve() would follow links
    if not _NAME.fullmatch(path.stem):
        raise PolicyError(shown, f"{path.stem!r} is no policy name: lower-case letters, digits, '.', '_' and '-'")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PolicyError(shown, f"cannot be read: {error.strerror}") from None
    return read_policy(data, shown, rows, problems, name=path.stem, rank=rank)


# Extends


class _Resolver:
    """Folds `extends` in.

    A file's own entries win over those of what it extends; of several that it extends, the first named wins. Rules are
    lists, so "wins" means "is asked first". A file comes before all that it extends, however many ways lead there.
    """

    def __init__(self, files: Sequence[PolicyFile], rows: Rows, problems: Problems) -> None:
        self.problems = problems
        self.optional = [name for name, row in rows.items() if row.optional]
        self.by_name: dict[str, list[PolicyFile]] = {}
        for file in sorted(files, key=lambda f: f.rank):
            self.by_name.setdefault(file.name, []).append(file)

    def policies(self) -> dict[str, Policy]:
        """The strongest file of each name, resolved; mistakes go to `problems`."""
        resolved = {}
        for name, files in sorted(self.by_name.items()):
            with self.problems:
                resolved[name] = _fold(self._order(files[0]), self.optional)
        return resolved

    def _order(self, top: PolicyFile) -> list[PolicyFile]:
        """`top` and all that it extends, each before what it extends itself."""
        done: list[PolicyFile] = []

        def visit(file: PolicyFile, path: tuple[PolicyFile, ...]) -> None:
            if file in done:
                return
            for place, name in reversed(file.extends):
                base = self._base(file, place, name)
                if base in (*path, file):
                    names = " → ".join(f.name for f in (*path, file, base))
                    raise PolicyError(str(place), f"policies extend each other in a circle: {names}")
                visit(base, (*path, file))
            done.append(file)

        visit(top, ())
        return done[::-1]

    def _base(self, file: PolicyFile, place: Place, name: str) -> PolicyFile:
        """The file that `file` means by `name`: its own name means the one that it replaces."""
        found = [f for f in self.by_name.get(name, ()) if name != file.name or f.rank > file.rank]
        if found:
            return found[0]
        if name == file.name:
            raise PolicyError(str(place), f"extends itself, and there is no other {name!r} that it replaces")
        raise unknown(place, "policy", name, set(self.by_name) - {file.name})


def _fold(order: Sequence[PolicyFile], optional: Iterable[str]) -> Policy:
    """One policy of files, the strongest first; `optional` are the calls that are off where no rule decides."""
    own = order[0]
    default = _first(f.default for f in order)
    if default is None:
        what = "no `default:`, neither here nor in what this extends; it says emulate, native or {deny: ERRNO}"
        raise PolicyError(str(own.top), what)
    base = Policy(own.name, own.origin)
    return replace(
        base,
        description=own.description,
        selectable=own.selectable,
        match=own.match,
        cases=tuple(own.cases),
        default=default,
        rules=_rules(order, optional),
        filesystems={name: d for f in reversed(order) for name, d in f.filesystems.items()},
        capabilities=_first(f.capabilities for f in order) or base.capabilities,
        engine_profile=_first(f.engine_profile for f in order) or base.engine_profile,
        id_range_size=_first(f.id_range_size for f in order) or base.id_range_size,
        hidden=found if (found := _first(f.hidden for f in order)) is not None else base.hidden,
        devices={name: d for f in reversed(order) for name, d in f.devices.items()},
        kmsg=_first(f.kmsg for f in order) or base.kmsg,
        leaves=_first(f.leaves for f in order) or base.leaves,
        overlay_nodes=bool(_first(f.overlay_nodes for f in order)),
        immutable_mounts=base.immutable_mounts if (m := _first(f.immutable_mounts for f in order)) is None else m,
        limits=limits_of(f.limits for f in reversed(order)),
    )


def _first(values: Iterable[T | None]) -> T | None:
    return next((v for v in values if v is not None), None)


def _rules(order: Sequence[PolicyFile], optional: Iterable[str]) -> dict[str, tuple[Rule, ...]]:
    """Per call the rules of all files in order, up to the first that always holds; for `optional` ones there is one."""
    found: dict[str, list[Rule]] = {}
    for file in order:
        for call, rules in file.rules.items():
            known = found.setdefault(call, [])
            if not known or not known[-1].unconditional:
                known.extend(rules)
    for call in optional:
        known = found.setdefault(call, [])
        if not known or not known[-1].unconditional:
            known.append(Rule(Decision(Do.NATIVE, OFF)))
    return {call: tuple(rules) for call, rules in sorted(found.items())}
