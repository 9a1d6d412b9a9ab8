from __future__ import annotations

import errno
import timeit
from pathlib import Path

import pytest
from support.policy_rows import ROWS, MountArgs, MountFlags, NameArgs, ShutdownArgs, policy, write

from interceptor import policy_file, policy_text, registry, stanza
from interceptor.args import Arch
from interceptor.errors import ConfigError, PolicyError
from interceptor.policy import BUILT_IN, Caller, Do, EngineProfile, FlagSet, LeafScope, Mount, Numbers, Policy, Text
from interceptor.stanza import RegisterTest
from interceptor.strict_yaml import DEPTH_MAX, SIZE_MAX, PolicyErrors

ROOT = Caller(uid=0, nested=False)


def mount(fstype: bytes | None = b"proc", flags: int = 0, target: bytes = b"/x") -> MountArgs:
    return MountArgs(source=None, target=target, fstype=fstype, flags=flags, data=None)


def name(value: bytes) -> NameArgs:
    return NameArgs(name=value, len=len(value))


def errors(tmp_path: Path, text: str) -> list[str]:
    """What loading `text` complains about, without the directory."""
    with pytest.raises(PolicyErrors) as caught:
        policy(tmp_path, text)
    return [str(e).removeprefix(f"{tmp_path}/") for e in caught.value.errors]


def test_first_rule_that_holds_decides_and_names_its_line(tmp_path: Path) -> None:
    p = policy(
        tmp_path,
        """\
default: {deny: ENOSYS}
calls:
  sethostname:
    - when: {name: ["web-*", db], caller: {uid: 0, nested: false}}
      do: emulate
    - when: {caller: {uid: "1..99"}}
      do: native
      log: true
    - do: deny
""",
    )
    file = tmp_path / "default.yaml"
    assert p.decide("sethostname", name(b"web-1"), ROOT) == p.decide("sethostname", name(b"db"), ROOT)
    decided = p.decide("sethostname", name(b"db"), ROOT)
    assert (decided.do, decided.rule, decided.log) == (Do.EMULATE, f"{file}:4", False)
    decided = p.decide("sethostname", name(b"dbx"), Caller(uid=5, nested=True))
    assert (decided.do, decided.rule, decided.log) == (Do.NATIVE, f"{file}:6", True)
    decided = p.decide("sethostname", name(b"web-1"), Caller(uid=0, nested=True))
    assert (decided.do, decided.rule, decided.errno) == (Do.DENY, f"{file}:9", errno.EPERM)
    decided = p.decide("mount", mount(), ROOT)
    assert (decided.do, decided.rule, decided.errno) == (Do.DENY, f"{file}:1", errno.ENOSYS)


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("proc", [b"proc"], [b"", b"procx", b"xproc", None]),
        ("*", [b"", b"a/b\n\xff"], [None]),
        ("a?c", [b"abc", b"a\xffc"], [b"ac", b"abbc"]),
        ("[a-c]x", [b"ax", b"cx"], [b"dx", b"x"]),
        ("[!a-c]x", [b"dx"], [b"ax", b"x"]),
        ("[[]", [b"["], [b"[[]"]),
        ("a.b|c", [b"a.b|c"], [b"axb|c", b"c"]),
        ("grün*", ["grüner".encode()], [b"grun"]),
        ("no", [b"no"], [b"False", b"0"]),
        ("1.10", [b"1.10"], [b"1.1"]),
        ("null", [None], [b"null", b""]),
        ('"null"', [b"null"], [None]),
        ("[null, proc]", [None, b"proc"], [b"sysfs"]),
        ('["*fs", x]', [b"sysfs", b"x"], [b"xx"]),
    ],
)
def test_globs_over_bytes(tmp_path: Path, pattern: str, matching: list[bytes], other: list[bytes]) -> None:
    bracketed = pattern.startswith("[") and pattern not in {"[null, proc]", '["*fs", x]'}
    written = f'"{pattern}"' if bracketed else f"'{pattern}'" if pattern.startswith("*") else pattern
    p = policy(tmp_path, f"default: native\ncalls: {{mount: [{{when: {{fstype: {written}}}, do: emulate}}]}}\n")
    assert [p.decide("mount", mount(v), ROOT).do for v in matching] == [Do.EMULATE] * len(matching)
    assert [p.decide("mount", mount(v), ROOT).do for v in other] == [Do.NATIVE] * len(other)


