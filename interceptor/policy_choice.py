"""Which policy applies to a container: the most specific `match`, and when two are equally specific.

The order, from the strongest criterion on:

1. more `annotations` conditions (who starts the container wrote them, for this container),
2. more `labels` conditions, then more `pod-labels`,
3. a `namespace` without wildcards before one with wildcards before none, then one with more characters that are not,
4. a `digest`,
5. an image name without wildcards before one with wildcards before none, then one with more characters that are not,
6. the same of the `runtime`.

Two matches that are equal in all of these and that one container could satisfy both are a *tie*, an error when the files
are loaded, never a surprise when a container starts.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from interceptor.patterns import glob_test, is_glob

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from interceptor.policy import Match, Policy, Told


@dataclass(frozen=True, slots=True)
class Candidate:
    """A policy with one of its image patterns (None: any image, also an unknown one)."""

    policy: Policy
    match: Match
    image: str | None

    @property
    def specificity(self) -> tuple[int, ...]:
        """Comparable; greater is more specific."""
        match, image = self.match, self.image
        return (
            len(match.annotations), len(match.labels), len(match.pod_labels), *_closeness(match.namespace),
            int(bool(match.digest)), *_closeness((image,) if image is not None else ()), *_closeness(match.runtime),
        )  # fmt: skip

    def holds(self, told: Told) -> bool:
        match = self.match
        if self.image is not None and (told.image is None or not image_matches(self.image, told.image)):
            return False
        if match.digest and told.digests.isdisjoint(match.digest):
            return False
        return (
            _any_match(match.runtime, told.runtime)
            and _any_match(match.namespace, told.namespace)
            and _all_match(match.annotations, told.annotations)
            and _all_match(match.labels, told.labels)
            and _all_match(match.pod_labels, told.pod_labels)
        )

    def overlaps(self, other: Candidate) -> bool:
        """Whether one container could satisfy both. An image may have several digests: they never exclude each other."""
        mine, theirs = self.match, other.match
        return (
            _images_overlap(self.image, other.image)
            and _any_overlap(mine.runtime, theirs.runtime)
            and _any_overlap(mine.namespace, theirs.namespace)
            and _pairs_overlap(mine.annotations, theirs.annotations)
            and _pairs_overlap(mine.labels, theirs.labels)
            and _pairs_overlap(mine.pod_labels, theirs.pod_labels)
        )


def _closeness(patterns: Sequence[str]) -> tuple[int, int]:
    """Of alternatives, by the loosest: (2: no wildcards, 1: some, 0: no patterns; characters that are no wildcards)."""
    return min(((1 if is_glob(p) else 2, _literal_length(p)) for p in patterns), default=(0, 0))


def _any_match(patterns: Sequence[str], value: str | None) -> bool:
    return not patterns or (value is not None and any(glob_test(pattern)(value) for pattern in patterns))


def _any_overlap(a: Sequence[str], b: Sequence[str]) -> bool:
    return not a or not b or any(globs_overlap(x, y) for x in a for y in b)


def candidates(policies: Iterable[Policy]) -> list[Candidate]:
    """Every policy with a `match`, once per image pattern; most specific first."""
    found = [Candidate(p, p.match, image) for p in policies if p.match for image in p.match.image or (None,)]
    return sorted(found, key=lambda c: c.specificity, reverse=True)


def ties(found: Iterable[Candidate]) -> Iterator[tuple[Candidate, Candidate]]:
    """Pairs of different policies between which nothing decides."""
    for _, group in itertools.groupby(found, key=lambda c: c.specificity):
        for a, b in itertools.combinations(group, 2):
            if a.policy.name != b.policy.name and a.overlaps(b):
                yield a, b


def familiar_image(name: str) -> str:
    """An image name as people write it, with a tag or digest: ``docker.io/library/debian`` → ``debian:latest``.

    Source: distribution/reference, "familiar names".
    """
    for prefix in ("docker.io/library/", "index.docker.io/library/", "docker.io/", "index.docker.io/"):
        if name.startswith(prefix):
            name = name.removeprefix(prefix)
            break
    return name if _has_tag(name) else name + ":latest"


def image_matches(pattern: str, image: str) -> bool:
    """A pattern without tag and digest is compared with the name alone; others with name and tag (or digest)."""
    image = familiar_image(image)
    if not _has_tag(pattern):
        image = _TAG.sub("", image)
    return glob_test(pattern)(image)


_TAG = re.compile(r"(:[^/@:]*)?(@[^/@]*)?\Z")


def _has_tag(name: str) -> bool:
    last = name.rpartition("/")[2]
    return ":" in last or "@" in last


def _all_match(wanted: Iterable[tuple[str, str]], values: Mapping[str, str]) -> bool:
    return all(key in values and glob_test(pattern)(values[key]) for key, pattern in wanted)


def _images_overlap(a: str | None, b: str | None) -> bool:
    if a is None or b is None:
        return True
    return any(globs_overlap(x, y) for x in _with_any_tag(a) for y in _with_any_tag(b))


def _with_any_tag(pattern: str) -> tuple[str, ...]:
    return (pattern,) if _has_tag(pattern) else (pattern + ":*", pattern + "@*")


def _pairs_overlap(a: Iterable[tuple[str, str]], b: Iterable[tuple[str, str]]) -> bool:
    others = dict(b)
    return all(key not in others or globs_overlap(pattern, others[key]) for key, pattern in a)


_GLOB_PART = re.compile(r"\[!?\]?[^]]*\]|.", re.DOTALL)


def _literal_length(pattern: str) -> int:
    return sum(len(part) == 1 and part not in "*?" for part in _GLOB_PART.findall(pattern))


def globs_overlap(a: str, b: str) -> bool:
    """Whether some text matches both patterns.

    Walks both at once; the states are pairs of positions, so it takes at most len(a) × len(b) steps. Two bracket
    sets are taken to share a character: at worst a tie is reported that only an odd pair of sets would avoid.
    """
    x, y = _GLOB_PART.findall(a), _GLOB_PART.findall(b)
    reached, todo = {(0, 0)}, [(0, 0)]
    while todo:
        i, j = todo.pop()
        if i == len(x) and j == len(y):
            return True
        for state in _steps(x, y, i, j):
            if state not in reached:
                reached.add(state)
                todo.append(state)
    return False


def _steps(x: list[str], y: list[str], i: int, j: int) -> Iterator[tuple[int, int]]:
    """Where one more character, or the end of a star, leads."""
    left, right = (x[i] if i < len(x) else None), (y[j] if j < len(y) else None)
    if left == "*":
        yield i + 1, j
        if right is not None:
            yield i, j + 1
    if right == "*":
        yield i, j + 1
        if left is not None:
            yield i + 1, j
    if left is not None and right is not None and "*" not in (left, right) and _share(left, right):
        yield i + 1, j + 1


def _share(left: str, right: str) -> bool:
    """Whether one character can be both tokens'."""
    if len(left) == len(right) == 1 and "?" not in (left, right):
        return left == right
    brackets, single = (left, right) if len(left) > 1 else (right, left)
    if len(brackets) > 1 and len(single) == 1 and single != "?":
        return glob_test(brackets)(single)
    return True


