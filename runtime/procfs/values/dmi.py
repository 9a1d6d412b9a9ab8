"""/sys/class/dmi/id of a container: product_uuid, by which kubelet and others tell machines apart, is its own and stays so.

The host's is root's alone, and a container's root is refused; two Kubernetes nodes on one host that read the same would be
one. Of the serial numbers beside it programs expect nothing: they stay refused.

Source: Linux Documentation/ABI/testing/sysfs-firmware-dmi-tables; drivers/firmware/dmi-id.c; RFC 9562, section 5.5.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Final

from runtime.procfs.leaf import Leaf, Rung

if TYPE_CHECKING:
    from runtime.procfs.leaf import View

_NAMESPACE: Final = uuid.UUID("0b2c4b68-7a2f-5c60-9c6f-1f1f6d0e9d57")


def product_uuid(view: View) -> bytes:
    """A UUID made of the container's id, as the kernel prints one."""
    return f"{uuid.uuid5(_NAMESPACE, view.name)}\n".encode("ascii")


LEAVES = (Leaf("/sys/devices/virtual/dmi/id/product_uuid", Rung.FILE, product_uuid, mode=0o400),)
