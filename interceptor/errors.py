"""What can go wrong, and whose fault it is.

Three kinds, told apart once, in `dispatch`: `OSError` is the tracee's failure and becomes the errno of its call;
`NotificationGone` means that nobody waits for an answer any more; `InterceptorError` is ours, becomes EIO for the
tracee and a logged error for us.
"""

from __future__ import annotations


class InterceptorError(Exception):
    """A fault of ours or of what the administrator gave us.

    The message says which value, where it came from, and what would be right.
    """


class NotificationGone(InterceptorError):  # noqa: N818 - a state of the kernel's, not an error of anybody's
    """The tracee was killed or interrupted: ENOENT from a seccomp ioctl (seccomp_unotify(2))."""


class NothingToLend(InterceptorError):  # noqa: N818 - a state of the tracee's, not an error of anybody's
    """The tracee has root's filesystem id on the host, as a runtime's own process in a container: the kernel's to answer."""


class ConfigError(InterceptorError):
    """A configuration value, environment variable, OCI config or command line that cannot be used."""


class PolicyError(InterceptorError):
    """A policy file that cannot be used; carries the place as ``file:line:column``."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{where}: {what}")
        self.where = where
        self.what = what


class WireError(InterceptorError):
    """A malformed message on one of our sockets; the connection ends, nothing else does."""


class AgentError(InterceptorError):
    """The agent died, does not answer within its deadline, or answered something that is no answer."""


class AgentEndedError(AgentError):
    """The agent ended, killed by somebody else, after it had taken a request."""
