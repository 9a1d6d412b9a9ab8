"""`explain` against the filter as libseccomp compiles it and against a whole dispatcher; what a refusal proposes, allows."""

from __future__ import annotations

import errno
import inspect
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import generated
from support.fakes import FakeAgent, FakeTracee, container
from support.policy_rows import write
from support.seccomp_machine import ALLOW, ERRNO, NOTIFY, Answer, Filter

from interceptor import dispatch, policy_file, registry
from interceptor.args import Arch, Buffer
from interceptor.calltext import CallText, parse
from interceptor.dispatch import Dispatcher, Subject, routes_of
from interceptor.errors import ConfigError
from interceptor.explain import Asker, Explanation, Rung, _Tracee, explain, explained
from interceptor.notification import Notification
from interceptor.policy import Caller, Do
from interceptor.policy_file import SHIPPED
from interceptor.ports import Tracee
from interceptor.trace.record import How
from interceptor.verdict import Continue, Fail, Return
from runtime.seccomp import merge_profile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from interceptor.policy import Policy

ROWS = registry.load()
EXAMPLES = 1000


def load(directory: Path, text: str) -> Policy:
    write(directory, "site", text)
    return policy_file.load_all([directory, SHIPPED]).get("site")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return load(tmp_path_factory.mktemp("policies"), generated.POLICY)


@pytest.fixture(scope="module")
def compiled(site: Policy) -> Filter:
    profile = merge_profile(
        None, ROWS, site, listener_path="/run/l", metadata="", wait_killable=False, machine="x86_64"
    )
    return Filter(profile)


CALLERS = st.builds(
    Caller, uid=st.sampled_from([0, 1, 50, 100]), nested=st.booleans(), inner=st.booleans(),
    executable=st.sampled_from([b"/bin/sh", b"/probe/calls"]),
)  # fmt: skip
ASKERS = st.builds(Asker, caller=CALLERS, capable=st.booleans(), arch=st.just(Arch.X86_64))


class Around(Subject):
    """A fake tracee with the call's memory."""

    __slots__ = ("call", "tracee")

    def __init__(self, call: CallText, tracee: FakeTracee) -> None:
        self.call, self.tracee, self._pinned = call, tracee, None

    @property
    def pinned(self) -> Any:
        return self.tracee

    def read(self, wants: Sequence[Any]) -> Sequence[bytes | None]:
        return self.call.read(wants)


class Capable(FakeTracee):
    def capable(self, _cap: Any, _owner_of: Any) -> bool:
        return self.has_all

    has_all = True


class Whole(Dispatcher):
    """The dispatcher that a session has, with a fake tracee before it and a fake agent behind it."""

    def __init__(self, policy: Policy, asked: CallText, asker: Asker) -> None:
        super().__init__(container(), policy, routes_of(ROWS, policy), pool=None)  # type: ignore[arg-type]
        caller = asker.caller
        self.tracee = Capable(
            uid_inside=caller.uid, in_nested_user_namespace=caller.nested, in_inner_container=caller.inner,
            executable=caller.executable, covers={"proc": (b"/proc",), "sysfs": (b"/sys",)},
        )  # fmt: skip
        self.tracee.has_all = asker.capable
        self.asked = asked

    def subject(self, *_: Any) -> Subject:
        return Around(self.asked, self.tracee)


class Host:
    notifier_fd = 5

    def slow(self) -> None: ...


@settings(max_examples=EXAMPLES, deadline=None)
@given(text=generated.calls(ROWS), asker=ASKERS)
def test_what_is_explained_is_what_happens(site: Policy, compiled: Filter, text: str, asker: Asker) -> None:
    asked = parse(text, ROWS)
    said = explain(asked, site, asker)
    number = asked.row.number(Arch.X86_64)
    assert number is not None
    answer = compiled(Arch.X86_64, number, *asked.registers)
    if said.rung is Rung.KERNEL:
        assert answer.action == ALLOW
    elif said.rung is Rung.FILTER:
        assert answer == Answer(ERRNO, said.verdict.errno if isinstance(said.verdict, Fail) else 0)
    else:
        assert answer.action == NOTIFY
        if said.rung is Rung.HANDLER:
            agrees(said, dispatched(site, asked, asker), asked)


def dispatched(policy: Policy, asked: CallText, asker: Asker) -> dispatch.Outcome:
    agent, made = FakeAgent(), dispatch.PinnedAgent
    agent.mount_ids = AnyId()  # type: ignore[assignment]
    dispatch.PinnedAgent = lambda *_: agent  # type: ignore[assignment,misc]
    try:
        six: Any = asked.registers
        notification = Notification(1, 1, Arch.X86_64, asked.row.number(Arch.X86_64) or 0, 0, six)
        return Whole(policy, asked, asker).answer(Host(), notification, None)  # type: ignore[arg-type]
    finally:
        dispatch.PinnedAgent = made  # type: ignore[misc]


