"""A look into another mount namespace, from threads that start threads."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from interceptor.native.fd import Fd
from interceptor.native.namespaces import in_mount_namespace

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def test_a_thread_that_started_another_may_enter_again() -> None:
    """Threads share root and cwd with the thread that started them, and setns(2) refuses whoever shares them."""
    over = threading.Event()

    def enter_start_enter() -> int:
        with Fd(os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)) as namespace:
            with in_mount_namespace(namespace.fileno()):
                pass
            threading.Thread(target=over.wait, daemon=True).start()
            with in_mount_namespace(namespace.fileno()):
                return os.fstat(namespace.fileno()).st_ino

    try:
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(enter_start_enter).result() == Path("/proc/self/ns/mnt").stat().st_ino
    finally:
        over.set()
