"""Log lines for people and for collectors."""

from __future__ import annotations

import io
import json
import threading
from typing import TYPE_CHECKING

import pytest
import structlog

from interceptor import diagnosis, log
from interceptor.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def logged(form: str, level: str = "info") -> str:
    stream = io.StringIO()
    log.configure(form, level=level, stream=stream)
    logger = structlog.get_logger()
    logger.debug("unimportant")
    try:
        _fail("2retnuh"[::-1])
    except ValueError:
        logger.exception("agent died", container="x\x1b[2J")
    return stream.getvalue()


def _fail(secret: str) -> None:
    """A failure below a local variable that must not appear."""
    raise ValueError("boom" if secret else "")


def test_console_lines_are_for_people() -> None:
    text = logged("console")
    assert "agent died" in text
    assert "ValueError: boom" in text
    assert "\x1b" not in text
    assert "unimportant" not in text
    assert "hunter2" not in text


def test_json_lines_are_for_collectors() -> None:
    [line] = logged("json").splitlines()
    entry = json.loads(line)
    assert entry["event"] == "agent died"
    assert entry["level"] == "error"
    assert entry["time"].endswith("Z")
    assert entry["exception"][0]["exc_type"] == "ValueError"
    assert "hunter2" not in line


def test_levels() -> None:
    assert "unimportant" in logged("json", "debug")


def test_a_wrong_setting_is_explained() -> None:
    with pytest.raises(ConfigError, match="log format 'xml' is unknown; there are console, json"):
        log.configure("xml")
    with pytest.raises(ConfigError, match="log level 'loud' is unknown; there are debug, info, warning, error"):
        log.configure("json", level="loud")


class Hung:
    container_id = "web"

    def busy(self) -> list[tuple[int, int]]:
        return [(threading.get_ident(), 0)]


@pytest.mark.parametrize("form", list(log.Format))
def test_a_call_that_hangs_is_told(form: str) -> None:
    stream = io.StringIO()
    log.configure(form, stream=stream)
    watchdog = diagnosis.Watchdog()
    for _ in range(2):
        watchdog.look([Hung()])  # type: ignore[list-item]
    assert len(stream.getvalue().splitlines()) == 1
    assert "test_a_call_that_hangs_is_told" in stream.getvalue()
