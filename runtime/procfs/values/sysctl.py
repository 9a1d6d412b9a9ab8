"""Sysctls of the whole machine that a container may set: what it writes it reads back, and the host's stay as they are.

The kernel refuses them to a container's root (EACCES), and programs that set them give up: kubelet, k3s, Elasticsearch,
Redis, databases, systemd-sysctl. *Remembered* ones are wishes about the whole machine's behaviour, and are true of the
container only as far as the host's value is; *raised* ones are ceilings, of which a policy may let a container raise the
host's. A container sees the host's value until it writes its own. Sysctls that a namespace of the container's own has
(net.*, kernel.shmmax, user.*) are the kernel's and not here; nor is what would pretend to a resource (vm.nr_hugepages).

Source: Linux Documentation/admin-guide/sysctl/; the ctl_tables of kernel/{sysctl,panic,pid,printk,fork}.c,
security/yama/yama_lsm.c, security/keys/sysctl.c, fs/{namei,file_table,aio,coredump}.c, fs/notify/inotify/inotify_user.c,
mm/{util,vmscan,page-writeback,oom_kill,mmap}.c, net/netfilter/nf_conntrack_standalone.c.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from interceptor.native.files import read as read_file
from runtime.procfs.leaf import Leaf, Rung
from runtime.procfs.values.sysctl_kinds import INT_MAX, LONG_MAX, ULONG_MAX, Ints, Latched, Parameter, Text, Unsigned

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from runtime.procfs.leaf import View
    from runtime.procfs.values.sysctl_kinds import Kind

_BIT: Final = Ints(0, 1)
_PERCENT: Final = Ints(0, 100)
_POSITIVE: Final = Ints(0)
_ANY: Final = Ints()

REMEMBERED: Final[Mapping[str, Any]] = {
    "fs": {
        "aio-max-nr": Unsigned(high=ULONG_MAX),
        "inotify": {
            "max_queued_events": _POSITIVE,
            "max_user_instances": Unsigned(high=INT_MAX),
            "max_user_watches": Unsigned(high=INT_MAX),
        },
        "protected_fifos": Ints(0, 2),
        "protected_hardlinks": _BIT,
        "protected_regular": Ints(0, 2),
        "protected_symlinks": _BIT,
        "suid_dumpable": Ints(0, 2),
    },
    "kernel": {
        "core_pattern": Text(128),
        "core_uses_pid": _ANY,
        "dmesg_restrict": _BIT,
        "keys": {"maxbytes": _POSITIVE, "maxkeys": _POSITIVE, "root_maxbytes": _POSITIVE, "root_maxkeys": _POSITIVE},
        "kptr_restrict": Ints(0, 2),
        "panic": _ANY,
        "panic_on_oops": _ANY,
        "pid_max": Ints(301, 1 << 22),
        "printk": Ints(count=4),
        "sysrq": _ANY,
        "threads-max": Ints(1, 0x3FFFFFFF),
        "yama": {"ptrace_scope": Latched(0, 3)},
    },
    "vm": {
        "dirty_background_ratio": _PERCENT,
        "dirty_expire_centisecs": _POSITIVE,
        "dirty_ratio": _PERCENT,
        "dirty_writeback_centisecs": _ANY,
        "max_map_count": _POSITIVE,
        "min_free_kbytes": _POSITIVE,
        "mmap_min_addr": Unsigned(high=ULONG_MAX),
        "oom_dump_tasks": _ANY,
        "oom_kill_allocating_task": _ANY,
        "overcommit_memory": Ints(0, 2),
        "overcommit_ratio": _ANY,
        "panic_on_oom": Ints(0, 2),
        "swappiness": Ints(0, 200),
        "vfs_cache_pressure": _POSITIVE,
    },
}

# Nothing below /proc/sys/net: it is another directory for every network namespace (net_ctl_root), so that a leaf would be seen
# in one alone; and in all others programs that remount what mountinfo lists, bubblewrap say, would find nothing mounted there.
# ceilings.py has what remains for those.
RAISED: Final[Mapping[str, Any]] = {
    "fs": {"file-max": Unsigned(high=LONG_MAX), "nr_open": Unsigned(64, INT_MAX & -64)},
}

HASHSIZE: Final = "/sys/module/nf_conntrack/parameters/hashsize"
"""kube-proxy writes it; raised, too."""


def paths(tree: Mapping[str, Any], above: str = "/proc/sys") -> Iterator[tuple[str, Kind]]:
    """Every file of a table."""
    for name, entry in tree.items():
        if isinstance(entry, dict):
            yield from paths(entry, f"{above}/{name}")
        else:
            yield f"{above}/{name}", entry


def read(path: str, view: View) -> bytes:
    """What a file shows before anybody wrote to it: the host's value."""
    below, root = path.removeprefix("/").split("/", 1)
    return read_file(f"{view.proc if below == 'proc' else view.sys}/{root}")


def write(kind: Kind, _view: View, now: bytes, written: bytes) -> bytes:
    return kind(now, written)


def _namespaced(path: str) -> bool:
    """kernel/pid_max belongs to the pid namespace since Linux 6.14 (kernel/pid_namespace.c), and needs nobody's help."""
    release = os.uname().release.split(".")
    return path == "/proc/sys/kernel/pid_max" and (int(release[0]), int(release[1].split("-")[0])) >= (6, 14)


LEAVES: Final = tuple(
    Leaf(path, Rung.FUSE, partial(read, path), partial(write, kind), mode=mode)
    for path, kind, mode in (
        *((path, kind, 0o644) for tree in (REMEMBERED, RAISED) for path, kind in paths(tree)),
        (HASHSIZE, Parameter(1), 0o600),
    )
    if not _namespaced(path)
)
