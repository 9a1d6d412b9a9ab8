"""Between clone(2) and execve(2) a child has copies of all descriptors: who has closed a container's waits for it."""

from __future__ import annotations

import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from interceptor.native import children, pin

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


@pytest.fixture
def young(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A child is being made; once the event is set, it has executed its program."""
    begun, goes_on = threading.Event(), threading.Event()

    def slowly(_self: Any, *_arguments: Any, **_more: Any) -> None:
        begun.set()
        assert goes_on.wait(60)

    monkeypatch.setattr(subprocess.Popen, "__init__", slowly)
    monkeypatch.setattr(subprocess.Popen, "__del__", lambda _self: None)
    thread = threading.Thread(target=children.Popen, args=(["true"],))
    thread.start()
    assert begun.wait(60)
    yield goes_on
    goes_on.set()
    thread.join()


def test_closed_is_closed_once_no_child_is_young(young: threading.Event) -> None:
    settled = threading.Event()

    def close() -> None:
        pin.settle()
        settled.set()

    thread = threading.Thread(target=close)
    thread.start()
    assert not settled.wait(0.2)
    young.set()
    thread.join(60)
    assert settled.is_set()


def test_nobody_waits_without_children() -> None:
    pin.settle()


def test_run() -> None:
    done = children.run(["sh", "-c", "cat; echo said; echo complained >&2; exit 3"])
    assert (done.returncode, done.stdout, done.stderr) == (3, "said\n", "complained\n")
    with pytest.raises(FileNotFoundError):
        children.run(["/nowhere"])
    with pytest.raises(subprocess.TimeoutExpired):
        children.run(["sleep", "100"], timeout=0.01)
    pin.settle()
