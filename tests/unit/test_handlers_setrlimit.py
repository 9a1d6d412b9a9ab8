"""Resource limits: raised up to the ceilings of policy, and the kernel's in everything else."""

from __future__ import annotations

from resource import RLIMIT_CORE, RLIMIT_MEMLOCK, RLIMIT_NOFILE
from struct import pack

import pytest
from support.fakes import Asked, FakeTracee, ask, policy
from support.sources import REPOSITORY

from interceptor import registry
from interceptor.handlers.setrlimit import Prlimit64Args, SetrlimitArgs
from interceptor.limits import RLIM_INFINITY, Ceilings, Limits
from interceptor.policy_file import load_all
from interceptor.stanza import filtered, rules
from interceptor.verdict import Continue, Return

CEILINGS = Ceilings(rlimits={RLIMIT_NOFILE: 1 << 20, RLIMIT_MEMLOCK: RLIM_INFINITY})
NEW, OLD = 0x1000, 0x2000
HARD = 4096
ROWS = registry.load()


def asked(
    args: object, limits: tuple[int, int], *, ceilings: Ceilings = CEILINGS, nested: bool = False, bits: int = 64
) -> Asked:
    name = {SetrlimitArgs: "setrlimit", Prlimit64Args: "prlimit64"}[type(args)]
    layout = "=2I" if bits == 32 and name == "setrlimit" else "=2Q"
    resources = (RLIMIT_NOFILE, RLIMIT_MEMLOCK, RLIMIT_CORE, 99)
    had = {(number, resource): (1024, HARD) for number in (0, 33) for resource in resources}
    tracee = FakeTracee(memory={NEW: pack(layout, *limits)}, in_nested_user_namespace=nested, long_bits=bits, limits=had)
    return ask(name, args, tracee=tracee, by=policy(limits=Limits(ceilings=ceilings)))


def done(found: Asked) -> list[tuple[object, ...]]:
    return found.reach.tracee.scheduled


@pytest.mark.parametrize("hard", [HARD + 1, 1 << 20])
@pytest.mark.parametrize("soft", [0, HARD + 1])
def test_a_hard_limit_is_raised_up_to_the_ceiling(soft: int, hard: int) -> None:
    found = asked(SetrlimitArgs(RLIMIT_NOFILE, NEW), (soft, hard))
    assert (found.verdict, done(found)) == (Return(), [("limit", 0, RLIMIT_NOFILE, soft, hard)])


def test_of_another_process_and_the_limits_before_are_told() -> None:
    found = asked(Prlimit64Args(33, RLIMIT_NOFILE, NEW, OLD), (5, 9000))
    assert (found.verdict, done(found)) == (Return(), [("limit", 33, RLIMIT_NOFILE, 5, 9000)])
    assert found.reach.tracee.memory[OLD] == pack("=2Q", 1024, HARD)


def test_who_does_not_ask_for_them_is_not_told() -> None:
    found = asked(Prlimit64Args(0, RLIMIT_NOFILE, NEW, 0), (5, 9000))
    assert found.verdict == Return()
    assert list(found.reach.tracee.memory) == [NEW]


def test_no_bound_is_a_ceiling_too() -> None:
    found = asked(Prlimit64Args(0, RLIMIT_MEMLOCK, NEW, 0), (RLIM_INFINITY, RLIM_INFINITY))
    assert done(found) == [("limit", 0, RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY)]


@pytest.mark.parametrize(("narrow", "wide"), [((5, 9000), (5, 9000)), ((5, 0xFFFFFFFF), (5, RLIM_INFINITY))])
def test_32_bit_programs_have_limits_of_their_own_width(narrow: tuple[int, int], wide: tuple[int, int]) -> None:
    assert done(asked(SetrlimitArgs(RLIMIT_MEMLOCK, NEW), narrow, bits=32)) == [("limit", 0, RLIMIT_MEMLOCK, *wide)]
    same = asked(Prlimit64Args(0, RLIMIT_MEMLOCK, NEW, 0), (5, 0xFFFFFFFF), bits=32)
    assert done(same) == [("limit", 0, RLIMIT_MEMLOCK, 5, 0xFFFFFFFF)], "prlimit64 has 64 bits for all"


@pytest.mark.parametrize(
    ("resource", "limits"),
    [
        (RLIMIT_NOFILE, (0, HARD)),
        (RLIMIT_NOFILE, (HARD, 5)),
        (RLIMIT_NOFILE, (9001, 9000)),
        (RLIMIT_NOFILE, (0, (1 << 20) + 1)),
        (RLIMIT_NOFILE, (0, RLIM_INFINITY)),
        (RLIMIT_CORE, (0, RLIM_INFINITY)),
        (99, (0, RLIM_INFINITY)),
    ],
)
def test_what_raises_nothing_or_too_much_is_the_kernels(resource: int, limits: tuple[int, int]) -> None:
    for args in (SetrlimitArgs(resource, NEW), Prlimit64Args(33, resource, NEW, OLD)):
        found = asked(args, limits)
        assert isinstance(found.verdict, Continue)
        assert not done(found)
        assert ("limits: rlimits:" in found.call.why) is (resource == RLIMIT_NOFILE and limits[1] > 1 << 20)


def test_nothing_is_lent_to_nested_user_namespaces() -> None:
    found = asked(SetrlimitArgs(RLIMIT_NOFILE, NEW), (0, 9000), nested=True)
    assert isinstance(found.verdict, Continue)
    assert not done(found)


@pytest.mark.parametrize(
    ("name", "registers", "native"),
    [
        ("prlimit64", (0, RLIMIT_NOFILE, NEW, 0), False),
        ("prlimit64", (33, 0xDEADBEEF << 32 | RLIMIT_MEMLOCK, 1 << 40, OLD), False),
        ("prlimit64", (0, RLIMIT_NOFILE, 0, OLD), True),
        ("prlimit64", (0, RLIMIT_CORE, NEW, 0), True),
        ("setrlimit", (RLIMIT_NOFILE, NEW), False),
        ("setrlimit", (RLIMIT_NOFILE, 0), True),
        ("setrlimit", (RLIMIT_CORE, NEW), True),
    ],
)
def test_who_only_asks_and_what_has_no_ceiling_never_leaves_the_kernel(
    name: str, registers: tuple[int, ...], native: bool
) -> None:
    by = policy(default=load_all([REPOSITORY / "policies"]).get("default").default, limits=Limits(ceilings=CEILINGS))
    found = filtered(ROWS[name], by, (*registers, 0, 0, 0, 0))
    assert (found is not None) is native


@pytest.mark.parametrize("shipped", ["default", "systemd", "docker"])
def test_they_are_off_by_default(shipped: str) -> None:
    found = {n for rule in rules(ROWS, load_all([REPOSITORY / "policies"]).get(shipped)) for n in rule["names"]}
    assert not found & {"setrlimit", "prlimit64"}
