"""System calls made up by hypothesis, and a policy that has something to say about many of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from interceptor.args import Address, Buffer, Flags, String, quote

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from interceptor.args import Field
    from interceptor.registry import Syscall

POLICY = """\
extends: [default]
selectable: true
calls:
  mount:
    - when: {flags: {has: [MS_RDONLY, MS_NOEXEC], not: [MS_NOSUID]}}
      do: {deny: EACCES}
    - when: {flags: {has: [MS_BIND, MS_SILENT]}}
      do: {deny: EROFS}
    - when: {fstype: "tmp*", target: ["/mnt/a*", "/data/?"]}
      do: pretend
    - when: {source: {cidr: [10.0.0.0/8]}}
      do: {deny: ENODEV}
    - when: {fstype: null}
      do: native
    - when: {data: "*size=*"}
      do: {deny: ENOSPC}
      log: true
    - when: {caller: {nested: true}}
      do: {deny: EPERM}
    - when: {caller: {executable: "*/calls", inner: false}, source: "why\\"[?]*"}
      do: {deny: EXDEV}
  umount2:
    - when: {flags: {mask: 0xa, is: 0x8}}
      do: pretend
    - when: {target: "/nowhere*"}
      do: {deny: ENOENT}
  sethostname:
    - when: {name: "web-*", caller: {uid: 0}}
      do: emulate
    - when: {caller: {uid: "1..99"}}
      do: pretend
    - do: {deny: EPERM}
  setdomainname:
    - do: pretend
  acct:
    - when: {filename: null}
      do: pretend
    - do: {deny: ENOENT}
  swapoff:
    - when: {specialfile: ["/dev/*", "/mnt/[ab]"]}
      do: {deny: EBUSY}
  quotactl_fd:
    - when: {op: [0, "7..9", 0x800007], fd: "-1..3"}
      do: {deny: ESRCH}
    - when: {id: 5}
      do: pretend
    - when: {op: "10..99"}
      do: native
    - do: {deny: ENXIO}
  setrlimit:
    - when: {resource: 3}
      do: {deny: EACCES}
    - do: emulate
  prlimit64:
    - when: {pid: "100..99999"}
      do: {deny: ESRCH}
  sched_setattr:
    - when: {pid: [5, 7]}
      do: pretend
  ioprio_set:
    - when: {which: 3}
      do: {deny: ENOTTY}
  mknod:
    - when: {mode: {mask: 0o170000, is: 0o060000}}
      do: {deny: ENXIO}
    - when: {pathname: "/mnt/*", dev: "1..300"}
      do: pretend
  chown:
    - when: {pathname: ["/nowhere*", "/dev/*"]}
      do: native
    - do: emulate
  getxattr:
    - when: {name: "trusted.*"}
      do: emulate
    - do: native
  delete_module:
    - when: {name: "[ab]*"}
      do: {deny: EBUSY}
limits: {rlimits: {nofile: 65536, memlock: unlimited}, nice: -5, realtime-priority: 10, io-realtime: 4}
filesystems:
  nfs: {deny: ENODEV}
  ext4: deny
"""

CALLS = (
    "mount",
    "umount2",
    "sethostname",
    "setdomainname",
    "acct",
    "swapoff",
    "quotactl_fd",
    "quotactl",
    "fsopen",
    "swapon",
    "setpriority",
    "sched_setscheduler",
    "sched_setparam",
    "sched_setattr",
    "ioprio_set",
    "setrlimit",
    "prlimit64",
    "mknod",
    "chown",
    "getxattr",
    "syslog",
    "settimeofday",
    "init_module",
    "delete_module",
)
"""Which can be made in a container a thousand times with no harm."""

WORDS = (
    b"proc", b"tmpfs", b"tmp", b"nfs", b"ext4", b"debugfs", b"sysfs", b"bpf", b"none", b"web-1", b"web",
    b"10.1.2.3:/x", b"11.1.2.3", b"/mnt/a", b"/mnt/b", b"/mnt/ab", b"/data/x", b"/nowhere/b", b"/dev/null", b"/dev/sda",
    b"size=1", b"a,size=4k", b'why"?*', b"x\n\xff\xc3\xa9", b"mode=755", b"[", b"\\", b"trusted.x", b"user.x",
)  # fmt: skip
NUMBERS = (0, 1, 2, 3, 5, 7, 8, 9, 10, 50, 99, 100, 0x800007, 0x80000002, -1)
LIKELY: Mapping[str, tuple[int, ...]] = {
    "resource": (3, 4, 7, 8, 15, 16),
    "pid": (0, 0, 1, 5, 7, 200, -1),
    "which": (0, 0, 1, 1, 2, 3, 4),
    "prio": (-20, -6, -5, 0, 19),
    "policy": (0, 1, 2, 0x40000002, 3, 6, 77),
    "ioprio": (0x2000, 0x2003, 0x2004, 0x2007, 0x200C, 0x4004, 0x6000),
    "mode": (0o10644, 0o20600, 0o60600, 0o100644, 0o140644),
    "dev": (0, 0x103, 0x105, 0x501, 0xAE5, 0x801),
    "type": (*range(-1, 12),),
}
"""Numbers that mean something, by the name of the argument."""


def arguments(argument: Field) -> st.SearchStrategy[Any]:
    """Values of one argument, as `interceptor.calltext` reads them: text."""
    kind = argument.kind
    if isinstance(kind, String):
        least = 1 if kind.empty is not None else 0
        some = st.sampled_from(WORDS) | st.binary(min_size=least, max_size=12).map(lambda b: b.replace(b"\0", b"n"))
        return (some | st.none() if kind.null else some).map(lambda v: "NULL" if v is None else quote(v))
    if isinstance(kind, Flags):
        named = st.lists(st.sampled_from(list(kind.names)), max_size=4).map(lambda found: sum(set(map(int, found))))
        odd = st.integers(0, (1 << 31) - 1) if argument.name != "swap_flags" else named
        return (named | named | named | odd).map(kind.render)
    if isinstance(kind, Address):
        return st.sampled_from(["NULL", "{…}"])
    bits = getattr(kind, "bits", 0) or 64
    fits = [n for n in LIKELY.get(argument.name, NUMBERS) if -(1 << (bits - 1)) <= n < 1 << (bits - 1)]
    return (st.sampled_from(fits) | st.integers(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)).map(str)


def call(row: Syscall) -> st.SearchStrategy[str]:
    """One call of that row as strace writes it."""
    fields = row.signature.fields
    buffers = {f.kind.length: f.name for f in fields if isinstance(f.kind, Buffer)}
    if not buffers:
        return st.tuples(*map(arguments, fields)).map(lambda values: f"{row.name}({', '.join(values)})")
    names = st.sampled_from(WORDS) | st.binary(max_size=20)
    return names.map(lambda name: f"{row.name}({quote(name)}, {len(name)})")


def calls(rows: Mapping[str, Syscall]) -> st.SearchStrategy[str]:
    return st.sampled_from(CALLS).flatmap(lambda name: call(rows[name]))


def generated(strategy: st.SearchStrategy[str], count: int) -> list[str]:
    """So many examples: for what cannot be asked one by one."""
    found: list[str] = []

    @settings(
        max_examples=count,
        database=None,
        phases=[Phase.generate],
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(example: str) -> None:
        found.append(example)

    run: Callable[[], None] = collect
    run()
    return found
