"""/etc/hosts, /etc/hostname and /etc/resolv.conf of a container: resolv.conf(5), hosts(5)."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RESOLV_CONF = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")
"""Where the host's name servers stand; the second lists those behind systemd-resolved's stub on 127.0.0.53."""


def write(etc: Path, hostname: str, *, online: bool, read: Callable[[str], str]) -> None:
    """The three files, without the container's address, which is not known yet; `read` answers a host file or ""."""
    servers = resolv_conf(read) if online else ""
    files = {"hostname": f"{hostname}\n", "hosts": hosts(hostname, None), "resolv.conf": servers}
    for name, text in files.items():
        (etc / name).write_text(text, encoding="utf-8")
        (etc / name).chmod(0o644)


def hosts(hostname: str, address: str | None) -> str:
    """The text, with the container itself; 127.0.1.1 is what Debian gives a host without a fixed address."""
    own = f"{address or '127.0.1.1'}\t{hostname}"
    return f"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{own}\n"


def resolv_conf(read: Callable[[str], str]) -> str:
    """The host's, without name servers on a loopback address: in the container that address is the container."""
    for path in RESOLV_CONF:
        lines = [line for line in read(path).splitlines() if not _is_loopback_server(line)]
        if any(line.split()[:1] == ["nameserver"] for line in lines):
            return "\n".join(lines) + "\n"
    return "# the host has no name server that a container could reach\n"


def _is_loopback_server(line: str) -> bool:
    words = line.split()
    if words[:1] != ["nameserver"] or len(words) < 2:  # noqa: PLR2004 - a keyword and its value
        return False
    try:
        return ipaddress.ip_address(words[1].partition("%")[0]).is_loopback
    except ValueError:
        return False