def test_a_pattern_with_many_stars_is_not_exponential(tmp_path: Path) -> None:
    p = policy(tmp_path, f"default: native\ncalls: {{mount: [{{when: {{target: '{'*a' * 30}b'}}, do: emulate}}]}}\n")
    assert timeit.timeit(lambda: p.decide("mount", mount(target=b"a" * 4000), ROOT), number=1) < 5


def test_flags_numbers_and_booleans(tmp_path: Path) -> None:
    p = policy(
        tmp_path,
        """\
default: native
calls:
  mount:
    - {when: {flags: {has: [MS_RDONLY, MS_NOSUID], not: MS_BIND}}, do: emulate}
  shutdown:
    - {when: {fd: -1}, do: {deny: EBADF}}
    - {when: {how: [0x10, "2..4"], mode: 0o644}, do: emulate}
""",
    )
    assert p.decide("mount", mount(flags=3 | 1 << 40), ROOT).do is Do.EMULATE
    assert p.decide("mount", mount(flags=1), ROOT).do is Do.NATIVE
    assert p.decide("mount", mount(flags=3 | MountFlags.MS_BIND), ROOT).do is Do.NATIVE

    def shutdown(fd: int, how: int, mode: int) -> Do:
        return p.decide("shutdown", ShutdownArgs(fd, how, mode, 0, 0, 0), ROOT).do

    assert shutdown(-1, 0, 0) is Do.DENY
    assert [shutdown(0, h, 0o644) is Do.EMULATE for h in (1, 2, 4, 5, 16)] == [False, True, True, False, True]
    assert shutdown(0, 2, 644) is Do.NATIVE


def test_conditions_are_values_that_others_can_look_into(tmp_path: Path) -> None:
    p = policy(
        tmp_path,
        "default: native\ncalls: {mount: [{when: {fstype: [a, null], flags: {not: [MS_BIND]}}, do: emulate}],"
        " shutdown: [{when: {how: 1..3}, do: emulate}]}\n",
    )
    assert p.rules["mount"][0].args == (("fstype", Text(("a", None))), ("flags", FlagSet(0, 4096)))
    assert p.rules["shutdown"][0].args == (("how", Numbers(((1, 3),))),)


def test_filesystems(tmp_path: Path) -> None:
    p = policy(
        tmp_path,
        """\
default: native
filesystems:
  proc: emulate
  nfs: deny
  cifs: {deny: ENODEV}
  debugfs: stand-in
  fuse: emulate
""",
    )
    assert p.filesystem(b"proc").mount is Mount.EMULATE
    assert p.filesystem(b"proc").rule == f"{tmp_path}/default.yaml:3"
    assert (p.filesystem(b"nfs").mount, p.filesystem(b"nfs").errno) == (Mount.DENY, errno.EPERM)
    assert p.filesystem(b"cifs").errno == errno.ENODEV
    assert p.filesystem(b"debugfs").mount is Mount.STAND_IN
    assert p.filesystem(b"fuse.sshfs").mount is Mount.EMULATE, "get_fs_type() stops at the dot"
    assert (p.filesystem(b"\xff").mount, p.filesystem(b"\xff").rule) == (Mount.NATIVE, BUILT_IN)
    with_default = policy(tmp_path, 'default: native\nfilesystems: {"*": deny, tmpfs: native}\n')
    assert with_default.filesystem(b"ext4").mount is Mount.DENY
    assert with_default.filesystem(b"tmpfs").mount is Mount.NATIVE


def test_settings(tmp_path: Path) -> None:
    p = policy(
        tmp_path,
        """\
default: emulate
description: words
selectable: true
capabilities: engine
seccomp: {engine-profile: ignore}
ids: {size: 1000}
limits: {parked: 3, agents: 2, agent-deadline: 250ms}
immutable-mounts: false
leaves: none
""",
    )
    assert (p.description, p.selectable, p.capabilities, p.id_range_size) == ("words", True, "engine", 1000)
    assert (p.limits.parked, p.limits.agents, p.limits.agent_deadline_ms) == (3, 2, 250)
    assert (p.engine_profile, p.immutable_mounts, p.leaves) == (EngineProfile.IGNORE, False, LeafScope.NONE)


