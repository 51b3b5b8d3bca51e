"""One fuzzing run: several engines driven at once, a live line, and what they found turned into reports.

The loop owns the clock. An engine that works in this process gets slices of time; one that works in a process of its
own is only asked what is new. Ctrl-C ends the loop in good order: engines are stopped, what was found is reported.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from time import monotonic
from typing import Final, TextIO

from fuzz.engines.protocol import Discovery, Engine, EngineError, Statistics
from fuzz.findings import Report, Reporter

SLICE: Final = 0.2
"""Seconds that an engine works before the loop looks at the clock and redraws the line."""
PLAIN_EVERY: Final = 5.0
"""Seconds between two lines where there is no terminal."""


class Progress:
    """The live line: redrawn in place on a terminal, a new line every few seconds elsewhere. It goes to stderr."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.live = self.stream.isatty()
        self.quiet = quiet
        self.last = monotonic()
        self.width = 0

    def show(self, text: str) -> None:
        """Draw the line if it is time."""
        now = monotonic()
        if self.quiet or (not self.live and now - self.last < PLAIN_EVERY):
            return
        self.last = now
        if self.live:
            # Blanks wipe what a longer line left behind; no escape codes, so that any terminal will do.
            self.stream.write(f"\r{text:<{self.width}}")
            self.width = len(text)
        else:
            self.stream.write(f"{text}\n")
        self.stream.flush()

    def say(self, text: str) -> None:
        """A lasting line, above the live one."""
        if not self.quiet:
            self.clear()
            self.stream.write(f"{text}\n")
            self.stream.flush()

    def clear(self) -> None:
        """Wipe the live line."""
        if self.live and self.width:
            self.stream.write(f"\r{'':<{self.width}}\r")
            self.stream.flush()
            self.width = 0


@dataclass(slots=True)
class Session:
    """Engines, and what came of them."""

    engines: list[Engine]
    reporter: Reporter
    progress: Progress
    interrupted: bool = False
    broken: dict[str, str] = field(default_factory=dict)
    """Engines that could not start or broke down, and why."""
    seconds: float = 0.0

    @property
    def statistics(self) -> Statistics:
        """All engines together."""
        total = Statistics()
        for engine in self.engines:
            total.add(engine.statistics)
        return total

    def run(self, seconds: float | None, programs: int | None) -> list[Report]:
        """Fuzz until the time is up or each engine has run its programs; the reports made."""
        begin = monotonic()
        end = None if seconds is None else begin + seconds
        working: list[Engine] = []
        try:
            for engine in self.engines:
                try:
                    engine.start()
                    working.append(engine)
                except EngineError as error:
                    self._broken(engine, error)
            while working and (end is None or monotonic() < end):
                for engine in list(working):
                    left = None if programs is None else programs - engine.statistics.programs
                    if left is not None and left <= 0:
                        working.remove(engine)
                        continue
                    share = SLICE if end is None else min(SLICE, max(0.0, end - monotonic()))
                    self._drive(engine, share, left, working)
                self.progress.show(self._line(monotonic() - begin, seconds))
        except KeyboardInterrupt:
            self.interrupted = True
        finally:
            remaining = [discovery for engine in self.engines for discovery in engine.stop()]
            self.seconds = monotonic() - begin
            self.progress.clear()
        try:
            self._take(remaining)
        except KeyboardInterrupt:
            self.interrupted = True
        return list(self.reporter.reports.values())

    def _drive(self, engine: Engine, seconds: float, programs: int | None, working: list[Engine]) -> None:
        """One slice of one engine. One that works elsewhere costs no time, unless it is alone."""
        try:
            if engine.background and len(working) > 1:
                seconds = 0.0
            self._take(engine.advance(seconds, programs))
        except EngineError as error:
            working.remove(engine)
            self._broken(engine, error)
            return
        if not engine.running:
            working.remove(engine)

    def _broken(self, engine: Engine, error: EngineError) -> None:
        self.broken[engine.name] = str(error)
        self.progress.say(f"{engine.name}: {error}")

    def _take(self, discoveries: list[Discovery]) -> None:
        for discovery in discoveries:
            report = self.reporter.report(discovery)
            if report is not None:
                self.progress.say(f"finding: {report.finding.signature}")

    def _line(self, passed: float, seconds: float | None) -> str:
        total = self.statistics
        of = "" if seconds is None else f"/{seconds:.0f}"
        speed = total.operations / passed if passed else 0.0
        return (
            f"{passed:4.0f}{of} s  {total.programs} programs  {speed:,.0f} operations/s  {total.kinds} kinds  "
            f"{len(total.clauses)} clauses  findings: {len(self.reporter.reports)}"
        )
