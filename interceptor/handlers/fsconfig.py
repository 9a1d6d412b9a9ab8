"""fsconfig(2): options, and the superblock.

Options reach the tracee's own context in the kernel, always, so that paths are resolved and mistakes told there; what it has of
them is worth what the tracee's rights are worth. Those of an overlay are given to our context too, each checked as one of
mount(2)'s. Only the creation of the superblock is done by us, where the kernel would refuse it.

Source: fsconfig(2); Linux fs/fsopen.c, fs/overlayfs/params.c.
"""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass
from typing import Annotated

from interceptor.args import UNREADABLE, Fd, Int, Integer, String
from interceptor.policy import Mount
from interceptor.ports import Call, Cap, Context, Namespace
from interceptor.registry import Needs, Redo, handles
from interceptor.verdict import Continue, Fail, Return, Verdict


class Command(enum.IntEnum):
    """``enum fsconfig_command`` (linux/mount.h)."""

    FSCONFIG_SET_FLAG = 0
    FSCONFIG_SET_STRING = 1
    FSCONFIG_SET_BINARY = 2
    FSCONFIG_SET_PATH = 3
    FSCONFIG_SET_PATH_EMPTY = 4
    FSCONFIG_SET_FD = 5
    FSCONFIG_CMD_CREATE = 6
    FSCONFIG_CMD_RECONFIGURE = 7
    FSCONFIG_CMD_CREATE_EXCL = 8


NAME_SIZE = 256
"""Keys and values with their NUL: strndup_user(…, 256)."""

MaybeString = Annotated[bytes | None, String(limit=NAME_SIZE, null=True, lenient=True, unreadable=UNREADABLE)]


@dataclass(frozen=True, slots=True)
class FsconfigArgs:
    """The five registers of fsconfig(2); what `value` and `aux` are depends on `cmd`."""

    fd: Fd
    cmd: Annotated[int, Integer(32, names=Command)]
    key: MaybeString
    value: MaybeString
    aux: Int


@handles(
    "fsconfig",
    needs=Needs(Cap.SYS_ADMIN, owner_of=Namespace.MOUNT),
    note="Options are the kernel's; those of an emulated overlay are looked at, too, and its creation is ours.",
    redo=Redo.RESUMED,
)
def fsconfig(call: Call, args: FsconfigArgs) -> Verdict:
    context = call.contexts.find(args.fd)
    if context is None:
        return Continue(because="the context is one of the kernel's")
    call.rule = context.choice.rule
    if context.fstype == b"overlay" and call.tracee.in_nested_user_namespace:
        return Continue(because="trusted attributes are lent to the container's own user namespace only")
    if args.cmd in (Command.FSCONFIG_CMD_CREATE, Command.FSCONFIG_CMD_CREATE_EXCL):
        return _create(call, args, context)
    if (context.created or context.failed) and _is_option(args):
        return Fail(errno.EBUSY)
    if context.fstype == b"overlay" and context.choice.mount is Mount.EMULATE and args.key not in (None, UNREADABLE):
        _copy_option(call, args, context)
    return Continue(because="it is set on a context that has the tracee's own rights")


def _create(call: Call, args: FsconfigArgs, context: Context) -> Verdict:
    if args.key is not None or args.value is not None or args.aux:
        return Continue(because="arguments that must be absent are the kernel's to refuse")
    if (context.created or context.failed) and not call.resumed:
        return Fail(errno.EBUSY)
    if context.choice.mount is Mount.EMULATE and (context.fstype != b"overlay" or context.native):
        return Continue(because="the kernel makes it with what the tracee has itself")
    if context.choice.mount is Mount.EMULATE:
        context.failed = True
        call.contexts.note(context)
        if context.refusal:
            call.why = "an option that a user namespace may not set in this way"
            return Fail(context.refusal)
        call.agent.create_overlay(context)
    context.failed, context.created = False, True
    call.contexts.note(context)
    return Return()


def _is_option(args: FsconfigArgs) -> bool:
    """Whether the kernel, which asks in what state the context is last, would find nothing else wrong."""
    if args.key is None or UNREADABLE in (args.key, args.value):
        return False
    fits = {
        Command.FSCONFIG_SET_FLAG: args.value is None and args.aux == 0,
        Command.FSCONFIG_SET_STRING: args.value is not None and args.aux == 0,
        Command.FSCONFIG_SET_PATH: bool(args.value) and args.aux >= 0,
        Command.FSCONFIG_SET_PATH_EMPTY: args.value is not None and args.aux >= 0,
        Command.FSCONFIG_SET_FD: args.value is None and args.aux >= 0,
    }
    return any(args.cmd == command and fit for command, fit in fits.items())


def _copy_option(call: Call, args: FsconfigArgs, context: Context) -> None:
    """What we may not take over is refused when the superblock is made: until then it may still turn out to be native."""
    key = args.key or b""
    if args.cmd == Command.FSCONFIG_SET_FLAG and key == b"userxattr" and not call.policy.overlay_nodes:
        context.native = True
        call.contexts.note(context)
        return
    try:
        call.agent.set_overlay_option(context, key, _value(call, args))
    except OSError as error:
        context.refusal = context.refusal or error.errno or errno.EINVAL
        call.contexts.note(context)


def _value(call: Call, args: FsconfigArgs) -> bytes | int | None:
    match args.cmd:
        case Command.FSCONFIG_SET_FLAG:
            return None
        case Command.FSCONFIG_SET_STRING if args.value is not None and args.value != UNREADABLE:
            return args.value
        case Command.FSCONFIG_SET_FD:
            return call.tracee.take(args.aux)
        case _:
            raise OSError(errno.EINVAL, "an overlay takes text, flags and descriptors")
