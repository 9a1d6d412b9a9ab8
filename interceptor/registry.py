"""The registry of intercepted calls: everything else is derived from what stands here.

`@handles` on a function in `interceptor/handlers/` makes a row. From the rows follow the BPF filter and the OCI seccomp
stanza (`stanza`), the dispatch table, the vocabulary of policy rules, and docs/syscalls.md. One more call is one file.

Numbers are never typed: they come from libseccomp, per architecture.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, get_type_hints

import pyseccomp

from interceptor.args import Address, Arch, Signature
from interceptor.limits import Ceilings
from interceptor.ports import Call, Cap, Namespace
from interceptor.verdict import Verdict

HANDLERS = "interceptor.handlers"

Handler = Callable[[Call, Any], Verdict]
Lends = Callable[[Ceilings], "tuple[Masked, ...] | None"]
"""As `Syscall.when`: the calls to which a policy's ceilings may lend something. None: to none."""


class Support(enum.StrEnum):
    """How much of a call is faithful; printed in docs/syscalls.md."""

    FULL = "full"
    PARTIAL = "partial"


@dataclass(frozen=True, slots=True)
class Masked:
    """The call is looked at when the register of field `field` and-ed with `mask` is `value`.

    Compiled into BPF: what matches none of a call's conditions never leaves the kernel.
    """

    field: str
    mask: int
    value: int


@dataclass(frozen=True, slots=True)
class Needs:
    """The kernel's own permission: `cap` in the user namespace that owns the tracee's `owner_of`."""

    cap: Cap
    owner_of: Namespace


class Look(enum.StrEnum):
    """What native/shortcut.c knows to look at, for the calls of that name."""

    MOUNT = "mount"
    """mount(2): the filesystem type."""
    UMOUNT = "umount"
    """umount2(2): the mount that the target is."""


@dataclass(frozen=True, slots=True)
class Shortcut:
    """The plain case of a call, decided in C as the handler would: only ever in favour of the tracee."""

    look: Look
    because: str
    """The reason of the handler's Continue in that case."""
    when: Masked | None = None
    """Which calls are plain; all others go to the handler."""


class Redo(enum.StrEnum):
    """What the next supervisor may do with a call for which an agent was asked to act when this one died.

    Calls for which no agent was asked yet are always done again.
    """

    HARMLESS = "harmless"
    """Doing it again has the same result."""
    DETECTABLE = "detectable"
    """It asks the agent for one change, and returns 0 or the errno of that: the agent's reply, which is not lost with the
    supervisor, is the answer.
    """
    RESUMED = "resumed"
    """It asks the agent for at most one change, and goes on from the reply: the handler runs again (Call.resumed), and is given
    that reply in place of asking.
    """
    NEVER = "never"
    """Nobody could know what was done: EINTR."""


@dataclass(frozen=True, slots=True)
class Syscall:
    """One row: a call, who answers it, and what is known of it before anybody is asked."""

    name: str
    signature: Signature
    handler: Handler
    when: tuple[Masked, ...]
    """Any of them; empty: always."""
    needs: Needs | None
    support: Support
    note: str
    source: str
    """The ``Source:`` paragraph of the handler's module."""
    module: str
    pure: bool = False
    """The handler answers from its arguments alone: it asks `call` for nothing and changes nothing."""
    io_uring: bool = False
    """io_uring_enter(2) can do it as well, past every filter."""
    optional: bool = False
    """Native, and not in the filter, unless a policy has a rule for it: a policy's `default` does not turn it on."""
    shortcut: Shortcut | None = None
    redo: Redo = Redo.NEVER
    lends: Lends | None = None
    """In the place of `when`, for calls that are about ceilings: native, and not in the filter, without one."""
    given: str = ""
    """A pointer without which (NULL) it is another call, the kernel's own: asking for a limit instead of setting it."""
    young: bool = False
    """Libseccomp may not know it yet: then no filter can send it to us. YOUNG has its number."""

    def number(self, arch: Arch) -> int | None:
        """The call's number on `arch`; None where that architecture has no such call."""
        return resolve(self.name, arch)


@cache
def resolve(name: str, arch: Arch) -> int | None:
    """Libseccomp's number of system call `name` on `arch`; None where it has none (pseudo numbers are negative)."""
    number = pyseccomp.resolve_syscall(_SCMP_ARCH[arch], name)
    return number if number >= 0 else None


YOUNG: Mapping[str, int] = {
    "setxattrat": 463, "getxattrat": 464, "listxattrat": 465, "removexattrat": 466, "open_tree_attr": 467,
}  # fmt: skip
"""Linux scripts/syscall.tbl, include/uapi/asm-generic/unistd.h: since 5.1 a new call has one number on all architectures."""

