"""What the registry and a policy mean before any handler is asked: OCI seccomp rules, and rows of the C table.

Three rungs (docs/design.md): a call that policy leaves to the kernel altogether is not in the filter; one that it
always denies is answered by the filter; what it decides from registers alone, before any rule that needs memory or the
caller, goes to the table that the session's C loop consults. The filter is fixed when the container starts, the table
follows a reload of the policy.

Everything here is a function of values: `rules` for config.json, `table` for a session. A rule with ``log: true`` is
never compiled, because nobody but the supervisor writes its log line.

What the filter leaves to the kernel by a row's `when` (mount's bind, remount, move and propagation, say) stays there
unless policy has something to say about it: a denial that names one of those flags in `has`, or that depends on no
string at all, widens the filter by the calls that it could deny, see `conditions`.

Source: OCI runtime-spec config-linux.md, "Seccomp"; seccomp_rule_add(3) for SCMP_CMP_MASKED_EQ.
"""

from __future__ import annotations

import enum
import errno
import functools
import itertools
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from interceptor.args import Arch, Field, Flags, Integer, Reader, String
from interceptor.patterns import is_glob
from interceptor.policy import Condition, Decision, Do, FlagSet, Numbers, Policy, Rule, Text
from interceptor.registry import YOUNG

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from interceptor.registry import Syscall

OciRule = dict[str, Any]
"""One element of config.json's ``linux.seccomp.syscalls``."""


def rules(rows: Mapping[str, Syscall], policy: Policy) -> list[OciRule]:
    """The OCI rules for what must not simply be executed: NOTIFY for us, ERRNO where the filter answers alone.

    A call with several conditions has a rule for each. What io_uring can do as well is not seen by any filter: where such
    a call is intercepted, there is no io_uring (ENOSYS, upon which programs do without).
    """
    found = {name: list(_rules(row, policy)) for name, row in sorted(rows.items()) if _exists(row)}
    if any(found[name] and rows[name].io_uring for name in found):
        found.setdefault("io_uring_setup", [_NO_IO_URING])
    return [rule for _, rules in sorted(found.items()) for rule in rules]


