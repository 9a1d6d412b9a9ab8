"""Events as lines for people, in the manner of strace.

    12:34:56.789012 web systemd[12]   mount("proc", "/proc", "proc", 0, NULL)      = 0 <emulated> docker.yaml:12 38µs

A denied call gets a second line: which rule, why, and what would allow it. Whatever a tracee may have chosen (comm,
container names from annotations, text in `why`) is made printable first: a trace must not be able to drive a terminal.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING

from interceptor.printable import printable
from interceptor.trace.record import REFUSED, How

if TYPE_CHECKING:
    from interceptor.trace.event import Event

CALL_WIDTH = 56
"""Where results stand in line; longer calls push theirs to the right, as in strace -a."""
PROCESS_WIDTH = 22
"""comm (15 at most) and tid; longer ones push the rest to the right."""

_ANSI = {
    "dim": "\x1b[2m",
    "red": "\x1b[31m",
    "bold red": "\x1b[1;31m",
    "green": "\x1b[32m",
    "yellow": "\x1b[33m",
    "cyan": "\x1b[36m",
}
_HOW_STYLE = {
    How.EMULATED: "green",
    How.TABLE: "cyan",
    How.CONTINUED: "dim",
    How.NATIVE: "dim",
    How.PRETENDED: "cyan",
    How.DENIED: "red",
    How.KILLED: "red",
    How.RELOADED: "yellow",
    How.FAILED: "bold red",
    How.GONE: "yellow",
}


@dataclass(slots=True)
class Printer:
    """Turns events into lines; remembers the width of the container column and the day of the last line."""

    colour: bool = False
    names: int = 0
    """Width of the container column so far."""
    day: str = field(default_factory=lambda: time.strftime("%F"))

    def widen(self, events: list[Event]) -> None:
        """Makes room for the container names of a whole batch, so that its columns stand in line."""
        self.names = max([self.names, *(len(printable(e["name"])) for e in events)])

    def lines(self, event: Event) -> list[str]:
        """One line, preceded by the date when it changes, followed by an explanation when one is owed."""
        self.widen([event])
        seconds, rest = divmod(int(event["time_ns"]), 1_000_000_000)
        when = time.localtime(seconds)
        before = self._date(time.strftime("%F", when))
        clock = f"{time.strftime('%T', when)}.{rest // 1000:06}"
        return [*before, self._line(clock, event), *self._explanation(event)]

    def lost(self, count: int) -> str:
        """What stands where records are missing because the reader was too slow."""
        return self._paint("yellow", f"… {count} calls are missing here: they came faster than they could be printed")

    def _date(self, day: str) -> list[str]:
        if day == self.day:
            return []
        self.day = day
        return [self._paint("dim", f"-- {day} --")]

    def _line(self, clock: str, event: Event) -> str:
        process = f"{printable(event['comm']) or '?'}[{event['tid']}]"
        call = f"{printable(event['call'])}({event['arguments']})"
        how = How(event["how"])
        who = f"{printable(event['name']).ljust(self.names)} {process.ljust(PROCESS_WIDTH)}"
        said = f"{call.ljust(CALL_WIDTH)} = "
        if _HOW_STYLE[how] == "dim":  # the kernel's own business: what interceptor did stands out from it
            who, said = self._paint("dim", who), self._paint("dim", said)
        parts = [
            self._paint("dim", clock),
            who,
            said + self._result(event),
            self._paint(_HOW_STYLE[how], f"<{how}>"),
            self._paint("dim", f"{_short(event['rule'])} {_micros(event['micros'])}".lstrip()),
        ]
        return " ".join(parts)

    def _result(self, event: Event) -> str:
        """``0``, ``-1 EPERM (Operation not permitted)``, ``?`` for what only the kernel knows."""
        if event["errno"]:
            return self._paint("red", f"-1 {event['errno']} ({event['error']})")
        return "?" if event["result"] is None else str(event["result"])

    def _explanation(self, event: Event) -> list[str]:
        """The second line of a call that was refused, failed, or has more to say of its errno."""
        how = How(event["how"])
        refused = how in REFUSED or "remedy" in event
        told = bool(event["errno"]) and event["why"] != event["error"]  # more than the errno says
        if not refused and not told and how not in (How.FAILED, How.RELOADED):
            return []
        rule = f"refused by {event['rule']}" if refused and event["rule"] else ""
        parts = [rule, event["why"], event.get("remedy", "")]
        text = "; ".join(printable(part) for part in parts if part)
        return [self._paint("dim", f"{'':15} └─ {text}")] if text else []

    def _paint(self, style: str, text: str) -> str:
        return f"{_ANSI[style]}{text}\x1b[0m" if self.colour else text


def _short(rule: str) -> str:
    """The rule's file without its directories; the whole place stands in the JSON form and in explanations."""
    return printable(PurePath(rule).name if rule.startswith("/") else rule)


def _micros(micros: float) -> str:
    return f"{micros:.0f}µs" if micros >= 10 else f"{micros:.1f}µs"  # noqa: PLR2004 - two digits tell enough
