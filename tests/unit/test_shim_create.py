"""interceptor-runc create, exec and delete against a supervisor and a runtime that are ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.fake_supervisor import SHIM, FakeSupervisor, fake_supervisor, refusal, script, shim
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

MOUNT_NAMESPACE = str(Path("/proc/self/ns/mnt").readlink())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    directory = tmp_path / "run"
    directory.mkdir()
    return directory


@pytest.fixture
def supervisor(run: Path) -> Iterator[FakeSupervisor]:
    with fake_supervisor(run) as running:
        yield running


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """Notes its arguments in `calls`, writes pid 4242 to its pid file, and ends with $STATUS."""
    return script(
        tmp_path / "runtime",
        f'echo "$*" >> {tmp_path}/calls\n[ "$1" = create ] && echo 4242 > {tmp_path}/pid\nexit "${{STATUS:-0}}"',
    )


def calls(tmp_path: Path) -> list[str]:
    return (tmp_path / "calls").read_text(encoding="utf-8").splitlines() if (tmp_path / "calls").exists() else []


def executes(runtime: Path, *arguments: str, **more: Any) -> dict[str, Any]:
    return {"exec": [str(runtime), *arguments], "pid_file": str(runtime.parent / "pid"), **more}


def test_create_says_what_it_was_given_and_executes_the_answer(
    run: Path, supervisor: FakeSupervisor, runtime: Path, tmp_path: Path
) -> None:
    supervisor.answers["create"] = executes(runtime, "create", "--else", "c1")
    result = shim(
        *("--log", tmp_path / "log", "--log-format=json", "--root", "/r"),
        *("create", "--bundle", "b", "--pid-file", "p", "--no-pivot", "c1"),
        run=run,
        cwd=tmp_path,
        env={"INTERCEPTOR_RUNTIME": "crun"},
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert calls(tmp_path) == ["create --else c1"]
    created, completed = supervisor.seen
    assert created.pop("creator") > 1
    assert created == {
        "v": 1,
        "op": "create",
        "id": "c1",
        "bundle": f"{tmp_path}/b",
        "argv": ["--log", f"{tmp_path}/log", "--log-format=json", "--root", "/r",
                 "create", "--bundle", "b", "--pid-file", "p", "--no-pivot", "c1"],
        "runtime": "crun",
        "pid_file": f"{tmp_path}/p",
        "stdio_null": True,
    }  # fmt: skip
    assert completed == {"v": 1, "op": "created", "id": "c1", "status": 0, "pid": 4242}
    assert supervisor.fd_links == [[MOUNT_NAMESPACE], []]


@pytest.mark.parametrize(
    "arguments",
    [
        ["create", "--bundle=/b", "--pid-file=/p", "c1"],
        ["create", "-b", "/b", "-pid-file", "/p", "c1"],
        ["create", "c1", "-b/b", "--pid-file", "/p"],
        ["--debug", "--systemd-cgroup=false", "create", "--preserve-fds", "2", "-b=/b", "--pid-file", "/p", "--", "c1"],
    ],
)
def test_the_forms_of_options_that_runc_and_crun_take(
    run: Path, supervisor: FakeSupervisor, runtime: Path, arguments: list[str]
) -> None:
    supervisor.answers["create"] = executes(runtime, "create")
    assert shim(*arguments, run=run).returncode == 0
    created = supervisor.seen[0]
    assert (created["id"], created["bundle"], created["pid_file"]) == ("c1", "/b", "/p")
    assert created["argv"] == arguments


def test_the_bundle_is_by_default_where_we_are(
    run: Path, supervisor: FakeSupervisor, runtime: Path, tmp_path: Path
) -> None:
    supervisor.answers["create"] = executes(runtime, "create")
    assert shim("create", "c1", run=run, cwd=tmp_path).returncode == 0
    assert supervisor.seen[0]["bundle"] == str(tmp_path)
    assert supervisor.seen[0]["pid_file"] is None


def test_a_runtime_that_fails_is_reported_and_its_status_is_ours(
    run: Path, supervisor: FakeSupervisor, runtime: Path
) -> None:
    supervisor.answers["create"] = executes(runtime, "create")
    assert shim("create", "c1", run=run, env={"STATUS": "7"}).returncode == 7
    assert supervisor.seen[1] == {"v": 1, "op": "created", "id": "c1", "status": 7, "pid": None}


def test_a_runtime_that_dies_by_a_signal_ends_us_with_128_and_its_number(
    run: Path, supervisor: FakeSupervisor, tmp_path: Path
) -> None:
    supervisor.answers["create"] = executes(script(tmp_path / "dies", "kill -SEGV $$"))
    assert shim("create", "c1", run=run).returncode == 128 + signal.SIGSEGV


def test_a_runtime_that_cannot_be_executed_is_named(run: Path, supervisor: FakeSupervisor, tmp_path: Path) -> None:
    supervisor.answers["create"] = executes(tmp_path / "missing")
    result = shim("create", "c1", run=run)
    assert result.returncode == 127
    assert f"cannot execute {tmp_path}/missing: No such file or directory" in result.stderr


def test_a_refusal_reaches_stderr_and_the_json_log(run: Path, supervisor: FakeSupervisor, tmp_path: Path) -> None:
    supervisor.answers["create"] = refusal('no "policy" of that name')
    result = shim("--log", tmp_path / "log", "--log-format", "json", "create", "c1", run=run)
    assert result.returncode == 1
    assert result.stderr == 'interceptor-runc create: no "policy" of that name\n'
    line = json.loads((tmp_path / "log").read_text(encoding="utf-8"))
    assert line["level"] == "error"
    assert line["msg"] == 'interceptor-runc create: no "policy" of that name'
    assert time.strptime(line["time"], "%Y-%m-%dT%H:%M:%SZ")


def test_a_refusal_reaches_the_text_log(run: Path, supervisor: FakeSupervisor, tmp_path: Path) -> None:
    supervisor.answers["create"] = refusal("no")
    shim("--log", tmp_path / "log", "create", "c1", run=run)
    assert 'level=error msg="interceptor-runc create: no"\n' in (tmp_path / "log").read_text(encoding="utf-8")


def test_a_created_that_is_refused_deletes_the_container(
    run: Path, supervisor: FakeSupervisor, runtime: Path, tmp_path: Path
) -> None:
    supervisor.answers |= {"create": executes(runtime, "create"), "created": refusal("the cgroup went away")}
    result = shim("--root", "/r", "create", "c1", run=run)
    assert result.returncode == 1
    assert "container c1 was created and deleted again: the cgroup went away" in result.stderr
    assert calls(tmp_path) == ["create", "--root /r delete --force c1"]


def test_a_supervisor_that_goes_away_while_the_runtime_works_ends_the_runtime(
    run: Path, supervisor: FakeSupervisor, tmp_path: Path
) -> None:
    waits = script(tmp_path / "waits", f'echo "$*" >> {tmp_path}/calls; [ "$1" = create ] && exec sleep 1000; exit 0')
    supervisor.answers["create"] = executes(waits, "create")
    supervisor.answers["resume"] = [refusal("c1 is not being created")]
    process = subprocess.Popen(
        [SHIM, "create", "c1"],
        env={"PATH": os.environ["PATH"], "INTERCEPTOR_RUN": str(run)},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(lambda: calls(tmp_path) == ["create"], "the runtime is executed", within=20)
        supervisor.drop_connections()
        _, error = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 1
    assert "the supervisor went away" in error
    assert calls(tmp_path) == ["create", "delete --force c1"]


def test_the_creation_goes_on_with_the_supervisor_that_follows(
    run: Path, supervisor: FakeSupervisor, tmp_path: Path
) -> None:
    go_on = tmp_path / "go-on"
    waits = script(tmp_path / "waits", f'echo "$*" >> {tmp_path}/calls; until [ -e {go_on} ]; do sleep 0.02; done')
    supervisor.answers["create"] = executes(waits, "create")
    with subprocess.Popen(
        [SHIM, "create", "c1"], env={"PATH": os.environ["PATH"], "INTERCEPTOR_RUN": str(run)}, stdin=subprocess.DEVNULL
    ) as process:
        wait_for(lambda: calls(tmp_path) == ["create"], "the runtime is executed", within=20)
        supervisor.drop_connections()
        wait_for(lambda: len(supervisor.seen) > 1, "the entry comes back", within=20)
        go_on.touch()
        assert process.wait(timeout=30) == 0
    said = [request["op"] for request in supervisor.seen]
    assert list(dict.fromkeys(said)) == ["create", "resume", "created"]  # a second resume, should that be cut as well
    assert calls(tmp_path) == ["create"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_during_create_go_to_the_runtime(
    run: Path, supervisor: FakeSupervisor, tmp_path: Path, number: signal.Signals
) -> None:
    ready = tmp_path / "ready"
    waits = script(tmp_path / "waits", f"trap 'exit 9' {number.name[3:]}; : > {ready}; while :; do sleep 0.05; done")
    supervisor.answers["create"] = executes(waits)
    process = subprocess.Popen(
        ["env", "--default-signal", SHIM, "create", "c1"],  # a shell has what it puts into the background ignore SIGINT
        env={"PATH": os.environ["PATH"], "INTERCEPTOR_RUN": str(run)},
        stdin=subprocess.DEVNULL,
    )
    try:
        wait_for(ready.exists, "the runtime runs", within=20)
        process.send_signal(number)
        assert process.wait(timeout=30) == 9
    finally:
        process.kill()
        process.wait()
    assert supervisor.seen[1]["status"] == 9


def test_a_supervisor_that_was_just_leaving_is_asked_again(
    run: Path, supervisor: FakeSupervisor, runtime: Path
) -> None:
    answers = iter([None, executes(runtime, "create")])
    supervisor.answers["create"] = lambda _: next(answers)
    assert shim("create", "c1", run=run).returncode == 0
    assert supervisor.operations() == ["create", "create", "created"]


def test_exec_hands_over_what_was_asked_and_becomes_the_answer(
    run: Path, supervisor: FakeSupervisor, runtime: Path, tmp_path: Path
) -> None:
    supervisor.answers["exec"] = {"exec": [str(runtime), "exec", "c1"], "init_pid": os.getpid()}
    result = shim("exec", "--process", "p.json", "-e", "A=1", "--env=B=2", "c1", "ls", "--force", run=run, cwd=tmp_path)
    assert result.returncode == 0
    assert calls(tmp_path) == ["exec c1"]
    request = supervisor.seen[0]
    assert (request["id"], request["process"], request["env"]) == ("c1", f"{tmp_path}/p.json", ["A=1", "B=2"])
    assert request["argv"][-2:] == ["ls", "--force"]


def record(run: Path, container: str, runtime: Path) -> None:
    directory = run / "containers" / container
    directory.mkdir(parents=True)
    (directory / "runtime").write_text(f"{runtime}\n", encoding="utf-8")


def test_delete_is_reported_once_the_runtime_has_done_it(
    run: Path, supervisor: FakeSupervisor, runtime: Path, tmp_path: Path
) -> None:
    record(run, "c1", runtime)
    assert shim("delete", "c1", run=run).returncode == 0
    assert calls(tmp_path) == ["delete c1"]
    assert supervisor.seen == [{"v": 1, "op": "deleted", "id": "c1"}]
    assert supervisor.fd_links == [[MOUNT_NAMESPACE]]


def test_a_delete_that_fails_is_not_reported(run: Path, supervisor: FakeSupervisor, tmp_path: Path) -> None:
    record(run, "c1", script(tmp_path / "busy", '[ "$1" = state ] && exit 0; exit 3'))
    assert shim("delete", "c1", run=run).returncode == 3
    assert supervisor.seen == []


@pytest.mark.parametrize("arguments", [["delete", "--force", "c1"], ["delete", "c1", "-f"]])
def test_a_forced_delete_is_always_reported(
    run: Path, supervisor: FakeSupervisor, runtime: Path, arguments: list[str]
) -> None:
    record(run, "c1", runtime)
    assert shim(*arguments, run=run, env={"STATUS": "1"}).returncode == 1
    assert supervisor.operations() == ["deleted"]


def test_a_delete_of_what_the_runtime_does_not_know_is_reported(
    run: Path, supervisor: FakeSupervisor, runtime: Path, tmp_path: Path
) -> None:
    record(run, "c1", runtime)
    assert shim("delete", "c1", run=run, env={"STATUS": "1"}).returncode == 1
    assert calls(tmp_path) == ["delete c1", "state c1"]
    assert supervisor.operations() == ["deleted"]


def test_a_delete_of_what_nobody_knows_starts_no_supervisor(run: Path, runtime: Path) -> None:
    result = shim("delete", "c1", run=run, env={"INTERCEPTOR_RUNTIME": str(runtime), "STATUS": "1"})
    assert (result.returncode, result.stderr) == (1, "")
    assert list(run.iterdir()) == []