def test_every_error_of_a_file_is_reported_with_its_place(tmp_path: Path) -> None:
    found = errors(
        tmp_path,
        """\
defualt: emulate
default: yes
selectable: yes
calls:
  mout: []
  mount:
    - when: {fstyp: proc}
      do: native
    - when: {target: null, flags: {has: [MS_RDONLYY], nott: MS_BIND}}
      do: {deny: EPREM}
    - do: native
  sethostname:
    - when: {len: 1..x}
      do: nativ
    - when: {name: x, caller: {uid: 0..10, nested: False}}
      do: native
    - when: {caller: {gid: 0}}
      do: native
    - when: {}
      do: native
    - {log: true}
  setdomainname:
    - do: native
    - do: emulate
  shutdown:
    - {when: {address: 1, how: "5..1", mode: 65536, fd: 0644}, do: native}
calls: 3
filesystems: {proc: stand_in, "a/b": native}
limits: {agent-deadline: 5, parked: 0}
capabilities:
ids: {size: no}
""",
    )
    text = "\n".join(found)
    for expected in (
        "default.yaml:1:1: unknown key in a policy: 'defualt'; did you mean 'default'?",
        "default.yaml:2:10: unknown decision 'yes' (there are: deny, emulate, kill, native, pretend, stop)",
        "default.yaml:3:13: 'yes' stands where true or false is expected",
        "default.yaml:5:3: unknown call 'mout'; did you mean 'mount'?",
        "default.yaml:7:14: unknown argument of mount 'fstyp'; did you mean 'fstype'?",
        "default.yaml:9:22: null, but this argument is never NULL",
        "default.yaml:9:42: unknown flag 'MS_RDONLYY'; did you mean 'MS_RDONLY'?",
        "default.yaml:10:18: unknown errno 'EPREM'; did you mean 'EPERM'?",
        "default.yaml:13:19: '1..x' stands where a number or a range FIRST..LAST from -2147483648 to 2147483647",
        "default.yaml:14:11: unknown decision 'nativ'; did you mean 'native'?",
        "default.yaml:15:52: 'False' stands where true or false is expected",
        "default.yaml:17:23: unknown property of a caller 'gid'; did you mean 'uid'? (there are: executable,",
        "default.yaml:19:13: an empty `when`",
        "default.yaml:21:7: a rule without `do:`",
        f"default.yaml:24:7: never reached: {tmp_path}/default.yaml:23 decides every setdomainname",
        "default.yaml:26:24: argument 'address' is an address that is not followed",
        "default.yaml:26:32: '5..1' stands where",
        "default.yaml:26:46: '65536' stands where a number or a range FIRST..LAST from 0 to 65535",
        "default.yaml:26:57: '0644' stands where",
        "default.yaml:27:1: key 'calls' stands in line 4 already",
        "default.yaml:28:21: unknown decision 'stand_in'; did you mean 'stand-in'?",
        "default.yaml:28:31: 'a/b' is no filesystem type",
        "default.yaml:29:26: '5' stands where a time with its unit",
        "default.yaml:29:37: '0' stands where a number of calls from 1 to",
        "default.yaml:30:14: nothing stands where capabilities (all, engine) is expected",
        "default.yaml:31:13: 'no' stands where a number of ids",
    ):
        assert expected in text, f"{expected}\nnot in\n{text}"
    lines = [int(e.split(":")[1]) for e in found]
    assert lines == sorted(lines)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ":1:1: the file is empty"),
        ("# only a comment\n", ":1:1: the file is empty"),
        ("- a\n", ":1:1: a list stands where a mapping"),
        ("default: native\n---\ndefault: native\n", ":2:1: a second document"),
        ("default: &a native\n", ":1:10: policies have no anchors"),
        ("default: *a\n", ":1:10: policies have no anchors"),
        ("default: !!str native\n", ":1:10: tag tag:yaml.org,2002:str"),
        ("default: !!python/object:os.system native\n", ":1:10: tag tag:yaml.org,2002:python/object:os.system"),
        ("default: [native\n", ":2:1: while parsing a flow sequence"),
        ("default: native\n\tx: y\n", ":2:1: "),
        ("default: nat\x07ive\n", ":1:13: character 0x7"),
        ("default: " + "[" * (DEPTH_MAX + 2), f"nested more than {DEPTH_MAX} deep"),
        ("? [a]\n: b\n", ":1:3: a list as a key"),
        ("selectable: true\n", ":1:1: no `default:`"),
        ("default: native\nextends: default\n", ":2:10: 'default' stands where a list"),
        ("default: native\nmatch: {}\n", ":2:8: a mapping stands where at least one of image"),
        ("default: native\nmatch: {image: ['a[b']}\n", ":2:17: 'a[b': '[' without ']'"),
        ("default: native\nmatch: {image: []}\n", ":2:16: an empty list of alternatives"),
    ],
)
def test_what_is_no_policy_at_all(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in "\n".join(errors(tmp_path, text))


def test_bytes_that_are_no_text_and_files_too_large(tmp_path: Path) -> None:
    (tmp_path / "default.yaml").write_bytes(b"default: native\n# \xff\n")
    (tmp_path / "large.yaml").write_bytes(b"#" * (SIZE_MAX + 1))
    (tmp_path / "Name.yaml").write_bytes(b"default: native\n")
    (tmp_path / "gone.yaml").symlink_to("nowhere")
    with pytest.raises(PolicyErrors) as caught:
        policy_file.load_all([tmp_path], ROWS)
    text = str(caught.value)
    assert "default.yaml:2:3: not UTF-8" in text
    assert f"large.yaml:1:1: {SIZE_MAX + 1} bytes" in text
    assert "Name.yaml: 'Name' is no policy name" in text
    assert "gone.yaml: cannot be read: No such file or directory" in text


def test_extends_own_entries_first_then_the_first_named(tmp_path: Path) -> None:
    write(
        tmp_path,
        "base",
        "default: native\nlimits: {parked: 1, agents: 1}\nfilesystems: {proc: native, nfs: deny}\n"
        "calls: {mount: [{do: {deny: ENODEV}}]}\n",
    )
    write(tmp_path, "a", "extends: [base]\ncalls: {mount: [{when: {fstype: a}, do: {deny: EACCES}}]}\n")
    write(
        tmp_path,
        "b",
        "extends: [base]\nlimits: {parked: 2}\nfilesystems: {proc: emulate}\n"
        "calls: {mount: [{when: {fstype: [a, b]}, do: {deny: EBUSY}}]}\n",
    )
    write(
        tmp_path,
        "default",
        "extends: [a, b]\nlimits: {agents: 9}\nselectable: true\n"
        "calls: {mount: [{when: {fstype: own}, do: emulate}]}\n",
    )
    policies = policy_file.load_all([tmp_path], ROWS)
    p = policies.get("default")
    assert [p.decide("mount", mount(t), ROOT).errno for t in (b"own", b"a", b"b", b"c")] == [
        0, errno.EACCES, errno.EBUSY, errno.ENODEV,
    ]  # fmt: skip
    assert p.decide("mount", mount(b"b"), ROOT).rule == f"{tmp_path}/b.yaml:4"
    assert (p.limits.parked, p.limits.agents) == (2, 9)
    assert p.filesystem(b"proc").mount is Mount.EMULATE
    assert p.filesystem(b"nfs").mount is Mount.DENY
    assert p.default.rule == f"{tmp_path}/base.yaml:1"
    assert not policies.get("a").selectable, "selectable and match are of one file only"


def test_a_file_replaces_and_may_extend_the_shipped_one_of_its_name(tmp_path: Path) -> None:
    write(tmp_path / "shipped", "default", "default: native\nlimits: {parked: 7}\n")
    write(tmp_path / "local", "default", "extends: [default]\nlimits: {agents: 3}\n")
    p = policy_file.load_all([tmp_path / "local", tmp_path / "shipped"], ROWS).get("default")
    assert (p.limits.parked, p.limits.agents, p.origin) == (7, 3, f"{tmp_path}/local/default.yaml")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"default": "extends: [default]\n"}, "default.yaml:1:11: extends itself"),
        ({"default": "extends: [a]\n", "a": "extends: [default]\n"}, "in a circle: default → a → default"),
        ({"default": "extends: [systmd]\n", "systemd": "default: native\n"}, "'systmd'; did you mean 'systemd'?"),
        ({"other": "default: native\n"}, "default.yaml: there is no such policy"),
    ],
)
def test_extends_that_leads_nowhere(tmp_path: Path, files: dict[str, str], expected: str) -> None:
    for stem, text in files.items():
        write(tmp_path, stem, text)
    with pytest.raises(PolicyError, match=expected.replace("(", r"\(").replace("?", r"\?")):
        policy_file.load_all([tmp_path], ROWS)


