"""The project's own Python sources as syntax trees, for the rules that a test can check."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("interceptor", "runtime")


@dataclass(frozen=True, slots=True)
class Source:
    """One file; `name` is its path below the repository."""

    name: str
    tree: ast.Module

    @property
    def module(self) -> str:
        """Its dotted name."""
        return self.name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def native(self) -> bool:
        return self.name.startswith("interceptor/native/")


def sources(below: str | None = None) -> list[Source]:
    """Every file of the packages, or those below one directory."""
    directories = [below] if below else PACKAGES
    files = sorted(file for directory in directories for file in (REPOSITORY / directory).rglob("*.py"))
    return [Source(str(file.relative_to(REPOSITORY)), ast.parse(file.read_text(encoding="utf-8"))) for file in files]


def imports(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """(module, line) of everything imported, anywhere in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def calls(tree: ast.AST, name: str) -> Iterator[ast.Call]:
    """Calls of `name`, which may be dotted once (``os.close``)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and dotted(node.func) == name:
            yield node


def dotted(node: ast.expr) -> str:
    """``a.b.c`` as text; what is no such chain is "?"."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else "?"


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    """(qualified name, node) of every function and method."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{prefix}{node.name}"
            if not isinstance(node, ast.ClassDef):
                yield name, node
            yield from functions(node, f"{name}.")
        else:
            yield from functions(node, prefix)
