"""What a reload means for a container: how its filter differs from the new policy, and who decides from then on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fakes import container
from support.policy_rows import ROWS, policy
from support.seccomp_machine import ALLOW, NOTIFY, Filter

from interceptor import reload, stanza
from interceptor.args import Arch
from interceptor.native.notifier import Table
from interceptor.reload import Change
from interceptor.stanza import Action, Drift, TableRow
from interceptor.trace.record import How
from runtime.seccomp import merge_profile

if TYPE_CHECKING:
    from pathlib import Path

    from interceptor.policy import Policy

VERSIONS = {
    "native": "default: native\n",
    "emulate": "default: emulate\n",
    "deny": "default: native\ncalls: {sethostname: [{do: {deny: ENOSYS}}]}\n",
    "pretend": "default: native\ncalls: {sethostname: [{do: pretend}]}\n",
    "kill": "default: native\ncalls: {sethostname: [{do: kill}]}\n",
    "flags": "default: native\ncalls: {shutdown: [{when: {flags: {has: MS_BIND}}, do: deny}]}\n",
    "binds": "default: native\ncalls: {mount: [{when: {flags: {has: MS_BIND}}, do: deny}]}\n",
    "name": "default: native\ncalls: {sethostname: [{when: {name: a}, do: deny}]}\n",
}


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Policy]:
    return {name: policy(tmp_path_factory.mktemp(name), text) for name, text in VERSIONS.items()}


@pytest.mark.parametrize(
    ("old", "new", "narrower", "wider"),
    [
        ("emulate", "emulate", (), ()),
        ("emulate", "native", (), ("mount", "setdomainname", "sethostname", "shutdown")),
        ("native", "emulate", ("mount", "setdomainname", "sethostname", "shutdown"), ()),
        ("native", "deny", ("sethostname",), ()),
        ("deny", "native", ("sethostname",), ()),
        ("deny", "pretend", ("sethostname",), ()),
        ("pretend", "pretend", (), ()),
        ("name", "deny", (), ("sethostname",)),
        ("name", "kill", (), ()),
        ("native", "binds", ("mount",), ()),
        ("emulate", "binds", ("mount",), ("setdomainname", "sethostname", "shutdown")),
    ],
)
def test_how_the_filter_differs(
    versions: dict[str, Policy], old: str, new: str, narrower: tuple[str, ...], wider: tuple[str, ...]
) -> None:
    filtered = stanza.rules(ROWS, versions[old])
    assert stanza.drift(filtered, ROWS, versions[new]) == Drift(narrower, wider)


@settings(max_examples=200, deadline=None)
@given(old=st.sampled_from(sorted(VERSIONS)), new=st.sampled_from(sorted(VERSIONS)), flags=st.integers(0, (1 << 20) - 1))
def test_a_filter_that_is_not_narrower_sends_what_the_policy_wants(
    versions: dict[str, Policy], old: str, new: str, flags: int
) -> None:
    """By the filters as libseccomp compiles them."""
    drift = stanza.drift(stanza.rules(ROWS, versions[old]), ROWS, versions[new])
    have, want = FILTERS[old](versions), FILTERS[new](versions)
    for name, row in ROWS.items():
        number = row.number(Arch.X86_64)
        assert number is not None
        registers = (0, 0, 0, flags, 0, flags)
        now, then = want(Arch.X86_64, number, *registers), have(Arch.X86_64, number, *registers)
        if name in drift.narrower or name in drift.wider:
            continue
        assert now == then, name
        assert now.action in (ALLOW, NOTIFY) or then == now


class _Compiled:
    """A filter of one version, made once."""

    def __init__(self, name: str) -> None:
        self.name, self.made = name, None

    def __call__(self, versions: dict[str, Policy]) -> Filter:
        if self.made is None:
            profile = merge_profile(
                None, ROWS, versions[self.name], listener_path="/l", metadata="", wait_killable=False, machine="x86_64"
            )
            self.made = Filter(profile)  # type: ignore[assignment]
        return self.made  # type: ignore[return-value]


FILTERS = {name: _Compiled(name) for name in VERSIONS}


def test_what_is_said_of_a_container(versions: dict[str, Policy]) -> None:
    old = versions["native"]
    made = container(filter=tuple(stanza.rules(ROWS, old)))
    found = reload.change(made, old, versions["deny"], ROWS)
    assert found == Change("c1", "default", Drift(narrower=("sethostname",)))
    assert "narrower: sethostname as before until it is started again" in found.words()
    record = reload.record(found, 5)
    assert (record.how, record.why, record.time_ns) == (How.RELOADED, found.words(), 5)
    gone = reload.change(made, old, None, ROWS)
    assert gone.gone
    assert "keeps the one that it had" in gone.words()
    assert not reload.filter_drift(container(), versions["deny"], ROWS), "nobody knows what its filter was made of"


def test_what_counts_only_for_a_new_container(tmp_path: Path) -> None:
    a = policy(tmp_path / "a", "default: native\n")
    b = policy(tmp_path / "b", "default: native\ncapabilities: engine\nids: {size: 5}\n")
    assert reload.change(container(), a, b, ROWS).restart == ("capabilities", "ids")


def test_rows_of_an_older_table_keep_their_names() -> None:
    rows = [TableRow(1, (), Action.ERRNO, 1, f"old:{n}") for n in range(3)]
    old, new = Table({Arch.X86_64: rows}), Table({Arch.X86_64: [TableRow(1, (), Action.ERRNO, 1, "new:1")]})
    assert [old.rule(number) for number in old.numbers] == ["old:0", "old:1", "old:2"]
    assert not set(old.numbers) & set(new.numbers)
    assert [old.c.row[i].rule for i in range(3)] == list(old.numbers)
    assert new.rule(new.numbers[0]) == "new:1"
