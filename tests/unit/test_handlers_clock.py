"""The clock is the host's: corrections are told to have succeeded, all else is the kernel's."""

from __future__ import annotations

import errno

import pytest
from support.fakes import Asked, FakeTracee, ask
from support.sources import REPOSITORY

from interceptor import registry
from interceptor.handlers.adjtimex import (
    FIELDS,
    MAX_FREQUENCY,
    NARROW,
    TIME_ERROR,
    TIME_OK,
    WIDE,
    AdjtimexArgs,
    Adjust,
    ClockAdjtimeArgs,
    packed,
    unpacked,
)
from interceptor.handlers.clock_settime import ClockSettimeArgs, SettimeofdayArgs, StimeArgs
from interceptor.policy_file import load_all
from interceptor.stanza import outside, reach, rules
from interceptor.verdict import Continue, Fail, Return

AT = 0x1000
NOW = dict.fromkeys(FIELDS, 0) | {
    "freq": -7,
    "tick": 10_000,
    "status": 0x2041,
    "maxerror": 9,
    "time_sec": 1 << 33,
    "tai": 37,
}
SHIPPED = load_all([REPOSITORY / "policies"])


def asked_for(modes: int, *, bits: int = 64, name: str = "adjtimex", state: int = TIME_ERROR, **values: int) -> Asked:
    layout = NARROW if bits == 32 and name != "clock_adjtime64" else WIDE
    memory = {AT: packed(layout, dict.fromkeys(FIELDS, 0) | {"modes": modes} | values)}
    tracee = FakeTracee(memory=memory, long_bits=bits, timex=(state, packed(WIDE, NOW)))
    args = AdjtimexArgs(AT) if name == "adjtimex" else ClockAdjtimeArgs(0, AT)
    return ask(name, args, tracee=tracee)


def read_back(asked: Asked, layout: object = WIDE) -> dict[str, int]:
    assert layout in (WIDE, NARROW)
    return unpacked(NARROW if layout is NARROW else WIDE, asked.reach.tracee.memory[AT])


def test_the_layouts_have_the_kernels_sizes() -> None:
    assert (WIDE.size, NARROW.size) == (208, 128)


@pytest.mark.parametrize("modes", [0, 0xA001, 0xA000, Adjust.SETOFFSET, Adjust.SETOFFSET | Adjust.STATUS])
def test_reading_and_steps_are_the_kernels(modes: int) -> None:
    assert isinstance(asked_for(modes).verdict, Continue)


@pytest.mark.parametrize("name", ["adjtimex", "clock_adjtime", "clock_adjtime64"])
@pytest.mark.parametrize("bits", [64, 32])
def test_a_correction_succeeds_and_reads_back_what_was_asked_for(name: str, bits: int) -> None:
    asked = asked_for(Adjust.FREQUENCY | Adjust.MAXERROR, name=name, bits=bits, freq=-5, maxerror=3, esterror=8)
    assert asked.verdict == Return(TIME_ERROR)
    assert asked.call.why
    found = read_back(asked, NARROW if bits == 32 and name != "clock_adjtime64" else WIDE)
    assert (found["freq"], found["maxerror"], found["esterror"], found["tick"], found["tai"]) == (-5, 3, 0, 10_000, 37)


def test_what_is_too_wide_for_a_32_bit_program_is_cut_off() -> None:
    found = read_back(asked_for(Adjust.TICK, bits=32, tick=10_001), NARROW)
    assert (found["time_sec"], found["tick"]) == (0, 10_001)


def test_the_status_that_was_asked_for_is_the_state() -> None:
    synchronised, not_yet = asked_for(Adjust.STATUS, status=0xFF01), asked_for(Adjust.STATUS, status=0x40, state=0)
    assert (synchronised.verdict, not_yet.verdict) == (Return(TIME_OK), Return(TIME_ERROR))
    assert read_back(synchronised)["status"] == 0x2001


def test_a_frequency_is_bounded_as_the_kernel_does_it() -> None:
    assert read_back(asked_for(Adjust.FREQUENCY, freq=1 << 30))["freq"] == MAX_FREQUENCY
    assert read_back(asked_for(Adjust.FREQUENCY, freq=-(1 << 30)))["freq"] == -MAX_FREQUENCY


@pytest.mark.parametrize(
    ("modes", "values"),
    [
        (Adjust.ADJTIME, {}),
        (Adjust.TICK, {"tick": 8_999}),
        (Adjust.TICK, {"tick": 11_001}),
        (Adjust.FREQUENCY, {"freq": 1 << 62}),
    ],
)
def test_what_the_kernel_takes_from_nobody_is_einval(modes: int, values: dict[str, int]) -> None:
    assert asked_for(modes, **values).verdict == Fail(errno.EINVAL)


def test_nothing_is_left_of_an_earlier_adjtime() -> None:
    asked = asked_for(0x8001, offset=500)
    assert asked.verdict == Return(TIME_ERROR)
    assert read_back(asked)["offset"] == 0


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("clock_settime", ClockSettimeArgs(0, AT)),
        ("clock_settime64", ClockSettimeArgs(0, AT)),
        ("settimeofday", SettimeofdayArgs(AT, 0)),
        ("stime", StimeArgs(AT)),
    ],
)
def test_the_time_of_day_is_the_kernels_to_refuse(name: str, args: object) -> None:
    assert isinstance(ask(name, args).verdict, Continue)


@pytest.mark.parametrize("name", ["clock_adjtime", "clock_adjtime64", "clock_settime", "clock_settime64"])
def test_other_clocks_never_leave_the_kernel(name: str) -> None:
    tests = reach(registry.load()[name])
    assert not outside(tests, (0xDEADBEEF << 32, AT, 0, 0, 0, 0))
    assert outside(tests, (1, AT, 0, 0, 0, 0))
    assert outside(tests, (0xFFFFFFFF, AT, 0, 0, 0, 0))


def test_the_shipped_policy_leaves_setting_the_time_out_of_the_filter() -> None:
    found = {name for rule in rules(registry.load(), SHIPPED.get("default")) for name in rule["names"]}
    assert {"adjtimex", "clock_adjtime", "clock_adjtime64"} <= found
    assert not {"clock_settime", "clock_settime64", "settimeofday", "stime"} & found