_SCMP_ARCH = {Arch.X86_64: pyseccomp.Arch.X86_64, Arch.I386: pyseccomp.Arch.X86, Arch.AARCH64: pyseccomp.Arch.AARCH64}


def handles(
    name: str,
    *,
    when: tuple[Masked, ...] = (),
    needs: Needs | None = None,
    support: Support = Support.FULL,
    note: str = "",
    pure: bool = False,
    optional: bool = False,
    young: bool = False,
    io_uring: bool = False,
    shortcut: Shortcut | None = None,
    redo: Redo = Redo.NEVER,
    lends: Lends | None = None,
    given: str = "",
) -> Callable[[Handler], Handler]:
    """Registers `handler(call, args)` for system call `name`; the type of `args` is the decoder.

    `when` is compiled into the filter. Without `needs` in the owning namespace the kernel's own answer is enough and the
    handler is not asked: it would lend a privilege to somebody whom the kernel refuses for a reason of its own.
    `pure` promises that the handler uses neither tracee nor agent nor notes for the trace: it is then asked on the
    shortest way, and must not take pointers. `optional`: off unless a policy has a rule for the call; the shipped
    default.yaml says so with an unconditional `native`. `shortcut` is what native/shortcut.c may decide without the
    handler. `redo`: what becomes of a call in which the supervisor dies. `young`: libseccomp may not know
    the call yet, and then it is ENOSYS where policy decides about it. `io_uring`: io_uring_enter(2) can do it
    as well, so that where policy has it intercepted there is no io_uring. `lends` and `given` see `Syscall`.
    Raises TypeError for an args class that is none and ValueError for a name that libseccomp does not know or that is
    registered already.
    """

    def register(handler: Handler) -> Handler:
        signature = Signature.of(_args_type(handler))
        for condition in (*when, *((shortcut.when,) if shortcut and shortcut.when else ())):
            if condition.field not in {f.name for f in signature.fields}:
                raise TypeError(
                    f"{name}: a condition names {condition.field!r}, which {signature.args.__qualname__} has not"
                )
        if given and not any(f.name == given and isinstance(f.kind, Address) for f in signature.fields):
            raise TypeError(f"{name}: {given!r} is no Pointer of {signature.args.__qualname__}")
        if lends and (when or lends(Ceilings()) is not None):
            raise TypeError(f"{name}: without a ceiling nothing is lent, and `when` would say that something is")
        if pure and (signature.pointers or needs):
            raise TypeError(f"{name}: a pure handler takes neither pointers nor permissions")
        if young and name not in YOUNG:
            raise ValueError(f"{name!r} is not in YOUNG, which has the numbers of calls that libseccomp may not know")
        if not young and all(resolve(name, arch) is None for arch in Arch):
            raise ValueError(f"{name!r} is no system call that libseccomp knows")
        if name in _rows and _rows[name].module != handler.__module__:
            raise ValueError(f"{name!r} is registered by {_rows[name].module} already")
        _rows[name] = Syscall(
            name=name, signature=signature, handler=handler, when=when, needs=needs, support=support, note=note,
            source=_source(handler), module=handler.__module__, pure=pure,
            optional=optional, io_uring=io_uring,
            shortcut=shortcut,
            redo=redo,
            young=young,
            lends=lends,
            given=given,
        )  # fmt: skip
        return handler

    return register


_rows: dict[str, Syscall] = {}


def load() -> Mapping[str, Syscall]:
    """Every row, by name, after importing each module of the handlers package (and each plugin's, once loaded)."""
    package = importlib.import_module(HANDLERS)
    for module in pkgutil.iter_modules(package.__path__, HANDLERS + "."):
        importlib.import_module(module.name)
    return dict(sorted(_rows.items()))


def rows_of(module: str) -> Iterator[Syscall]:
    """The rows that one module registered."""
    return (row for row in _rows.values() if row.module == module)


def _args_type(handler: Handler) -> type[Any]:
    parameters = list(inspect.signature(handler).parameters)
    if len(parameters) != 2:  # noqa: PLR2004 - (call, args)
        raise TypeError(f"{handler.__qualname__} must take (call, args)")
    hint: type[Any] = get_type_hints(handler)[parameters[1]]
    return hint


def _source(handler: Handler) -> str:
    doc = inspect.getdoc(inspect.getmodule(handler)) or ""
    paragraph = next((p for p in doc.split("\n\n") if p.startswith("Source:")), "")
    return " ".join(paragraph.removeprefix("Source:").split("\nLeft")[0].split())
