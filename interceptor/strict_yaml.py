"""YAML as people write configuration: places for every value, and no surprises.

PyYAML's loader would turn ``no`` into False, ``0644`` into 420 and ``1:30`` into 90, keep the last of two equal keys
and say nothing. Here a scalar is its text and the reader of a value decides what it must be; every value knows its
place; anchors, aliases, tags and several documents in a file are refused, and so is what is larger or deeper than
configuration is. One pass over libyaml's events suffices for all of that.

Source: YAML 1.1; PyYAML's event interface (yaml.parse).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import yaml

from interceptor.errors import PolicyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

SIZE_MAX = 256 * 1024
"""Bytes of one file."""
DEPTH_MAX = 16

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands; lines and columns start at 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"

    @property
    def rule(self) -> str:
        """``file:line``, as decisions and traces show it."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Scalar:
    place: Place
    text: str
    plain: bool
    """Written without quotes: only such a scalar can be a number, a truth value or null."""

    def __str__(self) -> str:
        return f"{self.text!r}" if self.text or not self.plain else "nothing"


@dataclass(frozen=True, slots=True)
class List:
    place: Place
    items: tuple[Node, ...]

    def __str__(self) -> str:
        return "a list"


@dataclass(frozen=True, slots=True)
class Map:
    place: Place
    entries: dict[str, tuple[Place, Node]]
    """Key → (place of the key, value), in the order of the file."""

    def __str__(self) -> str:
        return "a mapping"


Node: TypeAlias = Scalar | List | Map


class PolicyErrors(PolicyError):  # noqa: N818 - the plural says what it is
    """Everything that is wrong with a set of files, each with its place; one a line."""

    def __init__(self, errors: Iterable[PolicyError]) -> None:
        self.errors = tuple(errors)
        first, *others = self.errors
        super().__init__(first.where, "\n".join([first.what, *map(str, others)]))


class Problems:
    """Collects PolicyErrors: ``with problems: …`` notes the error of its body and goes on after it."""

    def __init__(self) -> None:
        self.errors: list[PolicyError] = []

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> bool:
        if isinstance(error, PolicyErrors):
            self.errors.extend(error.errors)
        elif isinstance(error, PolicyError):
            self.errors.append(error)
        return isinstance(error, PolicyError)

    def report(self) -> None:
        """Raises what was collected, if anything was, in the order of the files."""
        if self.errors:
            raise PolicyErrors(sorted(self.errors, key=_order))


def _order(error: PolicyError) -> tuple[str, list[int]]:
    """The file, then line and column as numbers."""
    file, *numbers = error.where.split(":")
    return file, [int(n) for n in numbers if n.isdecimal()]