def test_a_directory_that_does_not_exist_holds_nothing(tmp_path: Path) -> None:
    write(tmp_path, "default", "default: native\n")
    write(tmp_path, ".hidden", "}")
    assert set(policy_file.load_all([tmp_path / "none", tmp_path], ROWS).policies) == {"default"}


def test_a_file_is_checked_as_if_it_were_installed(tmp_path: Path) -> None:
    write(tmp_path / "etc", "default", "default: native\n")
    new = write(tmp_path / "new", "web", "extends: [default]\ncapabilities: engine\n")
    assert policy_file.check(new, [tmp_path / "etc"], ROWS).capabilities == "engine"
    new.write_text("extends: [defalt]\n")
    with pytest.raises(PolicyErrors, match="did you mean 'default'"):
        policy_file.check(new, [tmp_path / "etc"], ROWS)


def test_search_path() -> None:
    assert policy_file.search_path({}) == [policy_file.LOCAL, policy_file.SHIPPED]
    assert policy_file.search_path({"INTERCEPTOR_POLICIES": "/x"})[0] == Path("/x")


def test_the_vocabulary_is_the_registrys(tmp_path: Path) -> None:
    """What the registry does not know, a policy cannot name; what a plugin registered, it can."""
    write(tmp_path, "default", "default: native\ncalls: {madvise: [{do: native}]}\n")
    assert "madvise" not in registry.load()
    with pytest.raises(PolicyError, match="unknown call 'madvise'"):
        policy_file.load_all([tmp_path])


