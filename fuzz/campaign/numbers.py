"""The one registry of a campaign's statistics.

What the terminal shows, what is written as lines of JSON and into the database, and what Prometheus scrapes from a text
file (node_exporter's textfile collector) is read from here, so that they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from prometheus_client import CollectorRegistry, write_to_textfile
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fuzz.engines.statistics import Statistics

PREFIX: Final = "vmemmap_fuzz"


class Number(NamedTuple):
    """One statistic."""

    name: str
    counter: bool
    """Whether it only grows."""
    help: str


NUMBERS: Final = (
    Number("programs", True, "Programs run."),
    Number("operations", True, "Operations run, each on both sides."),
    Number("operations_per_second", False, "Operations a second, over the last interval."),
    Number("workers", False, "Worker processes at work."),
    Number("features", False, "Operations with outcomes, pairs of them, and ledger clauses that were seen."),
    Number("singletons", False, "Features that only one program has shown."),
    Number("chance", False, "Good-Turing estimate of the chance that the next program shows a new feature."),
    Number("corpus", False, "Programs kept."),
    Number("clauses", False, "Clauses of the ledger that explained a difference."),
    Number("findings", False, "Findings reported, one for each signature."),
    Number("pending", False, "Findings that wait for being minimized."),
    Number("quarantined", False, "Programs that killed or hung a process twice."),
    Number("deaths", True, "Worker processes that died or hung."),
    Number("seconds", True, "Seconds that the campaign has run, all runs together."),
)


class Numbers(Collector):
    """The values."""

    def __init__(self) -> None:
        self.values: dict[str, float] = dict.fromkeys((number.name for number in NUMBERS), 0)
        self.statistics = Statistics()
        """All engines together; its outcomes are numbers with labels."""
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def set(self, **values: float) -> None:
        """New values."""
        for name, value in values.items():
            assert name in self.values, name
            self.values[name] = value

    def collect(self) -> Iterator[Metric]:
        """For prometheus_client."""
        for number in NUMBERS:
            family = CounterMetricFamily if number.counter else GaugeMetricFamily
            yield family(f"{PREFIX}_{number.name}", number.help, value=self.values[number.name])
        outcomes = CounterMetricFamily(
            f"{PREFIX}_outcomes", "Operations by what they returned.", labels=["operation", "outcome"]
        )
        for (operation, outcome), times in sorted(self.statistics.outcomes.items()):
            outcomes.add_metric([operation, outcome], times)
        yield outcomes

    def write_prometheus(self, path: Path) -> None:
        """The text file, by rename."""
        write_to_textfile(str(path), self._registry)

    def to_json(self) -> dict[str, Any]:
        """One line."""
        return {name: value if isinstance(value, int) else float(f"{value:.6g}") for name, value in self.values.items()}

    def line(self, passed: float, seconds: float | None) -> str:
        """For the terminal."""
        v = self.values
        of = "" if seconds is None else f"/{seconds:.0f}"
        pending = f" (+{v['pending']:.0f})" if v["pending"] else ""
        quarantined = f"  quarantined: {v['quarantined']:.0f}" if v["quarantined"] else ""
        return (
            f"{passed:4.0f}{of} s  {v['programs']:.0f} programs  {v['operations_per_second']:,.0f} operations/s  "
            f"{v['features']:.0f} features, P(new) {v['chance']:.2g}  {v['clauses']:.0f} clauses  "
            f"findings: {v['findings']:.0f}{pending}{quarantined}"
        )