def parse(data: bytes, file: str, problems: Problems) -> Node | None:
    """The one document in `data`; None for an empty one. Duplicate keys go to `problems`, the first is kept.

    Raises PolicyError for what is no YAML, or YAML of a kind that configuration does not need.
    """
    if len(data) > SIZE_MAX:
        raise PolicyError(f"{file}:1:1", f"{len(data)} bytes; a policy file has at most {SIZE_MAX}")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise PolicyError(_place_of(data[: error.start].decode(), file), "not UTF-8") from None
    try:
        return _document(yaml.parse(text, Loader=_Loader), file, problems)
    except yaml.reader.ReaderError as error:
        where = _place_of(text[: error.position], file)
        raise PolicyError(where, f"character {error.character:#x}: {error.reason}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = str(_place(mark, file)) if mark else f"{file}:1:1"
        raise PolicyError(where, ", ".join(filter(None, (error.context, error.problem)))) from None


def _place_of(before: str, file: str) -> str:
    line, last = before.count("\n") + 1, before.rpartition("\n")[2]
    return str(Place(file, line, len(last) + 1))


def _place(mark: Any, file: str) -> Place:
    return Place(file, mark.line + 1, mark.column + 1)


def _document(events: Iterator[Any], file: str, problems: Problems) -> Node | None:
    document: Node | None = None
    seen = False
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            if seen:
                raise PolicyError(str(_place(event.start_mark, file)), "a second document; a file holds one")
            seen = True
            document = _node(next(events), events, _Where(file, problems, depth=0))
    if isinstance(document, Scalar) and document.plain and not document.text:
        return None
    return document


@dataclass(frozen=True, slots=True)
class _Where:
    file: str
    problems: Problems
    depth: int

    def deeper(self) -> _Where:
        return _Where(self.file, self.problems, self.depth + 1)


def _node(event: Any, events: Iterator[Any], where: _Where) -> Node:
    place = _place(event.start_mark, where.file)
    if where.depth > DEPTH_MAX:
        raise PolicyError(str(place), f"nested more than {DEPTH_MAX} deep")
    if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
        raise PolicyError(str(place), "policies have no anchors and aliases; `extends` shares rules between files")
    if event.tag is not None:
        raise PolicyError(str(place), f"tag {event.tag}: policies have no tags; a value's type follows from its place")
    if isinstance(event, yaml.ScalarEvent):
        return Scalar(place, event.value, plain=not event.style)
    if isinstance(event, yaml.SequenceStartEvent):
        return List(place, tuple(_items(events, where.deeper())))
    return Map(place, _entries(events, where.deeper()))


def _items(events: Iterator[Any], where: _Where) -> Iterator[Node]:
    while not isinstance(event := next(events), yaml.SequenceEndEvent):
        yield _node(event, events, where)


def _entries(events: Iterator[Any], where: _Where) -> dict[str, tuple[Place, Node]]:
    entries: dict[str, tuple[Place, Node]] = {}
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        key = _node(event, events, where)
        value = _node(next(events), events, where)
        with where.problems:
            if not isinstance(key, Scalar) or not key.text:
                raise PolicyError(str(key.place), f"{key} as a key; a key is a name")
            if key.text in entries:
                first = entries[key.text][0]
                raise PolicyError(str(key.place), f"key {key.text!r} stands in line {first.line} already")
            entries[key.text] = (key.place, value)
    return entries


# Readers: each takes a node and either returns a value of one type or raises PolicyError with what was found and what
# would be right. They are put together by the readers of files.


def wrong(node: Node, what: str) -> PolicyError:
    """The error for a value that is not `what`."""
    return PolicyError(str(node.place), f"{node} stands where {what} is expected")


def unknown(place: Place, what: str, found: str, allowed: Iterable[str]) -> PolicyError:
    """The error for a name that is none of `allowed`, with the nearest one."""
    names = sorted(map(str, allowed))
    near = difflib.get_close_matches(found, names, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    listing = f" (there are: {', '.join(names)})" if names else " (there are none)"
    return PolicyError(str(place), f"unknown {what} {found!r}{hint}{listing}")


def text(node: Node, what: str = "text") -> str:
    """A scalar's text, whatever YAML would make of it; not an empty plain one and not null."""
    if not isinstance(node, Scalar) or is_null(node):
        raise wrong(node, what)
    return node.text


def is_null(node: Node) -> bool:
    """Whether a value was left out or is a plain ``null`` or ``~``."""
    return isinstance(node, Scalar) and node.plain and node.text in {"", "~", "null"}


def truth(node: Node) -> bool:
    """``true`` or ``false``; YAML's other words for them are refused rather than guessed."""
    if not isinstance(node, Scalar) or not node.plain or node.text not in {"true", "false"}:
        raise wrong(node, "true or false")
    return node.text == "true"


def integer(node: Node, what: str, first: int, last: int) -> int:
    """A decimal, 0x or 0o number in `first` … `last`."""
    found = whole_number(node.text) if isinstance(node, Scalar) and node.plain else None
    if found is None or not first <= found <= last:
        raise wrong(node, f"{what} from {first} to {last}")
    return found


def whole_number(digits: str) -> int | None:
    """The number written as decimal, 0x… or 0o…; None for anything else (0644 is read in two ways by two YAMLs)."""
    try:
        return int(digits, 0) if digits.isascii() and "_" not in digits and digits == digits.strip() else None
    except ValueError:
        return None


def choice(node: Node, what: str, allowed: Iterable[str]) -> str:
    """One of a closed list of words."""
    names = list(map(str, allowed))
    if not isinstance(node, Scalar) or is_null(node):
        raise wrong(node, f"{what} ({', '.join(names)})")
    if node.text not in names:
        raise unknown(node.place, what, node.text, names)
    return node.text


def mapping(node: Node, what: str) -> Map:
    """A mapping."""
    if not isinstance(node, Map):
        raise wrong(node, f"a mapping ({what})")
    return node


def items(node: Node, read: Callable[[Node], T], problems: Problems, what: str) -> list[T]:
    """A list, each item by `read`; the errors of the items are collected."""
    if not isinstance(node, List):
        raise wrong(node, f"a list ({what})")
    values = []
    for item in node.items:
        with problems:
            values.append(read(item))
    return values


def one_or_more(node: Node) -> tuple[Node, ...]:
    """A value, or a list of alternatives that is not empty."""
    if isinstance(node, List):
        if not node.items:
            raise PolicyError(str(node.place), "an empty list of alternatives, which nothing can match")
        return node.items
    return (node,)


def entries(node: Node, what: str, readers: dict[str, Callable[[Node], None]], problems: Problems) -> None:
    """A mapping with known keys: each value goes to its key's reader; mistakes are collected."""
    for key, (place, value) in mapping(node, what).entries.items():
        with problems:
            if key not in readers:
                raise unknown(place, f"key in {what}:", key, readers)
            readers[key](value)
