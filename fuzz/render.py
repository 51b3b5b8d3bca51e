"""A trace as text for a terminal, for someone who knows the kernel and not this program."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from fuzz.oracle.finding import Finding
from fuzz.program.arguments import format_size
from fuzz.trace import CounterChange, MappingChange, SideStep, Step, Trace

MOST_RANGES: Final = 8
"""Ranges of one operation that are listed before the rest is summed up."""

LAYERS: Final = {
    "returns": "what the operations return",
    "mapping": "how the vmemmap is mapped",
    "structpages": "what the struct pages say",
    "accounting": "the counters",
    "frames": "who owns the page frames",
}


def render(trace: Trace) -> str:
    """The whole trace."""
    return "\n".join(lines(trace)) + "\n"


def lines(trace: Trace) -> Iterator[str]:
    """The trace, line by line."""
    yield f"{trace.machine}    (reference: {trace.reference}, candidate: {trace.profile})"
    for step in trace.steps:
        yield ""
        yield f"{step.number:3}  {step.text}" + (f"    # {step.comment}" if step.comment else "")
        yield from (f"       {line}" for line in _step(step))
    yield ""
    if trace.finding is not None:
        where = "" if any(step.finding for step in trace.steps) else " (seen by the full comparison at the end)"
        yield f"DIFFERENT{where}:"
        yield from (f"  {line}" for line in explain(trace.finding))
    elif trace.terminal is not None:
        yield f"The two sides part here for good, as ledger clause {trace.terminal} says; the program ends."
    else:
        yield f"No unexplained difference in {len(trace.steps)} operations."


def explain(finding: Finding) -> Iterator[str]:
    """A finding in words."""
    yield finding.detail
    yield f"first difference in {LAYERS[finding.layer]}: {finding.field}"
    ref, cand = finding.outcomes
    yield f"after `{finding.operation}`, which gave {ref} (reference) and {cand} (candidate)"
    if finding.page_class:
        yield f"at a page of {finding.page_class}"
    yield f"signature: {finding.signature}"


def _step(step: Step) -> Iterator[str]:
    ref, cand = step.reference, step.candidate
    if ref.outcome == cand.outcome:
        yield f"both: {ref.outcome}"
    else:
        yield f"reference: {ref.outcome}"
        yield f"candidate: {cand.outcome}" + _mark(step.finding, "returns", "")
    yield from _counters(step)
    if ref.mapping == cand.mapping or _words(ref) == _words(cand):
        yield from _mapping("both", ref.mapping)
    else:
        yield from _mapping("reference", ref.mapping)
        yield from _mapping("candidate", cand.mapping)
    if step.finding is not None and step.finding.layer == "mapping":
        yield f"^^^ {step.finding.detail}"
    for name, side in (("reference", ref), ("candidate", cand)):
        for warning in side.log:
            yield f"{name} warns: {warning}"
    if step.clauses:
        yield f"explained by the ledger: {', '.join(step.clauses)}"
    if step.finding is not None and step.finding.layer not in ("returns", "mapping"):
        yield f"^^^ {step.finding.detail}"


def _words(side: SideStep) -> list[tuple[int, int, str, str]]:
    return [(change.first, change.end, change.before, change.after) for change in side.mapping]


def _counters(step: Step) -> Iterator[str]:
    """One line a counter that moved, with the candidate's movement where it is another one."""
    ref = {change.field: change for change in step.reference.counters}
    cand = {change.field: change for change in step.candidate.counters}
    for field, name in {change.field: change.name for change in (*ref.values(), *cand.values())}.items():
        left, right = ref.get(field), cand.get(field)
        if left is not None and left == right:
            text = _moved(left)
        else:
            text = f"reference {_moved(left)}, candidate {_moved(right)}"
        yield f"{name}: {text}" + _mark(step.finding, "accounting", field)


def _moved(change: CounterChange | None) -> str:
    if change is None:
        return "unchanged"
    return f"{change.after - change.before:+} ({change.before} -> {change.after})"


def _mark(finding: Finding | None, layer: str, field: str) -> str:
    """The arrow behind the first field that differs."""
    differs = finding is not None and finding.layer == layer and (layer == "returns" or finding.field == field)
    return "    <-- first difference" if differs else ""


def _mapping(who: str, changes: tuple[MappingChange, ...]) -> Iterator[str]:
    for change in changes[:MOST_RANGES]:
        pages = f"{change.end - change.first} page{'s' if change.end - change.first > 1 else ''}"
        yield (
            f"{who}: vmemmap {change.first:#x}..{change.end:#x} ({pages}, of {format_size(change.size)} at "
            f"{change.at:#x}): {change.before} -> {change.after}"
        )
    rest = changes[MOST_RANGES:]
    if rest:
        yield f"{who}: and {len(rest)} more ranges, {sum(change.end - change.first for change in rest)} vmemmap pages"
