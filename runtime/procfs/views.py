"""Whose view: a container's, and those of the containers inside it.

A view belongs to a mount, not to a reader: a proc that is mounted in a pid namespace of an inner container shows, to
whoever reads it, the cgroup of who mounted it. The page cache, which makes a leaf as cheap as the kernel's own file, is
one for all readers of an inode; and a reader's own cgroup would be the wrong one where `docker exec`, a monitoring agent or
systemd's own processes look at the container's files.
Source: cgroups(7); docs/design.md, section 8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime import resources
from runtime.procfs.leaf import View

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from runtime.mountinfo import Mount


def cgroups(membership: str, table: Iterable[Mount], root: str) -> Mapping[str, tuple[str, ...]]:
    """`membership` is /proc/PID/cgroup's text, `table` the mounts of a mount namespace whose root directory is reachable as
    `root` ("" for the supervisor's own).
    """
    found = resources.directories(membership, table)
    reached = {chain: tuple(root + directory for directory in chain) for chain in found.values()}
    return {name: reached[chain] for name, chain in found.items()}


def inner(cgroups_of: Mapping[str, tuple[str, ...]], outer: View) -> View:
    return View(cgroups=cgroups_of, init_pid=outer.init_pid, outer=outer, name=outer.name)


def is_inner(cgroups_of: Mapping[str, tuple[str, ...]], outer: View) -> bool:
    """Whether some hierarchy has a cgroup strictly below the container's own."""
    return any(
        len(chain) > len(outer.cgroups.get(name, ())) > 0 and outer.cgroups[name][0] in chain[1:]
        for name, chain in cgroups_of.items()
    )
