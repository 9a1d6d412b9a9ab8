"""The combinations that a system container must work in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from support.runtime import view_for

if TYPE_CHECKING:
    from support.engine import Cgroups


@dataclass(frozen=True, slots=True)
class Variant:
    """What lies below our runtime, what the outer engine sees, and what runs inside."""

    name: str
    underneath: str = "runc"
    cgroup_view: Cgroups = "host"
    image: str = "docker"

    def __str__(self) -> str:
        return self.name


MAIN = Variant("runc")

VARIANTS = (
    MAIN,
    Variant("crun", underneath="crun", cgroup_view=view_for("crun")),
    Variant("cgroup-v2", cgroup_view="v2"),
    # systemd ≥ 258 knows cgroup v2 alone.
    Variant("sid", cgroup_view="v2", image="docker-sid"),
)
