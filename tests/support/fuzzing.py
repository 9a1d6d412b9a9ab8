"""Fuzz targets in C: what they are made of, how they are built, how they are run.

A target is tests/fuzz/NAME.c with LLVMFuzzerTestOneInput(), linked with the files of interceptor/native that it is for.
With gcc and tests/fuzz/engine.c it runs its corpus and changes of it (tests); with clang and libFuzzer it goes by coverage
(`make fuzz`). Both with AddressSanitizer and UndefinedBehaviorSanitizer.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[1] / "fuzz"
NATIVE = HERE.parents[1] / "interceptor/native"
CORPUS = HERE / "corpus"
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-Wno-missing-field-initializers", "-Wno-sign-compare",
            "-Wno-attributes")  # fmt: skip
OPTIONS = {"ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
"""Leaks: the entry's program never frees, and what the others keep is said by themselves."""


@dataclass(frozen=True)
class Target:
    """`sources` are files of interceptor/native. `before` is included before everything else in them. With `reset`, symbols
    `first_data`, `last_data`, `first_bss`, `last_bss` enclose what they remember.
    """

    name: str
    sources: tuple[str, ...]
    before: str = ""
    reset: bool = False
    options: tuple[str, ...] = ()

    @property
    def corpus(self) -> Path:
        return CORPUS / self.name


def _agent() -> tuple[str, ...]:
    """All of it but its entry point."""
    return tuple(sorted(path.name for path in NATIVE.glob("agent*.c") if path.name not in ("agent_sys.c", "agentlink.c")))


TARGETS = (
    Target("agent", _agent(), before="agent_kernel.h", reset=True, options=("-ffreestanding",)),
    Target(
        "notify", ("notify.c", "shortcut.c", "pace.c", "forks.c", "journal.c", "pin.c", "agentlink.c"),
        before="notify_kernel.h", options=("-Wno-unused-variable", "-Wno-unused-but-set-variable"),
    ),
    Target("fuse", ("fuse.c", "snapshots.c", "watches.c"), before="fuse_kernel.h"),
    Target("json", ("shim_json.c",)),
)


def python_targets() -> tuple[str, ...]:
    """Names of those in fuzz_targets.py, which are not imported here: that is for who instruments them."""
    return ("args", "calltext", "control", "listener", "policy", "wire")


def build(target: Target, into: Path, *, coverage: bool = False) -> Path:
    """The program; skips the test where there is no compiler. `coverage`: with clang and libFuzzer."""
    compiler = shutil.which("clang" if coverage else "gcc")
    if compiler is None:
        pytest.skip("needs gcc" if not coverage else "needs clang")
    into.mkdir(parents=True, exist_ok=True)
    engine = ("-fsanitize=fuzzer-no-link",) if coverage else ()
    warnings = WARNINGS if not coverage else ("-w",)  # gcc's are the project's
    common = [compiler, "-g", "-O1", "-D_GNU_SOURCE", "-std=gnu11", *SANITIZERS, *warnings]
    jobs = [[*common, "-c", HERE / f"{target.name}.c", "-o", into / "target.o", f"-I{NATIVE}"]]
    before = ("-include", HERE / target.before) if target.before else ()
    sources = [*common, *engine, *target.options, *before]
    jobs += [[*sources, "-c", NATIVE / source, "-o", into / f"{source}.o"] for source in target.sources]
    objects = [into / f"{source}.o" for source in target.sources]
    if target.reset:
        for edge in ("first", "last"):
            name = into / f"{edge}.o"
            jobs.append([compiler, "-c", HERE / "agent_edge.c", f"-DEDGE(kind)={edge}_##kind", "-o", name])
        objects = [into / "first.o", *objects, into / "last.o"]
    if not coverage:
        jobs.append([*common, "-c", HERE / "engine.c", "-o", into / "engine.o"])
        objects.append(into / "engine.o")
    _compile(jobs)
    program = into / target.name
    link = [compiler, *SANITIZERS, *(("-fsanitize=fuzzer",) if coverage else ()), "-pthread", "-o", program]
    _compile([[*link, into / "target.o", *objects]])
    return program


def _compile(jobs: list[list[str | Path]]) -> None:
    """Two at a time."""
    running: list[subprocess.Popen[str]] = []
    wrong = ""
    for job in jobs:
        running.append(subprocess.Popen(job, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        if len(running) == 2:
            wrong += _wait(running.pop(0))
    wrong += "".join(_wait(process) for process in running)
    assert not wrong, wrong


def _wait(process: subprocess.Popen[str]) -> str:
    """What is wrong."""
    output, _ = process.communicate()
    return output if process.returncode else ""
