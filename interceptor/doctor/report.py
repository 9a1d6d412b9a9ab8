"""The doctor's report for people, and as JSON."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Any

from interceptor.doctor.finding import Verdict
from interceptor.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from interceptor.doctor.examine import Section
    from interceptor.doctor.finding import Finding

_MARK = {Verdict.OK: "ok", Verdict.WARNING: "warning", Verdict.FAILURE: "FAILURE"}
_STYLE = {Verdict.OK: "32", Verdict.WARNING: "33", Verdict.FAILURE: "1;31"}
_WIDTH = max(map(len, _MARK.values()))
_COLUMN = 34
"""Width of the first column; a longer name (a path) pushes its finding to the next line."""


class Report:
    """Counts what it renders, for the last line."""

    def __init__(self, *, colour: bool) -> None:
        self._colour = colour
        self.counts: Counter[Verdict] = Counter()

    def header(self) -> str:
        host = os.uname()
        return f"{host.sysname} {host.release} {host.machine}"

    def section(self, section: Section) -> Iterator[str]:
        yield ""
        yield self._paint("1", section.title)
        for finding in section.findings:
            self.counts[finding.verdict] += 1
            yield from self._lines(finding)

    def summary(
        self, good: str = "Ready for system containers", bad: str = "system containers will not work here yet"
    ) -> str:
        """What all of it means; `good` and `bad` without their full stop."""
        failures, warnings = self.counts[Verdict.FAILURE], self.counts[Verdict.WARNING]
        if failures:
            return self._paint("1;31", f"{_many(failures, 'failure')}: {bad}.")
        if warnings:
            return f"{good}; {_many(warnings, 'warning')} to look at."
        return f"{good}."

    def _lines(self, finding: Finding) -> Iterator[str]:
        mark = self._paint(_STYLE[finding.verdict], _MARK[finding.verdict].ljust(_WIDTH))
        what, found = printable(finding.what), printable(finding.found)
        if len(what) < _COLUMN:
            yield f"  {mark}  {what.ljust(_COLUMN)}{found}"
        else:
            yield f"  {mark}  {what}"
            yield f"  {'':{_WIDTH}}  {'':{_COLUMN}}{found}"
        for line in finding.advice.splitlines():
            yield f"  {'':{_WIDTH}}    {self._paint('2', printable(line))}"

    def _paint(self, style: str, text: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if self._colour else text


def as_json(sections: Iterable[Section]) -> list[dict[str, Any]]:
    """One object a finding; `verdict` is ok, warning or failure."""
    return [
        {
            "section": section.title,
            "what": finding.what.removeprefix("  … "),
            "verdict": str(finding.verdict),
            "found": finding.found,
            "advice": finding.advice,
        }
        for section in sections
        for finding in section.findings
    ]


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