class AnyId(dict[Any, int]):
    def __missing__(self, _key: Any) -> int:
        return 77


def agrees(said: Explanation, outcome: dispatch.Outcome, asked: CallText) -> None:
    assert said.rule == outcome.rule, asked
    if not said.asks:
        assert (said.how, said.verdict) == (outcome.how, outcome.verdict)
        assert said.how is not How.FAILED


@settings(max_examples=EXAMPLES, deadline=None)
@given(text=generated.calls(ROWS), caller=CALLERS)
def test_what_a_refusal_proposes_allows_the_call(
    site: Policy, tmp_path_factory: Any, text: str, caller: Caller
) -> None:
    asked, asker = parse(text, ROWS), Asker(caller)
    refused = explain(asked, site, asker)
    if not refused.remedy:
        assert refused.how not in {How.DENIED, How.KILLED}
        assert not (refused.how is How.TABLE and isinstance(refused.verdict, Fail))
        return
    assert refused.rule
    assert refused.why
    entry = refused.remedy.partition("extends [site]: ")[2]
    directory = tmp_path_factory.getbasetemp() / "proposed"
    write(directory, "site", generated.POLICY)
    write(directory, "more", f"extends: [site]\n{entry}\n")
    more = policy_file.load_all([directory, SHIPPED]).get("more")
    allowed = explain(asked, more, asker)
    assert allowed.how not in {How.DENIED, How.KILLED} or allowed.rule != refused.rule, entry
    if asked.row.name != "mount":
        assert allowed.do is Do.EMULATE, entry


@settings(max_examples=300, deadline=None)
@given(text=generated.calls(ROWS))
def test_what_a_trace_prints_is_read_again(text: str) -> None:
    asked = parse(text, ROWS)
    signature = asked.row.signature
    args = signature.decode(asked.registers, Arch.X86_64, asked.read)
    printed = f"{asked.row.name}({signature.render(args)})  = -1 EPERM (Operation not permitted) <denied>"
    again = parse(printed, ROWS)
    assert signature.decode(again.registers, Arch.X86_64, again.read) == args


# By hand


def test_rungs_and_words(site: Policy) -> None:
    def ask(text: str, **caller: Any) -> tuple[Rung, How, str]:
        found = explain(parse(text, ROWS), site, Asker(Caller(uid=0, **caller)))
        return found.rung, found.how, found.rule.rpartition("/")[2]

    assert ask('mount("a", "/b", NULL, MS_BIND, NULL)') == (Rung.HANDLER, How.NATIVE, "site.yaml:13")
    default = policy_file.load_all([SHIPPED]).get("default")
    bind = explain(parse('mount("a", "/b", NULL, MS_BIND, NULL)', ROWS), default)
    assert (bind.rung, bind.how, bind.rule) == (Rung.KERNEL, How.NATIVE, "(not intercepted)")
    assert ask('mount("a", "/b", NULL, MS_BIND|MS_SILENT, NULL)') == (Rung.TABLE, How.TABLE, "site.yaml:7")
    assert ask('setdomainname("x", 1)') == (Rung.FILTER, How.PRETENDED, "site.yaml:34")
    assert ask('sethostname("x", 1)') == (Rung.HANDLER, How.DENIED, "site.yaml:32")
    assert ask('mount("x", "/b", "nfs", 0, NULL)') == (Rung.HANDLER, How.DENIED, "site.yaml:81")
    assert ask('mount("x", "/b", "proc", 0, NULL)', nested=True) == (Rung.HANDLER, How.DENIED, "site.yaml:18")
    found = explain(parse('mount("proc", "/x", "proc", 0, NULL)', ROWS), site)
    assert (found.verdict, found.asks) == (None, "mount(proc, /x, source=proc)")
    found = explain(parse('mount("x", "/b", "nfs", 0, NULL)', ROWS), site, Asker(capable=False))
    assert found.rule.startswith("kernel: no CAP_SYS_ADMIN")
    assert isinstance(found.verdict, Continue)
    found = explain(parse('mount("x", "/data/x", "tmpfs", 0, NULL)', ROWS), site)
    assert (found.how, found.verdict, found.do) == (How.PRETENDED, Return(), Do.PRETEND)


