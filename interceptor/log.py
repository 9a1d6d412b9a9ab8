"""Where logs go and what they look like. Called once, by a process's entry point; importing a module logs nothing.

Console lines are for people (`interceptor supervise` in a terminal), JSON lines for journald and collectors. Both go to
standard error: standard output belongs to a command's result.
"""

from __future__ import annotations

import enum
import logging
import sys
from typing import TYPE_CHECKING, TextIO

import structlog
from structlog.tracebacks import ExceptionDictTransformer

from interceptor.errors import ConfigError
from interceptor.printable import printable, wants_colour

if TYPE_CHECKING:
    from collections.abc import Sequence

    from structlog.typing import EventDict, Processor

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Format(enum.StrEnum):
    """How a log line is written."""

    CONSOLE = "console"
    JSON = "json"


def configure(form: str = Format.CONSOLE, *, level: str = "info", stream: TextIO | None = None) -> None:
    """Sets structlog up for the whole process. `stream` defaults to standard error.

    Raises ConfigError for a format or level that there is not.
    """
    if form not in list(Format):
        raise ConfigError(f"log format {form!r} is unknown; there are {', '.join(Format)}")
    if level not in LEVELS:
        raise ConfigError(f"log level {level!r} is unknown; there are {', '.join(LEVELS)}")
    output = stream or sys.stderr
    structlog.configure(
        processors=[*_common(), *_last(Format(form), output)],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(output),
        cache_logger_on_first_use=False,
    )


def _common() -> Sequence[Processor]:
    return [structlog.contextvars.merge_contextvars, structlog.processors.add_log_level]


def _last(form: Format, output: TextIO) -> Sequence[Processor]:
    if form is Format.JSON:
        return [
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
            structlog.processors.JSONRenderer(),
        ]
    plain = structlog.dev.plain_traceback  # without local variables: they may hold a tracee's secrets
    return [
        _printable,
        structlog.processors.TimeStamper(fmt="%H:%M:%S.%f", utc=False),
        structlog.dev.ConsoleRenderer(colors=wants_colour(output), pad_event_to=32, exception_formatter=plain),
    ]


def _printable(_logger: object, _method: str, event: EventDict) -> EventDict:
    return {key: printable(value) if isinstance(value, str) else value for key, value in event.items()}
