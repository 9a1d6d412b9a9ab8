from __future__ import annotations

import errno
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.policy_rows import NOT_NEW, ROWS, MountFlags, NameArgs, ShutdownArgs, policy, row, rows_of, write

from interceptor import policy_file, stanza
from interceptor.args import Arch
from interceptor.policy import OFF, Caller, Decision, Do, FlagSet, Numbers, Rule
from interceptor.stanza import Action, RegisterTest, TableRow, TextTest

if TYPE_CHECKING:
    from pathlib import Path

MOUNT = ROWS["mount"]
MASKED = {"index": 3, "value": int(NOT_NEW), "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}


def rules_for(tmp_path: Path, call: str, text: str) -> list[dict[str, object]]:
    p = policy(tmp_path, text)
    return [r for r in stanza.rules(ROWS, p) if r["names"] == [call]]


def table_for(tmp_path: Path, call: str, text: str, arch: Arch = Arch.X86_64) -> list[TableRow]:
    p = policy(tmp_path, text)
    nr = ROWS[call].number(arch)
    return [r for r in stanza.table(ROWS, p, arch) if r.nr == nr]


def test_a_row_notifies_where_its_when_holds(tmp_path: Path) -> None:
    assert rules_for(tmp_path, "mount", "default: emulate") == [
        {"names": ["mount"], "action": "SCMP_ACT_NOTIFY", "args": [MASKED]}
    ]
    assert rules_for(tmp_path, "sethostname", "default: emulate") == [
        {"names": ["sethostname"], "action": "SCMP_ACT_NOTIFY"}
    ]
    assert all(type(a["value"]) is int for r in rules_for(tmp_path, "mount", "default: emulate") for a in r["args"])  # type: ignore[attr-defined]


def test_what_is_native_throughout_is_not_intercepted(tmp_path: Path) -> None:
    assert stanza.rules(ROWS, policy(tmp_path, "default: native")) == []
    text = "default: emulate\ncalls: {mount: [{when: {fstype: x}, do: native}, {do: native}]}\n"
    assert rules_for(tmp_path, "mount", text) == []


def test_what_is_always_denied_is_answered_by_the_filter(tmp_path: Path) -> None:
    text = "default: emulate\ncalls: {mount: [{when: {fstype: x}, do: {deny: ENOSYS}}, {do: {deny: ENOSYS}}]}\n"
    denied = {"names": ["mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS}
    assert rules_for(tmp_path, "mount", text) == [denied]


def test_what_pretends_throughout_is_answered_by_the_filter_too(tmp_path: Path) -> None:
    text = "default: emulate\ncalls: {sethostname: [{do: pretend}], shutdown: [{when: {how: 1}, do: pretend}]}\n"
    assert rules_for(tmp_path, "sethostname", text) == [
        {"names": ["sethostname"], "action": "SCMP_ACT_ERRNO", "errnoRet": 0}
    ]
    file = tmp_path / "default.yaml"
    (row,) = table_for(tmp_path, "shutdown", text)
    assert (row.action, row.number, row.rule) == (Action.RETURN, 0, f"{file}:2")


@pytest.mark.parametrize(
    ("rules", "sent"),
    [
        ("{when: {flags: {has: MS_RDONLY}}, do: emulate}, {do: native}", [{3: (NOT_NEW | 1, 1)}]),
        ("{when: {flags: {has: MS_RDONLY}}, do: deny}, {when: {flags: {has: MS_NOSUID}, data: x}, do: emulate}, {do: native}",
         [{3: (NOT_NEW | 1, 1)}, {3: (NOT_NEW | 2, 2)}, {3: (1, 1)}]),
        ("{when: {flags: {has: MS_RDONLY}}, do: emulate}, {when: {fstype: x}, do: emulate}, {do: native}", [{3: (NOT_NEW, 0)}]),
        ("{when: {flags: {has: MS_RDONLY}}, do: native}, {when: {flags: {has: MS_NOSUID}}, do: emulate}, {do: native}",
         [{3: (NOT_NEW | 2, 2)}]),
        ("{when: {flags: {has: MS_RDONLY}}, do: emulate}, {do: native, log: true}", [{3: (NOT_NEW, 0)}]),
        ("{when: {flags: {has: MS_RDONLY}}, do: emulate}", [{3: (NOT_NEW, 0)}]),
    ],
)  # fmt: skip
def test_the_filter_sends_only_what_some_rule_wants(tmp_path: Path, rules: str, sent: list[stanza.Masks]) -> None:
    p = policy(tmp_path, f"default: emulate\ncalls: {{mount: [{rules}]}}\n")
    assert stanza.conditions(MOUNT, p) == sent


@pytest.mark.parametrize("do", ["kill", "stop"])
def test_nobody_is_killed_but_by_the_supervisor(tmp_path: Path, do: str) -> None:
    text = f"default: native\ncalls: {{sethostname: [{{do: {do}}}]}}\n"
    assert rules_for(tmp_path, "sethostname", text) == [{"names": ["sethostname"], "action": "SCMP_ACT_NOTIFY"}]
    assert table_for(tmp_path, "sethostname", text) == []


def test_an_optional_call_is_in_the_filter_only_where_a_rule_wants_it(tmp_path: Path) -> None:
    rows = rows_of(row("sethostname", NameArgs, optional=True))

    def intercepted(name: str, text: str) -> list[object]:
        write(tmp_path / name, "default", text)
        chosen = policy_file.load_all([tmp_path / name], rows).get("default")
        assert chosen.ladder("sethostname")[-1].unconditional
        return [r["action"] for r in stanza.rules(rows, chosen)]

    assert intercepted("a", "default: emulate\n") == []
    assert intercepted("b", "default: emulate\ncalls: {sethostname: [{do: native}]}\n") == []
    assert intercepted("c", "default: native\ncalls: {sethostname: [{do: emulate}]}\n") == ["SCMP_ACT_NOTIFY"]
    one = "default: emulate\ncalls: {sethostname: [{when: {name: a}, do: emulate}]}\n"
    assert intercepted("d", one) == ["SCMP_ACT_NOTIFY"]
    decided = policy_file.load_all([tmp_path / "d"], rows).get("default").ladder("sethostname")
    assert [(r.decision.do, r.decision.rule) for r in decided[1:]] == [(Do.NATIVE, OFF)]


@pytest.mark.parametrize("do", ["native", "{deny: ENOSYS}", "pretend"])
def test_a_rule_that_logs_is_compiled_nowhere(tmp_path: Path, do: str) -> None:
    text = f"default: emulate\ncalls: {{sethostname: [{{do: {do}, log: true}}]}}\n"
    assert rules_for(tmp_path, "sethostname", text)[0]["action"] == "SCMP_ACT_NOTIFY"
    assert table_for(tmp_path, "sethostname", text) == []


@pytest.mark.parametrize(
    ("rule", "further"),
    [
        ("{when: {flags: {has: [MS_BIND]}}, do: deny}", [{3: (4096, 4096)}]),
        ("{when: {source: x, flags: {has: [MS_BIND], not: [MS_RDONLY]}}, do: deny}", [{3: (4097, 4096)}]),
        ("{when: {flags: {has: [MS_RDONLY]}}, do: deny}", [{3: (1, 1)}]),
        ("{when: {flags: {has: [MS_BIND]}}, do: pretend}", [{3: (4096, 4096)}]),
        ("{when: {flags: {has: [MS_BIND]}}, do: kill}", [{3: (4096, 4096)}]),
        ("{when: {caller: {uid: 1}}, do: deny}", [{}]),
        ("{when: {fstype: nfs}, do: deny}", []),
        ("{when: {fstype: nfs, flags: {has: [MS_RDONLY]}}, do: deny}", []),
        ("{when: {flags: {has: [MS_BIND]}}, do: native}", []),
        ("{when: {caller: {uid: 1}, flags: {not: [MS_BIND, MS_MOVE, MS_REMOUNT, MS_PRIVATE]}}, do: deny}", []),
        ("{when: {caller: {uid: 1}, flags: {not: [MS_BIND, MS_MOVE, MS_REMOUNT]}}, do: deny}", [{3: (12320, 0)}]),
        ("{when: {caller: {uid: 1}}, do: native}, {when: {flags: {has: MS_MOVE}}, do: deny}", [{3: (8192, 8192)}]),
        ("{do: emulate}", []),
    ],
)
def test_a_denial_that_reaches_beyond_the_filter_widens_it(
    tmp_path: Path, rule: str, further: list[stanza.Masks]
) -> None:
    p = policy(tmp_path, f"default: emulate\ncalls: {{mount: [{rule}]}}\n")
    assert stanza.conditions(MOUNT, p) == [{3: (NOT_NEW, 0)}, *further]
    everything = {} in further
    assert any("args" not in r for r in stanza.rules(ROWS, p) if r["names"] == ["mount"]) is everything
    assert (not [r for r in stanza.allowed(ROWS, p) if r["names"] == ["mount"]]) is everything


def test_a_default_that_denies_reaches_beyond_the_filter(tmp_path: Path) -> None:
    found = rules_for(tmp_path, "mount", "default: deny\ncalls: {mount: [{when: {fstype: proc}, do: emulate}]}\n")
    assert found == [{"names": ["mount"], "action": "SCMP_ACT_NOTIFY"}]
    assert stanza.outside(stanza.reach(MOUNT), [0, 0, 0, MountFlags.MS_BIND, 0, 0])
    assert not stanza.outside(stanza.reach(MOUNT), [MountFlags.MS_BIND, 0, 0, 1, 0, 0])


def test_complement_is_one_rule_for_each_bit() -> None:
    bits = (32, 4096, 8192, 1 << 18)
    assert stanza.complement([{3: (NOT_NEW, 0)}]) == [{3: (sum(bits[: n + 1]), bit)} for n, bit in enumerate(bits)]
    assert stanza.complement([]) == [{}]
    assert stanza.complement([{0: (1, 1)}, {0: (1, 0)}]) == []


def test_complement_of_several_numbers_needs_few_rules() -> None:
    """It was one for each pair of bits in which a number differs: that filled filters, and took half a second."""
    numbers = (0, 0x89ABCDEF)
    found = stanza.complement([{2: (0xFFFFFFFF, number)} for number in numbers])
    assert len(found) <= 32 * len(numbers)


SMALL = st.integers(0, 31)
MASKED_VALUE = st.tuples(SMALL, SMALL).map(lambda t: (t[0] | 1, t[1] & (t[0] | 1)))
CONDITIONS = st.lists(
    st.dictionaries(st.integers(0, 1), MASKED_VALUE, min_size=1),
    min_size=1,
    max_size=3,
)


def holds(tests: stanza.Masks, registers: tuple[int, int]) -> bool:
    return all(registers[index] & mask == value for index, (mask, value) in tests.items())


@settings(deadline=None)
@given(CONDITIONS, st.tuples(SMALL, SMALL))
def test_complement_holds_exactly_when_no_condition_does(
    conditions: list[stanza.Masks], registers: tuple[int, int]
) -> None:
    none_holds = not any(holds(c, registers) for c in conditions)
    assert sum(holds(c, registers) for c in stanza.complement(conditions)) == none_holds


def test_table_ends_where_registers_do_not_suffice(tmp_path: Path) -> None:
    text = """\
default: emulate
calls:
  mount:
    - {when: {flags: {has: [MS_BIND], not: [MS_RDONLY]}}, do: {deny: EACCES}}
    - {when: {flags: {has: [MS_MOVE]}}, do: native}
    - {when: {fstype: x}, do: deny}
    - {when: {flags: {has: [MS_REMOUNT]}}, do: deny}
"""
    file = tmp_path / "default.yaml"
    assert table_for(tmp_path, "mount", text) == [
        TableRow(165, (RegisterTest(3, 4097, 4096),), Action.ERRNO, errno.EACCES, f"{file}:4"),
        TableRow(165, (RegisterTest(3, 8192, 8192),), Action.CONTINUE, 0, f"{file}:5"),
    ]
    assert [r.nr for r in table_for(tmp_path, "mount", text, Arch.I386)] == [21, 21]


def test_table_looks_at_the_beginning_of_a_string(tmp_path: Path) -> None:
    """What the kernel or the handler gets is told by it; rows that only send to the handler protect it from those behind."""
    text = """\
default: native
calls:
  mount:
    - {when: {fstype: ["fuse.*", overlay], flags: {has: [MS_RDONLY]}}, do: emulate}
    - {when: {fstype: "proc*"}, do: native}
"""
    file = tmp_path / "default.yaml"
    read_only = (RegisterTest(3, 1, 1),)
    assert table_for(tmp_path, "mount", text) == [
        TableRow(165, read_only, Action.ASK, 0, f"{file}:4", TextTest(2, b"fuse.", exact=False)),
        TableRow(165, read_only, Action.ASK, 0, f"{file}:4", TextTest(2, b"overlay", exact=True)),
        TableRow(165, (), Action.CONTINUE, 0, f"{file}:5", TextTest(2, b"proc", exact=False)),
        TableRow(165, (), Action.CONTINUE, 0, f"{file}:1"),
    ]


@pytest.mark.parametrize("pattern", ["null", "[proc, null]", '"*fs"', '"a?"', '"*"', '"[a-c]*"', "x" * 63])
def test_table_knows_no_other_patterns(tmp_path: Path, pattern: str) -> None:
    text = f"default: native\ncalls: {{mount: [{{when: {{fstype: {pattern}}}, do: emulate}}]}}\n"
    assert table_for(tmp_path, "mount", text) == []


@pytest.mark.parametrize("what", ["{when: {fstype: x}, do: deny}", "{when: {fstype: x}, do: pretend}"])
def test_table_refuses_and_pretends_nothing_by_strings(tmp_path: Path, what: str) -> None:
    assert table_for(tmp_path, "mount", f"default: native\ncalls: {{mount: [{what}]}}\n") == []


def test_there_is_no_io_uring_where_it_would_do_an_intercepted_call(tmp_path: Path) -> None:
    rows = rows_of(replace(row("setxattr", NameArgs), io_uring=True), row("sethostname", NameArgs))

    def names(text: str) -> list[object]:
        return [rule["names"] for rule in stanza.rules(rows, policy(tmp_path, text, rows))]

    assert names("default: native\ncalls: {setxattr: [{do: emulate}]}") == [["io_uring_setup"], ["setxattr"]]
    assert names("default: native\ncalls: {setxattr: [{do: deny}]}") == [["io_uring_setup"], ["setxattr"]]
    assert names("default: native\ncalls: {sethostname: [{do: emulate}]}") == [["sethostname"]]
    assert names("default: native") == []


@pytest.mark.parametrize("first", ["{when: {caller: {uid: 0}}, do: deny}", "{when: {fd: 1}, do: emulate}"])
def test_table_does_not_overtake_a_rule_that_others_decide(tmp_path: Path, first: str) -> None:
    text = f"default: deny\ncalls: {{shutdown: [{first}]}}\n"
    assert table_for(tmp_path, "shutdown", text) == []


def test_table_has_a_whole_call_as_a_row_without_tests(tmp_path: Path) -> None:
    file = tmp_path / "default.yaml"
    assert table_for(tmp_path, "mount", "default: {deny: ENOSYS}") == [
        TableRow(165, (), Action.ERRNO, errno.ENOSYS, f"{file}:1")
    ]


def test_ranges_become_aligned_blocks() -> None:
    rule = Rule(Decision(Do.DENY, "x:1", errno.EPERM), (("how", Numbers(((1, 6),))), ("fd", Numbers(((-1, -1),)))))
    tests = stanza.register_tests(ROWS["shutdown"], rule, Arch.X86_64)
    word = 0xFFFFFFFF
    fd = RegisterTest(0, word, word)
    assert tests == [
        (RegisterTest(1, word, 1), fd), (RegisterTest(1, word & ~1, 2), fd), (RegisterTest(1, word & ~1, 4), fd),
        (RegisterTest(1, word, 6), fd),
    ]  # fmt: skip


def test_too_many_rows_are_left_to_python() -> None:
    wide = Numbers(((1, (1 << 31) - 2),))
    rule = Rule(Decision(Do.DENY, "x:1"), (("how", wide), ("fd", wide)))
    assert stanza.register_tests(ROWS["shutdown"], rule, Arch.X86_64) is None


SIGNED = st.integers(-(1 << 31), (1 << 31) - 1)
RANGES = st.lists(st.tuples(SIGNED, SIGNED).map(lambda t: (min(t), max(t))), min_size=1, max_size=2)
REGISTER = st.integers(0, (1 << 64) - 1)


@settings(deadline=None)
@given(
    how=RANGES, mode=st.integers(0, 0xFFFF), big=st.tuples(st.integers(0, 1 << 33), st.integers(0, 1 << 33)),
    has=st.integers(0, 255), lacks=st.integers(0, 255), registers=st.lists(REGISTER, min_size=6, max_size=6),
    near=st.booleans(), arch=st.sampled_from(list(Arch)),
)  # fmt: skip
def test_table_agrees_with_decide_on_poisoned_registers(
    how: list[tuple[int, int]], mode: int, big: tuple[int, int], has: int, lacks: int, registers: list[int],
    near: bool, arch: Arch,
) -> None:  # fmt: skip
    """Upper halves hold garbage; what the decoder does not look at must not count in the table either."""
    if near:  # registers that hold what the conditions ask for, under the garbage
        registers[1] = registers[1] & ~0xFFFFFFFF | how[0][1] & 0xFFFFFFFF
        registers[2] = registers[2] & ~0xFFFF | mode
        registers[5] = registers[5] & ~0xFFFFFFFF | has
        registers[4] = big[0]
    conditions = {
        "how": Numbers(tuple(how)), "mode": Numbers(((mode, mode),)),
        "big": Numbers(((min(big), max(big)),)), "flags": FlagSet(has, lacks & ~has),
    }  # fmt: skip
    shutdown = row("shutdown", ShutdownArgs)
    for names in (["how"], ["mode"], ["big"], ["flags"], ["how", "mode", "flags"]):
        rule = Rule(Decision(Do.NATIVE, "x:1"), tuple((n, conditions[n]) for n in names))
        alternatives = stanza.register_tests(shutdown, rule, arch)
        if alternatives is None:
            continue
        # On a 32-bit architecture the kernel has cut the registers before anybody sees them.
        seen = [r & arch.register_mask for r in registers]
        args = ShutdownArgs(**shutdown.signature.registers(seen, arch))
        in_table = any(all(seen[t.index] & t.mask == t.value for t in tests) for tests in alternatives)
        assert in_table == rule.test()(args, Caller(0, nested=False))
