"""sethostname(2) for a container without CAP_SYS_ADMIN: as the policy says about the name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from support.engine import EngineError
from support.runtime import interceptor
from support.variants import Variant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from support.engine import Engine

pytestmark = [pytest.mark.root, pytest.mark.engine, pytest.mark.slow]

TINY = Variant("tiny", image="busybox")

POLICY = """\
description: Names of web servers
extends: [default]
match:
  image: [busybox]
capabilities: engine
calls:
  sethostname:
    - when: {name: "web-*"}
      do: emulate
    - do: deny
"""
DENIED_BY = "names.yaml:10"
"""The rule that says deny."""


@pytest.fixture(scope="module")
def engine(
    start_engine: Callable[..., AbstractContextManager[Engine]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    policies = tmp_path_factory.mktemp("policies")
    (policies / "names.yaml").write_text(POLICY, encoding="utf-8")
    with start_engine(TINY, INTERCEPTOR_POLICIES=str(policies)) as started:
        fixed = ("--detach", "--runtime", "interceptor", "--name", "named", "--hostname", "before")
        started.docker("run", *fixed, TINY.image, "sleep", "3600")
        yield started


def inside(engine: Engine, script: str) -> str:
    return engine.output("exec", "named", "sh", "-euc", script)


def test_it_has_no_capability_for_it(engine: Engine) -> None:
    """Docker's fourteen, of which CAP_SYS_ADMIN (21) is none."""
    capabilities = inside(engine, "grep CapEff /proc/self/status").split()[1]
    assert int(capabilities, 16) & (1 << 21) == 0


def test_an_allowed_name_is_set_and_seen_everywhere(engine: Engine) -> None:
    said = inside(engine, "hostname web-1; hostname; cat /proc/sys/kernel/hostname; uname -n")
    assert said.split() == ["web-1", "web-1", "web-1"]
    assert inside(engine, "hostname") == "web-1", "for other processes as well"


def test_another_name_is_refused_and_the_trace_says_by_which_rule(engine: Engine) -> None:
    inside(engine, "hostname web-2")
    with pytest.raises(EngineError, match="Operation not permitted"):
        inside(engine, "hostname database")
    assert inside(engine, "cat /proc/sys/kernel/hostname") == "web-2"
    event = json.loads(interceptor(engine, "trace", "named", "--denied", "--json", "--last", "1").stdout)
    assert (event["call"], event["errno"], event["comm"]) == ("sethostname", "EPERM", "hostname")
    assert "database" in event["arguments"]
    assert event["rule"].endswith(DENIED_BY)
    assert event["remedy"]
