"""adjtimex(2), clock_adjtime(2) and what sets the time of day, with and without the filter, by both ABIs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support import whole
from support.both_abis import MARKS

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = MARKS

PRETENDS = """\
extends: [default]
selectable: true
calls:
  clock_settime: [{when: {clk_id: 0}, do: pretend}, {do: native}]
  settimeofday: [{do: {deny: EACCES}}]
  adjtimex: [{do: native}]
"""


@pytest.fixture(scope="module")
def host() -> Iterator[whole.Host]:
    with whole.host("runc", {"pretends": PRETENDS}) as host:
        yield host


@pytest.fixture(scope="module")
def box(host: whole.Host) -> whole.Box:
    return host.box()


def answers(box: whole.Box, abi: str, *, filtered: bool) -> list[str]:
    run = box.exec if filtered else box.unfiltered
    done = run(box.probe("clock"), abi)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) > 100
    return lines


@pytest.mark.parametrize("abi", ["64", "32"])
def test_only_corrections_are_answered_otherwise_than_by_the_kernel(box: whole.Box, abi: str) -> None:
    pairs = list(zip(answers(box, abi, filtered=False), answers(box, abi, filtered=True), strict=True))
    different = [(kernel, ours) for kernel, ours in pairs if kernel != ours and not ours.startswith("  ")]
    assert different
    for kernel, ours in different:
        name, _, said = kernel.rpartition(": ")
        # The kernel asks for the capability before it looks at the values: EINVAL is what real root hears.
        assert said == "EPERM"
        assert ours in (f"{name}: ok", f"{name}: EINVAL")
    refused = {ours for kernel, ours in pairs if ours.endswith("EPERM")}
    assert refused >= {"adjtimex step: EPERM", "clock_adjtime step: EPERM", "clock_settime good: EPERM"}
    assert ("adjtimex wrong tick: EPERM", "adjtimex wrong tick: EINVAL") in pairs


def test_what_was_asked_for_is_read_back_and_the_clock_is_untouched(box: whole.Box) -> None:
    [before] = [line for line in box.sh("busybox adjtimex").splitlines() if "-f" in line]
    lines = answers(box, "64", filtered=True)
    assert "freq 65536" in lines[lines.index("adjtimex frequency: ok") + 1]
    assert "tick 10001" in lines[lines.index("clock_adjtime tick: ok") + 1]
    assert "maxerror 123" in lines[lines.index("clock_adjtime maxerror: ok") + 1]
    assert [line for line in box.sh("busybox adjtimex").splitlines() if "-f" in line] == [before]
    assert box.sh("busybox adjtimex -f 77 >/dev/null && echo ok") == "ok\n"
    event = box.trace("--syscall", "adjtimex", "--last", "1")[0]
    assert event["how"] == "emulated"


def test_without_cap_sys_time_the_kernel_decides(box: whole.Box) -> None:
    done = box.exec("busybox", "adjtimex", "-f", "77", user="1000:1000")
    assert done.returncode == 1
    assert "not permitted" in done.stderr


def test_a_policy_says_otherwise(host: whole.Host) -> None:
    box = host.box("pretends")
    lines = answers(box, "64", filtered=True)
    assert "clock_settime good: ok" in lines
    assert "clock_settime another clock: EINVAL" in lines
    assert "settimeofday good: EACCES" in lines
    assert "adjtimex frequency: EPERM" in lines
    assert "clock_adjtime frequency: ok" in lines