def test_a_refusal_names_argument_and_change(site: Policy) -> None:
    def refused(text: str) -> tuple[str, str]:
        found = explain(parse(text, ROWS), site)
        return found.why, found.remedy.partition("extends [site]: ")[2]

    assert refused('sethostname("db", 2)') == (
        "every sethostname that comes to this rule",
        "calls: {sethostname: [{when: {name: db}, do: emulate}]}",
    )
    assert refused('umount2("/nowhere*", 0)') == (
        'target is "/nowhere*"',
        'calls: {umount2: [{when: {target: "/nowhere[*]"}, do: emulate}]}',
    )
    assert refused('mount("x", "/b", "proc", MS_RDONLY|MS_NOEXEC, NULL)') == (
        "flags is MS_RDONLY|MS_NOEXEC",
        "calls: {mount: [{when: {flags: {has: [MS_RDONLY, MS_NOEXEC], not: [MS_NOSUID]}}, do: emulate}]}",
    )
    assert refused('mount("x", "/b", "nfs", 0, NULL)') == ("filesystem type 'nfs'", "filesystems: {nfs: emulate}")
    assert refused("quotactl_fd(3, 7, 0, NULL)")[1] == "calls: {quotactl_fd: [{when: {op: 7, fd: 3}, do: emulate}]}"


def test_a_refusal_gives_no_secret_away(tmp_path: Path) -> None:
    rule = 'calls: {mount: [{when: {data: "*pass=*"}, do: deny}]}'
    policy = load(tmp_path, f"extends: [default]\nselectable: true\n{rule}\n")
    found = explain(parse('mount("x", "/b", "cifs", 0, "user=a,pass=hunter2")', ROWS), policy)
    assert found.why == 'data is "user=a,pass=***"'
    assert '{when: {data: "*pass=*"}, do: emulate}' in found.remedy
    assert "hunter2" not in found.why + found.remedy


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("moun()", "column 1: moun is not intercepted; what is: "),
        ("mount", "column 6: expected '('"),
        ('mount("a")', "column 10: expected ',' and target: mount has 5 arguments"),
        ('mount(a, "b", "c", 0, NULL)', "column 7: expected source: a string in double quotes, or NULL"),
        ('mount("a", "b", "c", MS_RDNOLY, NULL)', "column 21: MS_RDNOLY is no flags; a number, or names joined by"),
        ('mount("a", "b", "c", 0, NULL, 1)', "column 29: expected ')': mount has 5 arguments"),
        ('mount("a", "b", "c", 0, NULL) 5', "column 30: something behind the call"),
        ('mount("a\\0b", "b", "c", 0, NULL)', "column 7: source has a NUL inside"),
        ('mount("\\q", "b", "c", 0, NULL)', "column 7: unknown escape \\q"),
        ('mount("\\777", "b", "c", 0, NULL)', "column 7: \\777 is more than a byte"),
        ('mount("a"..., "b", "c", 0, NULL)', "column 7: source was cut short when it was printed"),
        ('umount2("a", 0x100000000)', "column 13: flags is 4294967296; it has 32 bits"),
        ('umount2("a", 08)', "column 13: expected flags"),
        ('sethostname("ab", 3)', "column 1: name has 2 bytes, but length is 3"),
    ],
)
def test_what_is_no_call(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, ROWS)
    assert expected in str(caught.value)


@pytest.mark.parametrize("policy", ["default", *sorted(set(policy_file.load_all([SHIPPED]).policies) - {"default"})])
def test_every_call_of_the_registry_can_be_explained(policy: str) -> None:
    """No handler stumbles over the caller that an explanation makes up."""
    chosen = policy_file.load_all([SHIPPED]).get(policy)
    for row in ROWS.values():
        if any(isinstance(f.kind, Buffer) for f in row.signature.fields) and len(row.signature.fields) != 2:
            continue  # made-up buffers are names
        for text in generated.generated(generated.call(row), 5):
            for nested in (False, True):
                found = explain(parse(text, ROWS), chosen, Asker(Caller(uid=0, nested=nested)))
                assert found.how is not How.FAILED, f"{text}: {found.why}"


def test_the_made_up_caller_is_one_as_handlers_know_it() -> None:
    """What an explanation knows of a caller has the form of ports.Tracee; the rest is asked for."""
    for name, method in inspect.getmembers(_Tracee, inspect.isfunction):
        of_port = getattr(Tracee, name, None)
        if of_port is not None and not name.startswith("_"):
            mine, theirs = (inspect.signature(f).parameters.values() for f in (method, of_port))
            ours, ports = [[(p.name.lstrip("_"), p.kind, p.default) for p in those] for those in (mine, theirs)]
            assert ours == ports, name


def test_what_the_kernel_refuses_first(site: Policy) -> None:
    assert explain(parse('umount2("", 0)', ROWS), site).verdict == Fail(errno.ENOENT)
    assert explain(parse("umount2(NULL, 0)", ROWS), site).verdict == Fail(errno.EFAULT)
    long = "x" * 5000
    assert explain(parse(f'umount2("{long}", 0)', ROWS), site).verdict == Fail(errno.ENAMETOOLONG)


@pytest.mark.parametrize("body", [{"uid": "0"}, {"nested": 1}, {"arch": "sparc"}, {"call": None}])
def test_questions_are_checked(site: Policy, body: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="explain: "):
        explained({"call": 'umount2("/x", 0)', **body}, site, ROWS)
