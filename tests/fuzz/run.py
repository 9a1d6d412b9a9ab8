"""`make fuzz`: every target for FUZZ_SECONDS, by coverage; one line for each, and status 1 where something was found.

run.py SECONDS [TARGET…]      all of them, or these
run.py --minimize [TARGET…]   after that: what of the inputs found reaches code that the corpora do not, goes into these

Inputs that were found to be new stay in build/fuzz, and are where the next run begins. What breaks a target is left there as
TARGET/crash-…, with the report beside it; it belongs into the corpus once the fault is mended, so that it does not come back.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from support import fuzzing  # noqa: E402 - found by the line above

WORK = HERE.parents[1] / "build/fuzz"
NATIVE = {target.name: target for target in fuzzing.TARGETS}
LENGTH, KEPT = 4096, 1024
"""Bytes of an input, and of one that is kept in the repository."""


def main(arguments: list[str]) -> int:
    first, *names = arguments
    if first == "--target":
        return run_python(names[0], names[1:])
    chosen = names or [*NATIVE, *fuzzing.python_targets()]
    if first == "--minimize":
        for name in chosen:
            minimize(name)
        return 0
    return max([fuzz(name, int(first)) for name in chosen], default=0)


def command(name: str) -> list[str]:
    if name in NATIVE:
        return [str(fuzzing.build(NATIVE[name], WORK / name / "build", coverage=True))]
    again = WORK / name / "again"  # libFuzzer starts itself by this name to minimize
    again.parent.mkdir(parents=True, exist_ok=True)
    again.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} --target {name} "$@"\n')
    again.chmod(0o755)
    return [str(again)]


def fuzz(name: str, seconds: int) -> int:
    found, corpus, report = WORK / name / "found", fuzzing.CORPUS / name, WORK / name / "report"
    found.mkdir(parents=True, exist_ok=True)
    corpus.mkdir(parents=True, exist_ok=True)
    dictionary = HERE / f"{name}.dict"
    options = [f"-max_total_time={seconds}", f"-max_len={LENGTH}", "-print_final_stats=1", "-timeout=20"]
    options += [f"-artifact_prefix={WORK / name}/", *([f"-dict={dictionary}"] if dictionary.exists() else [])]
    begin = time.monotonic()
    with report.open("w") as log:
        done = subprocess.run(
            [*command(name), *options, str(found), str(corpus)], env=os.environ | fuzzing.OPTIONS,
            stdout=log, stderr=log, check=False,
        )  # fmt: skip
    text = report.read_text(errors="replace")
    runs, reached = _last(r"number_of_executed_units: +(\d+)", text), _last(r"cov: (\d+)", text)
    ended = "nothing found" if done.returncode == 0 else f"FOUND: see {report}"
    taken = time.monotonic() - begin
    print(f"fuzz {name}: {taken:.0f} s, {runs} inputs, {reached} places of code reached; {ended}", flush=True)
    return int(done.returncode != 0)


def _last(pattern: str, text: str) -> str:
    found = re.findall(pattern, text)
    return found[-1] if found else "?"


def minimize(name: str) -> None:
    corpus, found = fuzzing.CORPUS / name, WORK / name / "found"
    smaller = WORK / name / "smaller"
    shutil.rmtree(smaller, ignore_errors=True)
    smaller.mkdir(parents=True)
    corpus.mkdir(exist_ok=True)
    how = "-set_cover_merge=1" if name in NATIVE else "-merge=1"
    merge = [*command(name), how, f"-max_len={KEPT}", str(smaller), str(corpus), str(found)]
    subprocess.run(merge, env=os.environ | fuzzing.OPTIONS, check=True, capture_output=True)
    assert any(smaller.iterdir()), f"{name}: nothing was kept"
    shutil.rmtree(corpus, ignore_errors=True)
    shutil.copytree(smaller, corpus)
    size = sum(path.stat().st_size for path in corpus.iterdir())
    print(f"corpus of {name}: {len(list(corpus.iterdir()))} inputs, {size} bytes")


def run_python(name: str, options: list[str]) -> int:
    """In this process, which atheris ends."""
    import atheris  # noqa: PLC0415 - only what `make fuzz` installs has it

    with atheris.instrument_imports(include=["interceptor"]):
        from support.fuzz_targets import TARGETS  # noqa: PLC0415 - to be instrumented

    tempfile.tempdir = str(WORK / name)  # atheris ends the process without clearing up
    atheris.Setup([str(WORK / name / "again"), *options], TARGETS[name])
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
