"""Which policy applies to a container: the most specific `match`, and when two are equally specific.

The order, from the strongest criterion on:

1. more `annotations` conditions (who starts the container wrote them, for this container),
2. more `labels` conditions,
3. an image name without wildcards before one with wildcards before none,
4. more characters in the image pattern that are not wildcards.

Two matches that are equal in all four and that one container could satisfy both are a *tie*, an error when the files
are loaded, never a surprise when a container starts.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from interceptor.patterns import glob_test, is_glob

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from interceptor.policy import Match, Policy


@dataclass(frozen=True, slots=True)
class Candidate:
    """A policy with one of its image patterns (None: any image, also an unknown one)."""

    policy: Policy
    match: Match
    image: str | None

    @property
    def specificity(self) -> tuple[int, int, int, int]:
        """Comparable; greater is more specific."""
        image = self.image
        kind = 0 if image is None else 1 if is_glob(image) else 2
        return len(self.match.annotations), len(self.match.labels), kind, _literal_length(image or "")

    def holds(self, image: str | None, annotations: Mapping[str, str], labels: Mapping[str, str]) -> bool:
        if self.image is not None and (image is None or not image_matches(self.image, image)):
            return False
        return _all_match(self.match.annotations, annotations) and _all_match(self.match.labels, labels)

    def overlaps(self, other: Candidate) -> bool:
        """Whether one container could satisfy both."""
        return (
            _images_overlap(self.image, other.image)
            and _pairs_overlap(self.match.annotations, other.match.annotations)
            and _pairs_overlap(self.match.labels, other.match.labels)
        )


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