def test_shipped_policies() -> None:
    policies = policy_file.load_all([policy_file.SHIPPED], {**ROWS, **registry.load()})
    assert set(policies.policies) >= {"default", "systemd", "docker"}
    assert all(p.selectable and p.description for p in policies.policies.values())
    p = policies.get("docker")
    assert p.decide("sethostname", name(b"any"), ROOT).do is Do.EMULATE
    assert p.decide("sethostname", name(b"any"), ROOT).rule.startswith("default.yaml:")
    assert p.decide("sethostname", name(b"any"), Caller(1000, nested=False)).do is Do.NATIVE
    assert {t: p.filesystem(t).mount for t in (b"proc", b"sysfs", b"overlay", b"tmpfs", b"debugfs", b"pstore")} == {
        b"proc": Mount.EMULATE, b"sysfs": Mount.EMULATE, b"overlay": Mount.EMULATE, b"tmpfs": Mount.NATIVE,
        b"debugfs": Mount.STAND_IN, b"pstore": Mount.STAND_IN,
    }  # fmt: skip
    assert (p.capabilities, p.engine_profile, p.immutable_mounts) == ("all", EngineProfile.TIGHTEN, True)


def test_the_shipped_default_says_which_calls_are_off() -> None:
    """As declared by their handlers: whoever reads the file sees it, whoever extends it can turn them on."""
    p = policy_file.load_all([policy_file.SHIPPED]).get("default")
    for row in (row for row in registry.load().values() if row.optional):
        last = p.ladder(row.name)[-1].decision
        assert last.do is Do.NATIVE, row.name
        assert last.rule.startswith("default.yaml:"), f"{row.name}: policies/default.yaml has no unconditional rule"


def test_a_call_without_rules_costs_a_look_up() -> None:
    p = Policy(name="x", origin="x.yaml")
    calls = 100_000
    best = min(timeit.repeat(lambda: p.decide("mount", None, ROOT), number=calls, repeat=5)) / calls
    assert best < 2e-6, "0.1 µs where it was written; the bound only catches a change of kind"


def test_unknown_policies_are_named(tmp_path: Path) -> None:
    write(tmp_path, "default", "default: native\n")
    with pytest.raises(ConfigError, match="there is no policy 'x'; there are: default"):
        policy_file.load_all([tmp_path], ROWS).get("x")


@pytest.mark.parametrize(
    ("value", "holds"),
    [
        (b"10.1.2.3", True), (b"10.1.2.3:/export", True), (b"//10.1.2.3/share", True), (b"11.1.2.3", False),
        (b"[2001:db8::1]:/x", True), (b"2001:db8::1", True), (b"[2001:db9::1]:/x", False), (b"", False), (None, False),
        (b"10.1.2.3.example.org:/x", False), (b"nas:/10.1.2.3", False), (b"10.1.2:/x", False), (b"10.1.2.3a", False),
    ],
)  # fmt: skip
def test_networks(tmp_path: Path, value: bytes | None, holds: bool) -> None:
    text = "default: native\ncalls: {mount: [{when: {source: {cidr: [10.0.0.0/8, 2001:db8::/32]}}, do: emulate}]}\n"
    p = policy(tmp_path, text)
    decided = p.decide("mount", MountArgs(value, b"/x", b"nfs", 0, None), ROOT)
    assert (decided.do is Do.EMULATE) is holds


