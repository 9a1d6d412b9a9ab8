"""Mounts of network filesystems as text: where from, and with which options. What is not understood is refused.

The options are an allow-list: others name files and keys of the host's, ask its helpers for tickets (sec=krb5), or lead to
another server than the one that was allowed.

Source: nfs(5), mount.cifs(8); Linux fs/nfs/fs_context.c, fs/smb/client/fs_context.c.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

Option = tuple[str, bytes | None]
"""(key, value); None for a flag."""

_NFS = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[^:/\[\]]+)):(?P<export>/.*)", re.DOTALL)
_CIFS = re.compile(r"//(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[^/\[\]]+))/(?P<export>[^/].*)", re.DOTALL)
_NUMERIC = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9A-Fa-f]*)\.?")
"""What inet_aton(3) takes for an address, and no name ends in."""


@dataclass(frozen=True, slots=True)
class Place:
    """What is mounted."""

    kind: str
    """``nfs`` or ``cifs``."""
    host: str
    """A name, or an address without brackets."""
    export: str

    @property
    def address(self) -> str:
        """The host, if it is an address; else empty."""
        return _address(self.host)


def place(kind: str, source: bytes) -> Place | None:
    """None for what names no server."""
    try:
        text = source.decode()
    except UnicodeDecodeError:
        return None
    found = (_NFS if kind == "nfs" else _CIFS).fullmatch(text)
    if found is None or not text.isprintable():
        return None
    where = Place(kind, found["six"] or found["host"], found["export"])
    return where if where.address or not _NUMERIC.fullmatch(where.host) else None


class Refused(Exception):  # noqa: N818 - an answer
    """An option that is not allowed; says which, and never its value."""


def vet(
    where: Place, source: bytes, data: bytes, addresses: Collection[str], first_id: int, ids: int
) -> list[Option]:
    """The options of `data`, completed: the address is one of `addresses` (the first, when none is given), and owners are the
    container's ids, as the host numbers them. Refused for any other.
    """
    rules = _Rules(where, source, addresses, first_id, ids)
    given = [option for key, value in split(where.kind, data) for option in rules.option(key, value)]
    named = {key for key, _ in given}
    if where.kind == "nfs":
        return given if "addr" in named else [*given, ("addr", rules.first)]
    if "addr" not in named and "ip" not in named:
        given.append(("ip", rules.first))
    given += [(key, rules.root) for key in ("uid", "gid") if key not in named]
    return [*given, ("unc", source.replace(b"/", b"\\")), ("nodfs", None)]


def split(kind: str, data: bytes) -> Iterator[tuple[str, bytes | None]]:
    """Options as the filesystem's own parser parts them: cifs writes a comma of a password as ``,,``."""
    part = re.compile(rb"(?:,,|[^,])+" if kind == "cifs" else rb"[^,]+")
    for text in part.findall(data):
        key, equals, value = text.partition(b"=")
        if not key.isalnum() and not re.fullmatch(rb"[A-Za-z0-9_]+", key):
            raise Refused("an option whose name is none")
        yield key.decode(), value.replace(b",,", b",") if equals else None


_PLAIN = {
    "nfs": """
        rsize wsize bsize timeo retrans acregmin acregmax acdirmin acdirmax actimeo retry port mountport mountproto mountvers
        proto vers nfsvers v3 v4 minorversion namlen nconnect soft hard softerr softreval nosoftreval posix noposix cto nocto
        ac noac acl noacl rdirplus nordirplus lookupcache lock nolock local_lock sharecache nosharecache resvport noresvport
        intr nointr tcp udp rw ro fg bg clientaddr
    """,
    "cifs": """
        user username pass password password2 dom domain workgroup vers port forceuid noforceuid forcegid noforcegid file_mode
        dir_mode rsize wsize bsize actimeo acregmax acdirmax closetimeo iocharset perm noperm dynperm nodynperm serverino
        noserverino brl nobrl mfsymlinks nomfsymlinks mapposix nomapposix mapchars nomapchars cache soft hard nosharesock
        seal sign guest nounix unix posix noposix persistenthandles nopersistenthandles resilienthandles noresilienthandles
        echo_interval rw ro setuids nosetuids handletimeout max_credits
    """,
}
_ALLOWED = {kind: frozenset(words.split()) for kind, words in _PLAIN.items()}
_SECURITY = {
    "nfs": frozenset({b"sys", b"none", b"null"}),
    "cifs": frozenset({b"none", b"ntlmssp", b"ntlmsspi", b"ntlmv2", b"ntlmv2i"}),
}


@dataclass(frozen=True, slots=True)
class _Rules:
    where: Place
    source: bytes
    addresses: Collection[str]
    first_id: int
    ids: int

    @property
    def first(self) -> bytes:
        return next(iter(self.addresses)).encode()

    @property
    def root(self) -> bytes:
        return b"%d" % self.first_id

    def option(self, key: str, value: bytes | None) -> Iterator[Option]:
        """None, where an option says what is known anyway."""
        if b"\n" in (value or b""):
            raise Refused(f"{key}=: with a line feed")
        if key in _ALLOWED[self.where.kind]:
            yield key, value
        elif key in ("addr", "ip", "mountaddr"):
            yield key, self._one_of(key, value)
        elif key == "mounthost":
            self._same(key, value, self.where.host.encode())
        elif key == "unc":
            self._same(key, (value or b"").replace(b"\\", b"/"), self.source)
        elif key in ("uid", "gid") and self.where.kind == "cifs":
            yield key, self._owner(key, value)
        elif key == "sec" and value in _SECURITY[self.where.kind]:
            yield key, value
        else:
            raise Refused(f"{key}=: an option that is not lent")

    def _one_of(self, key: str, value: bytes | None) -> bytes:
        address = _address((value or b"").decode(errors="replace"))
        if address not in self.addresses:
            raise Refused(f"{key}=: no address of {self.where.host}")
        return address.encode()

    def _same(self, key: str, value: bytes | None, known: bytes) -> None:
        if value != known:
            raise Refused(f"{key}=: another than the source says")

    def _owner(self, key: str, value: bytes | None) -> bytes:
        number = int(value) if value and value.isdigit() and len(value) < len(str(1 << 32)) else self.ids
        if number >= self.ids:
            raise Refused(f"{key}=: no id of the container")
        return b"%d" % (self.first_id + number)


def _address(text: str) -> str:
    """In its shortest form; empty for what is none, or has a scope."""
    try:
        return str(ipaddress.ip_address(text)) if "%" not in text else ""
    except ValueError:
        return ""
