"""What goes over our own sockets, as values: the agent's requests and the control socket's messages.

The agent's binary layout is the C struct in native/agent_wire.h, packed by native/; here are only the values.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from interceptor.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Mapping

CONTROL_VERSION = 1
CONTROL_MESSAGE_MAX = 128 * 1024
"""Bytes of one message on the control socket (SOCK_SEQPACKET keeps messages apart)."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """Where a path of the tracee starts and how it goes on; never resolved by the supervisor.

    `fd` is None for the tracee's own root or cwd, else the number of a descriptor *of ours* that was taken from the
    tracee (/proc/self/fd/N). `path` may be empty: the descriptor itself.
    """

    path: bytes
    fd: int | None = None


def encode(message: Mapping[str, Any]) -> bytes:
    """One control message: a JSON object with "v"; WireError when it is longer than a message may be."""
    data = json.dumps({"v": CONTROL_VERSION, **message}, separators=(",", ":")).encode()
    if len(data) > CONTROL_MESSAGE_MAX:
        raise WireError(f"message of {len(data)} bytes; the control socket carries {CONTROL_MESSAGE_MAX}")
    return data


def decode(data: bytes) -> dict[str, Any]:
    """The object in `data`; WireError for what is no JSON object or another version than ours."""
    message = parse(data)
    if not isinstance(message, dict):
        raise WireError(f"a message is a JSON object, this is {type(message).__name__}")
    if message.get("v") != CONTROL_VERSION:
        raise WireError(f'message version {message.get("v")!r}; this supervisor speaks version {CONTROL_VERSION}')
    return message


def parse(data: bytes | bytearray) -> Any:
    """The JSON value in `data`; WireError for anything else, however deeply it is nested."""
    try:
        return json.loads(data)
    except ValueError as error:
        raise WireError(f"not JSON: {error}") from None
    except RecursionError:
        raise WireError("JSON nested too deeply") from None