_NO_IO_URING: OciRule = {"names": ["io_uring_setup"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS}


def _exists(row: Syscall) -> bool:
    """Whether libseccomp knows the call on any architecture."""
    return any(row.number(arch) is not None for arch in Arch)


def absent(rows: Mapping[str, Syscall], policy: Policy, *, knows_young: bool) -> list[int]:
    """Numbers of calls about which policy decides, and for which no rule can be written, because libseccomp does not know
    them. They are ENOSYS, by a filter of ours beneath the runtime's (native/shim_process.c), so that programs make the older
    calls, which policy sees. `knows_young`: the runtime's own libseccomp is as new as ours.
    """
    young = (row for row in rows.values() if row.young and not (_exists(row) and knows_young))
    return sorted(YOUNG[row.name] for row in young if any(_rules(row, policy)))


UNWRITTEN = "libseccomp does not know the call, so that no filter can send it to the supervisor; programs make the older one"


def unwritten(row: Syscall, policy: Policy) -> bool:
    """Whether policy decides about a call that libseccomp does not know: it is ENOSYS then."""
    return row.young and not _exists(row) and any(_rules(row, policy))


def _rules(row: Syscall, policy: Policy) -> Iterator[OciRule]:
    if _notifies(policy, row.name):
        for tests in _shortest(conditions(row, policy)):
            yield {"names": [row.name], "action": "SCMP_ACT_NOTIFY", **_args(tests, _given(row, "SCMP_CMP_NE"))}
    elif (whole := whole_call(policy, row.name)) and whole.do is not Do.NATIVE:
        # An errno of 0 is success (seccomp(2), SECCOMP_RET_ERRNO): what `pretend` is.
        args = _args({}, _given(row, "SCMP_CMP_NE"))
        yield {"names": [row.name], "action": "SCMP_ACT_ERRNO", "errnoRet": whole.errno, **args}


def allowed(rows: Mapping[str, Syscall], policy: Policy) -> list[OciRule]:
    """ALLOW rules for what `rules` leaves to the kernel of the calls that it intercepts: they go with it into a profile
    whose default action is not to allow.
    """
    return [
        {"names": [row.name], "action": "SCMP_ACT_ALLOW", **args}
        for _, row in sorted(rows.items())
        if _exists(row)
        for args in _allowed(row, policy)
    ]


def _allowed(row: Syscall, policy: Policy) -> Iterator[dict[str, Any]]:
    if row.given:
        yield _args({}, _given(row, "SCMP_CMP_EQ"))
    if _notifies(policy, row.name):
        yield from map(_args, complement(conditions(row, policy)))


def _given(row: Syscall, op: str) -> list[dict[str, Any]]:
    """Whether the pointer is NULL without which it is another call, as OCI compares."""
    return [{"index": _field(row, row.given).register, "value": 0, "op": op}] if row.given else []


def _notifies(policy: Policy, call: str) -> bool:
    whole = whole_call(policy, call)
    return whole is None or whole.do in _ASKED


_ASKED = frozenset({Do.EMULATE, Do.KILL, Do.STOP})
"""What only the supervisor does; a filter could kill as well, but nobody would see why."""


Masks = dict[int, tuple[int, int]]
"""Register → (mask, value): a conjunction of masked comparisons, at most one for each register, because runc takes two
comparisons of one argument in a rule for alternatives.
"""


def conditions(row: Syscall, policy: Policy) -> list[Masks]:
    """Which calls reach the supervisor, as alternatives: the row's `when`, as far as a rule can do anything but leave them
    to the kernel, and what policy has to say beyond it.
    """
    own = _conditions(row, policy)
    beyond = complement(own)
    return _wanted(row, policy, own) + [_masks(rule, row) for rule in policy.ladder(row.name) if _reaches(rule, row, beyond)]


def _wanted(row: Syscall, policy: Policy, own: list[Masks]) -> list[Masks]:
    """`own` without what no rule wants, where all that remains after them is native."""
    *rules, last = policy.ladder(row.name)
    if last.decision.do is not Do.NATIVE or last.decision.log:
        return own
    wanted = [_masks(rule, row) for rule in rules if rule.decision.do is not Do.NATIVE or rule.decision.log]
    both = (_all(tests, others) for tests in own for others in wanted)
    return _shortest([tests for tests in both if tests is not None])


def _conditions(row: Syscall, policy: Policy) -> list[Masks]:
    """The row's `when`: alternatives, of which one always holds if it has none. Or what the policy's ceilings lend: perhaps
    nothing.
    """
    wanted = row.lends(policy.limits.ceilings) if row.lends else row.when
    if wanted is None:
        return []
    return [{_field(row, m.field).register: (int(m.mask), int(m.value))} for m in wanted] or [{}]


def _masks(rule: Rule, row: Syscall) -> Masks:
    """What must hold of the registers before a rule can; the rule may ask for more."""
    flags = ((_field(row, name).register, c) for name, c in rule.args if isinstance(c, FlagSet))
    return {register: (c.has | c.lacks, c.has) for register, c in flags}


def _args(tests: Masks, also: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """A conjunction as OCI writes it."""
    args = [
        {"index": index, "value": mask, "valueTwo": value, "op": _MASKED} for index, (mask, value) in sorted(tests.items())
    ]
    return {"args": [*args, *also]} if args or also else {}


_MASKED = "SCMP_CMP_MASKED_EQ"


def complement(conditions: Sequence[Masks]) -> list[Masks]:
    """Alternatives of which one holds exactly when none of `conditions` does; no two hold together."""
    return list(_complement(tuple(tuple(condition.items()) for condition in conditions)))


@functools.lru_cache(maxsize=256)
def _complement(conditions: tuple[tuple[tuple[int, tuple[int, int]], ...], ...]) -> list[Masks]:
    """Kept: it is the same for every container of a policy, and takes milliseconds for calls with many conditions."""
    return list(_none_of([dict(condition) for condition in conditions], {}))


def _none_of(conditions: list[Masks], known: Masks) -> Iterator[Masks]:
    """`known` and what else must hold so that none of `conditions` does.

    Bit by bit, that first which most of them ask for with the same value: where it has the other one, they are done with.
    """
    left = [rest for tests in conditions if (rest := _unknown(tests, known)) is not None]
    if not left:
        yield known
    elif all(left):
        asked = Counter(
            (index, bit, value & bit) for tests in left for index, (mask, value) in tests.items() for bit in _bits(mask)
        )
        (index, bit, value), _ = asked.most_common(1)[0]
        for either in (value ^ bit, value):
            both = _and(known, index, bit, either)
            assert both is not None  # noqa: S101 - the bit was not known
            yield from _none_of(left, both)


def _unknown(tests: Masks, known: Masks) -> Masks | None:
    """What of `tests` does not follow from `known`; None when they exclude each other."""
    left: Masks = {}
    for index, (mask, value) in tests.items():
        seen, has = known.get(index, (0, 0))
        if seen & mask & (has ^ value):
            return None
        if mask & ~seen:
            left[index] = mask & ~seen, value & ~seen
    return left


def _and(tests: Masks, index: int, mask: int, value: int) -> Masks | None:
    """`tests` and one more comparison; None when they exclude each other."""
    known, wanted = tests.get(index, (0, 0))
    if known & mask & (wanted ^ value):
        return None
    return {**tests, index: (known | mask, wanted | value)}


def _shortest(alternatives: list[Masks]) -> list[Masks]:
    """Without those that imply another one."""
    kept: list[Masks] = []
    for tests in sorted(alternatives, key=lambda t: sum(mask.bit_count() for mask, _ in t.values())):
        if not any(_implies(tests, other) for other in kept):
            kept.append(tests)
    return kept


def _implies(tests: Masks, other: Masks) -> bool:
    return all(
        index in tests and tests[index][0] & mask == mask and tests[index][1] & mask == value
        for index, (mask, value) in other.items()
    )


def _bits(mask: int) -> Iterator[int]:
    while mask:
        bit = mask & -mask
        yield bit
        mask ^= bit


@dataclass(frozen=True, slots=True)
class Drift:
    """How a container's filter, which is fixed, differs from what its policy would have now."""

    narrower: tuple[str, ...] = ()
    """Calls that the policy decides and the filter does not send, or answers by itself."""
    wider: tuple[str, ...] = ()
    """Calls that the filter sends and the policy leaves to the kernel: they cost a notification, no more."""

    def __bool__(self) -> bool:
        return bool(self.narrower or self.wider)


def drift(filtered: Sequence[OciRule], rows: Mapping[str, Syscall], policy: Policy) -> Drift:
    """`filtered` is what `rules` gave when the container was created."""
    wanted = rules(rows, policy)
    narrower, wider = [], []
    for name in sorted({n for rule in (*filtered, *wanted) for n in rule["names"]}):
        have, want = _of(name, filtered), _of(name, wanted)
        if not _covers(have, want):
            narrower.append(name)
        elif not _covers(want, have):
            wider.append(name)
    return Drift(tuple(narrower), tuple(wider))


class _Filter(NamedTuple):
    """What a filter does with one call."""

    notify: list[Masks]
    errno: int | None
    """Its own answer, whatever the arguments."""


def _of(name: str, listed: Sequence[OciRule]) -> _Filter:
    found = [rule for rule in listed if name in rule["names"]]
    notify = [rule for rule in found if rule["action"] == "SCMP_ACT_NOTIFY"]
    masks = [
        {a["index"]: (a["value"], a["valueTwo"]) for a in rule.get("args", ()) if a["op"] == _MASKED} for rule in notify
    ]
    return _Filter(masks, next((rule["errnoRet"] for rule in found if rule["action"] == "SCMP_ACT_ERRNO"), None))


def _covers(have: _Filter, want: _Filter) -> bool:
    """Whether all that `want` decides can be decided behind `have`."""
    if have.errno is not None:
        return have.errno == want.errno
    needed: list[Masks] = want.notify if want.errno is None else [{}]
    return all(any(_implies(tests, other) for other in have.notify) for tests in needed)


NOT_INTERCEPTED = "(not intercepted)"
"""The `rule` of what a row's `when` leaves to the kernel."""


def filtered(row: Syscall, policy: Policy, registers: Sequence[int]) -> Decision | None:
    """What the filter makes of a call by itself: NATIVE for what it does not look at; None for what it sends to us."""
    if row.given and not registers[_field(row, row.given).register]:
        return Decision(Do.NATIVE, NOT_INTERCEPTED)
    if not _notifies(policy, row.name):
        return whole_call(policy, row.name)
    for tests in conditions(row, policy):
        if all(registers[index] & mask == value for index, (mask, value) in tests.items()):
            return None
    return Decision(Do.NATIVE, NOT_INTERCEPTED)


def whole_call(policy: Policy, call: str) -> Decision | None:
    """What policy says about every `call`, whatever its arguments; None when that depends, or is to be logged."""
    ladder = [rule.decision for rule in policy.ladder(call)]
    same = {(d.do, d.errno) for d in ladder}
    return ladder[0] if len(same) == 1 and not any(d.log for d in ladder) else None


def _reaches(rule: Rule, row: Syscall, beyond: list[Masks]) -> bool:
    """Whether a rule answers calls (denies them, say) that the row's `when` would leave to the kernel.

    One that tests strings is taken to be about what the row intercepts, unless it names a flag that tells them apart.
    """
    if rule.decision.do.passes:
        return False
    flags = [(name, c) for name, c in rule.args if isinstance(c, FlagSet)]
    named = any(c.has & m.mask for name, c in flags for m in row.when if m.field == name)
    if not named and any(_field(row, name).kind.pointer for name, _ in rule.args):
        return False
    wanted = _masks(rule, row)
    return any(_all(tests, wanted) is not None for tests in beyond)


def _all(tests: Masks, others: Masks) -> Masks | None:
    """Both conjunctions in one; None when they exclude each other."""
    both: Masks | None = tests
    for index, (mask, value) in others.items():
        both = both if both is None else _and(both, index, mask, value)
    return both


RegisterTests = tuple[tuple[int, int, int], ...]
"""(register, mask, value): alternatives. Plain numbers, because they are looked at for each call and enum's are slow."""


def reach(row: Syscall) -> RegisterTests:
    """The row's `when` for `outside`; empty: every call."""
    return tuple((_field(row, m.field).register, int(m.mask), int(m.value)) for m in row.when)


def outside(tests: RegisterTests, registers: Sequence[int]) -> bool:
    """Whether a row's `when` leaves this call to the kernel. It arrives only when a rule may deny it: policy is to be
    asked, and where it does not deny the call is continued, never emulated.
    """
    for register, mask, value in tests:
        if registers[register] & mask == value:
            return False
    return bool(tests)


def _field(row: Syscall, name: str) -> Field:
    return next(f for f in row.signature.fields if f.name == name)


# The table


class Action(enum.StrEnum):
    """What the C loop answers by itself."""

    CONTINUE = "continue"
    ERRNO = "errno"
    RETURN = "return"
    LOOK = "look"
    """It looks at the tracee's memory first, and may leave the call to Python after all: see interceptor/shortcut.py."""
    ASK = "ask"
    """Python does: the row keeps those behind it from answering."""


@dataclass(frozen=True, slots=True)
class RegisterTest:
    """Holds iff ``(args[index] & mask) == value``."""

    index: int
    mask: int
    value: int


@dataclass(frozen=True, slots=True)
class TextTest:
    """Holds iff the string that a register points to is `pattern`, or begins with it."""

    index: int
    pattern: bytes
    exact: bool


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row: all `tests` hold → `action`. Rows are tried in order; a call that matches none goes to Python."""

    nr: int
    tests: tuple[RegisterTest, ...]
    action: Action
    number: int
    """ERRNO: a positive errno. RETURN: the value. CONTINUE: 0. LOOK: a `shortcut.LOOKS`."""
    rule: str
    """``file:line`` of the rule, for the trace."""
    text: TextTest | None = None


ACTIONS = {Do.NATIVE: Action.CONTINUE, Do.DENY: Action.ERRNO, Do.PRETEND: Action.RETURN}
"""Decisions that a row can carry out."""
TESTS_MAX = 4
"""Tests of one row."""
ALTERNATIVES_MAX = 64
"""Rows that one rule may become (a range is several masked tests)."""


def table(rows: Mapping[str, Syscall], policy: Policy, arch: Arch) -> list[TableRow]:
    """The rows for one architecture: per call the leading rules that registers, or the beginning of a string, decide."""
    found: list[TableRow] = []
    for _, row in sorted(rows.items()):
        nr = row.number(arch)
        if nr is not None:
            found.extend(_worthwhile(list(_table_rows(row, policy, arch, nr))))
    return found


def ladder_rungs(row: Syscall, policy: Policy) -> Iterator[tuple[bool, Rule]]:
    """The rules of a call that reaches us, in order, each with whether the table answers for it (on x86-64)."""
    in_table = True
    for rule in policy.ladder(row.name):
        action, _ = _compiled(row, rule, Arch.X86_64) if in_table else (None, [])
        in_table = action is not None
        yield action not in (None, Action.ASK), rule


def looked_up(
    row: Syscall, policy: Policy, arch: Arch, registers: Sequence[int], read: Reader | None = None
) -> TableRow | None:
    """The row of the table that answers a call, as the C loop finds it (native/notify.c). `read` gives its strings."""
    width = arch.register_mask
    for found in table({row.name: row}, policy, arch):
        if not all(registers[test.index] & test.mask & width == test.value for test in found.tests):
            continue
        holds = found.text is None or _text_holds(found.text, registers[found.text.index] & width, read)
        if holds is None:
            return None
        if holds:
            return None if found.action is Action.ASK else found
    return None


def _text_holds(text: TextTest, address: int, read: Reader | None) -> bool | None:
    """None where that cannot be known."""
    piece = read([(address, PATTERN_MAX + 1, True)])[0] if read else None
    if piece is None:
        return None
    wanted = text.pattern + b"\0" * text.exact
    return True if piece.startswith(wanted) else None if wanted.startswith(piece) else False


def _table_rows(row: Syscall, policy: Policy, arch: Arch, nr: int) -> Iterator[TableRow]:
    for rule in policy.ladder(row.name):
        action, alternatives = _compiled(row, rule, arch)
        if action is None:
            return
        decision = rule.decision
        for tests, text in alternatives:
            yield TableRow(nr, tests, action, 0 if action is Action.ASK else decision.errno, decision.rule, text)


Alternatives = list[tuple[tuple[RegisterTest, ...], TextTest | None]]


def _compiled(row: Syscall, rule: Rule, arch: Arch) -> tuple[Action | None, Alternatives]:
    """What C does about calls that a rule is for, and how it knows them; None: it goes no further down the ladder.

    By a string a call is only left to the kernel, or to Python, which explains refusals.
    """
    alternatives = _alternatives(row, rule, arch)
    if alternatives is None or rule.decision.log:
        return None, []
    action = ACTIONS.get(rule.decision.do)
    if not any(text for _, text in alternatives):
        return action, alternatives
    return (action or Action.ASK if action in (None, Action.CONTINUE) else None), alternatives


def _worthwhile(rows: list[TableRow]) -> list[TableRow]:
    """Without rows at the end that only send to Python, where a call that no row matches goes anyway."""
    while rows and rows[-1].action is Action.ASK:
        rows.pop()
    return rows


def _alternatives(row: Syscall, rule: Rule, arch: Arch) -> Alternatives | None:
    """The rule's conditions as alternatives of what C can test; None when they need more than that."""
    texts = [(name, condition) for name, condition in rule.args if isinstance(condition, Text)]
    if not texts:
        tests = register_tests(row, rule, arch)
        return None if tests is None else [(one, None) for one in tests]
    others = tuple((name, condition) for name, condition in rule.args if not isinstance(condition, Text))
    tests = register_tests(row, replace(rule, args=others), arch)
    if len(texts) > 1 or tests is None:
        return None
    found = [_text_test(_field(row, texts[0][0]), pattern) for pattern in texts[0][1].patterns]
    if None in found or len(found) * len(tests) > ALTERNATIVES_MAX:
        return None
    return list(itertools.product(tests, found))


PATTERN_MAX = 63
"""Bytes of a string that C looks at; the NUL behind is one of them."""


def _text_test(field: Field, pattern: str | None) -> TextTest | None:
    """A word, or a word and a final ``*``."""
    if pattern is None or not isinstance(field.kind, String):
        return None
    word = pattern.removesuffix("*")
    encoded = word.encode()
    if is_glob(word) or not 0 < len(encoded) < PATTERN_MAX:
        return None
    return TextTest(field.register, encoded, word == pattern)


def register_tests(row: Syscall, rule: Rule, arch: Arch) -> list[tuple[RegisterTest, ...]] | None:
    """The rule's conditions as alternatives of register tests; None when they need more than registers."""
    if rule.caller or len(rule.args) > TESTS_MAX:
        return None
    choices: list[list[RegisterTest]] = []
    for name, condition in rule.args:
        tests = _tests(_field(row, name), condition, arch)
        if tests is None:
            return None
        choices.append(tests)
    count = 1
    for tests in choices:
        count *= len(tests)
    return list(itertools.product(*choices)) if count <= ALTERNATIVES_MAX else None


def _tests(field: Field, condition: Condition, arch: Arch) -> list[RegisterTest] | None:
    """Alternatives for one argument; only the bits that the decoder looks at count."""
    if isinstance(field.kind, Flags | Integer) and isinstance(condition, FlagSet):
        width = _width(field.kind.bits, arch)
        if condition.has & ~width:
            return []  # a flag that this architecture's register cannot carry
        mask = (condition.has | condition.lacks) & width
        return [RegisterTest(field.register, mask, condition.has)]
    if isinstance(field.kind, Integer) and isinstance(condition, Numbers):
        return _number_tests(field.register, field.kind, condition, arch)
    return None


def _number_tests(index: int, kind: Integer, condition: Numbers, arch: Arch) -> list[RegisterTest] | None:
    width = _width(kind.bits, arch)
    least, most = (-(width >> 1) - 1, width >> 1) if kind.signed else (0, width)
    found: list[RegisterTest] = []
    for first, last in condition.ranges:
        low, high = max(first, least), min(last, most)
        for a, b in ((low, min(high, -1)), (max(low, 0), high)):
            for mask, value in _blocks(a & width, b & width, width) if a <= b else ():
                found.append(RegisterTest(index, mask, value))
    return found if len(found) <= ALTERNATIVES_MAX else None


def _blocks(first: int, last: int, width: int) -> Iterator[tuple[int, int]]:
    """`first` … `last` as (mask, value) pairs: the fewest aligned blocks, as a route table has prefixes."""
    while first <= last:
        size = first & -first or width + 1
        while size > last - first + 1:
            size >>= 1
        yield width & ~(size - 1), first
        first += size


def _width(bits: int, arch: Arch) -> int:
    """All ones as wide as an argument of `bits` (0: long) is on `arch`."""
    return (1 << bits) - 1 if bits else arch.register_mask
