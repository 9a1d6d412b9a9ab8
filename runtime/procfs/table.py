"""Every leaf that there is, from the tables of its families. A later one of the same path replaces an earlier one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.procfs import values

if TYPE_CHECKING:
    from runtime.procfs.leaf import Leaf


def leaves() -> list[Leaf]:
    found = {leaf.path: leaf for family in (values.LEAVES,) for leaf in family}
    return list(found.values())
