"""The OCI runtime command line, as far as we must read and extend it.

Source: runc(8), crun(1): global options, then the command, its options, and the container's id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_GLOBAL_WITH_VALUE = ("--root", "--log", "--log-format", "--criu", "--rootless", "--cgroup-manager", "-r", "-l")


def command_index(argv: Sequence[str]) -> int:
    """Where the command stands: the first argument that is neither a global option nor the value of one."""
    number = 0
    while number < len(argv) and argv[number].startswith("-"):
        number += 2 if argv[number] in _GLOBAL_WITH_VALUE else 1
    return number


def global_options(argv: Sequence[str]) -> list[str]:
    """What stands before the command: --root and friends, without which the runtime does not find the container."""
    return list(argv[: command_index(argv)])


def with_option(argv: Sequence[str], *option: str) -> list[str]:
    """`argv` with an option added behind the command."""
    at = command_index(argv) + 1
    return [*argv[:at], *option, *argv[at:]]
