"""What the leaves show: pure readers, each in the file named as its leaf.

LEAVES is the table from which everything else about them is derived. An entry of the same path as an earlier one
replaces it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.procfs.leaf import Leaf

LEAVES: tuple[Leaf, ...] = ()