def test_constants_have_the_names_of_the_kernels_headers(tmp_path: Path) -> None:
    p = policy(tmp_path, "default: native\ncalls: {shutdown: [{when: {how: [SHUT_WR, 7]}, do: deny}]}\n")
    found = [p.decide("shutdown", ShutdownArgs(0, how, 0, 0, 0, 0), ROOT).do for how in (0, 1, 7)]
    assert found == [Do.NATIVE, Do.DENY, Do.DENY]
    assert policy_text.condition(p.rules["shutdown"][0].args[0][1], ROWS["shutdown"].signature.fields[1].kind) == "[SHUT_WR, 7]"
    with pytest.raises(PolicyErrors, match="from -2147483648 to 2147483647, SHUT_RD, SHUT_WR"):
        policy(tmp_path, "default: native\ncalls: {shutdown: [{when: {how: SHUT}, do: deny}]}\n")


def test_masks(tmp_path: Path) -> None:
    rules = "{when: {mode: {mask: 0o170000, is: 0o020000}}, do: deny}, {when: {flags: {mask: 3, is: 1}}, do: pretend}"
    p = policy(tmp_path, f"default: native\ncalls: {{shutdown: [{rules}]}}\n")
    found = [
        p.decide("shutdown", ShutdownArgs(0, 0, m, 0, 0, f), ROOT).do for m, f in ((0o20666, 0), (0o60666, 5), (0, 3))
    ]
    assert found == [Do.DENY, Do.PRETEND, Do.NATIVE]
    registers = [r for r in stanza.table(ROWS, p, Arch.X86_64) if r.nr == 48]
    assert [r.tests for r in registers[:2]] == [(RegisterTest(2, 0xF000, 0x2000),), (RegisterTest(5, 3, 1),)]


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("{source: {cidr: 10.0.0.1/8}}", "10.0.0.1/8 has host bits set (a network is written"),
        ("{source: {cidrs: 10.0.0.0/8}}", "a mapping stands where a pattern, a list of patterns, or {cidr:"),
        ("{flags: {mask: 1, is: 2}}", "0x2 of `is` lies outside `mask`; that can never hold"),
        ("{flags: {mask: 1}}", "a mapping stands where {mask: BITS, is: BITS} is expected"),
        ("{caller: {executable: 'a[b'}}", "'a[b': '[' without ']'"),
        ("{caller: {inner: 1}}", "'1' stands where true or false is expected"),
    ],
)
def test_mistakes_in_conditions(tmp_path: Path, when: str, expected: str) -> None:
    assert expected in "\n".join(errors(tmp_path, f"default: native\ncalls: {{mount: [{{when: {when}, do: deny}}]}}\n"))


def test_good_policies_are_remembered_whole(tmp_path: Path) -> None:
    kept, own = tmp_path / "run" / "policies", tmp_path / "own"
    kept.parent.mkdir()
    write(own, "a", "default: native\n")
    policy_file.remember([own, policy_file.SHIPPED], kept)
    assert [path.name for path in kept.iterdir()] == ["a.yaml"]
    (own / "a.yaml").unlink()
    write(own, "b", "default: emulate\n")
    policy_file.remember([own, policy_file.SHIPPED], kept)
    assert [(path.name, path.read_text()) for path in kept.iterdir()] == [("b.yaml", "default: emulate\n")]
    policy_file.remember([tmp_path / "none"], kept)
    assert list(kept.iterdir()) == []
    assert list(kept.parent.iterdir()) == [kept]


def test_what_is_hidden_is_a_list_that_replaces_another(tmp_path: Path) -> None:
    text = "default: native\nhidden: [/proc/keys, /sys/firmware/acpi]\n"
    assert policy(tmp_path, text).hidden == ("/proc/keys", "/sys/firmware/acpi")
    assert policy(tmp_path, "default: native\n").hidden == ()
    assert policy(tmp_path, "default: native\nhidden: []\n").hidden == ()


UNHIDEABLE = [
    "/proc", "/proc/", "/etc/passwd", "proc/keys", "/proc/../etc", "/proc/a b", "/proc/1/mem", "/proc/self", "/proc/sys/net/x",
]  # fmt: skip


@pytest.mark.parametrize("path", UNHIDEABLE)
def test_what_cannot_be_hidden(tmp_path: Path, path: str) -> None:
    with pytest.raises(PolicyErrors, match="path"):
        policy(tmp_path, f'default: native\nhidden: ["{path}"]\n')
