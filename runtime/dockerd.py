"""Docker's engine seen from its runtime: which process it is, where its API listens, and its stream of events.

A runtime is not told. Docker's hooks name the engine's process (``/proc/PID/exe libnetwork-setkey``), and that
process holds the sockets that it listens on. Source: moby daemon/oci_linux.go, WithLibnetwork(); proc(5),
/proc/PID/net/unix; Docker Engine API, "Monitor events".
"""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from interceptor.native.fd import Fd

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_HOOK = re.compile(r"/proc/(\d+)/exe")
_LISTENING = 0x10000
"""__SO_ACCEPTCON of /proc/net/unix's Flags."""
_FIELDS = 8
"""Of a line of /proc/net/unix that ends in a path."""
_SECONDS = 5.0


def engine_pid(config: Mapping[str, Any]) -> int | None:
    """The engine that wrote this config.json, by its hooks; None where none names a process."""
    hooks = config.get("hooks") or {}
    for kind in ("prestart", "createRuntime"):
        for hook in hooks.get(kind) or []:
            if match := _HOOK.fullmatch(hook.get("path") or ""):
                return int(match[1])
    return None


def engine_in(mount_namespace: int) -> int | None:
    """The one dockerd that lives in a mount namespace; None for none or several. For containers without hooks
    (--net=none).
    """
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and Path(f"/proc/{name}/comm").read_bytes() == b"dockerd\n":
                found += [int(name)] if os.stat(f"/proc/{name}/ns/mnt").st_ino == mount_namespace else []
        except OSError:
            continue
    return found[0] if len(found) == 1 else None


def api_socket(pid: int) -> str | None:
    """The Unix socket on which process `pid` answers as Docker's API; as a path that we can connect to."""
    return next((path for path in _listening(pid) if _is_api(path)), None)


def _listening(pid: int) -> Iterator[str]:
    """Sockets that the process listens on, through its own root directory."""
    try:
        held = {os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")}
        table = Path(f"/proc/{pid}/net/unix").read_text(errors="surrogateescape")
    except OSError:
        return
    for line in table.splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == _FIELDS and int(fields[3], 16) & _LISTENING and f"socket:[{fields[6]}]" in held:
            yield f"/proc/{pid}/root{fields[7]}"


def _is_api(path: str) -> bool:
    try:
        connection = Connection(path, timeout=_SECONDS)
    except OSError:
        return False
    try:
        connection.request("GET", "/_ping")
        answer = connection.getresponse()
        return answer.status == http.HTTPStatus.OK and answer.read() == b"OK"
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket. `path` may be longer than sun_path holds: its directory is opened first."""

    def __init__(self, path: str, timeout: float | None) -> None:
        super().__init__("docker")
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(timeout)
            with Fd(os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as directory:
                self.sock.connect(f"/proc/self/fd/{directory.fileno()}/{os.path.basename(path)}")
        except BaseException:
            self.sock.close()
            raise


def copies(connection: Connection) -> Iterator[str]:
    """Ids of containers into which something was just copied; ends with the connection. The first item is "": it
    listens.
    """
    filters = quote(json.dumps({"type": ["container"], "event": ["extract-to-dir"]}))
    connection.request("GET", f"/events?filters={filters}")
    answer = connection.getresponse()
    if answer.status != http.HTTPStatus.OK:
        return
    yield ""
    while line := answer.readline():
        try:
            yield str(json.loads(line)["Actor"]["ID"])
        except (ValueError, KeyError, TypeError):
            continue
