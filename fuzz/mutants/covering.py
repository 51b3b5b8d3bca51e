"""Which lines of the models and the oracle each trial runs, recorded once, without a mutant.

A trial that does not run the mutant's line ends as it would without the mutant, so it need not be run at all. That is
what makes seconds worth something: they go to the few programs that come by.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from coverage import Coverage

from fuzz.mutants.sites import PACKAGES, Mutant, source_of
from fuzz.mutants.trials import ROOT

FOLDERS: Final = [str(ROOT.joinpath(*package.split("."), "*")) for package in PACKAGES]


class Covering:
    """Lines that were run, by what ran them: a name of the caller's choice."""

    def __init__(self) -> None:
        self._coverage = Coverage(data_file=None, config_file=False, include=FOLDERS)
        self._lines: dict[str, dict[int, set[str]]] = {}

    @contextmanager
    def recording(self) -> Iterator[Callable[[str], object]]:
        """While the block runs: call the result with the name of what comes next."""
        self._coverage.start()
        try:
            yield self._coverage.switch_context
        finally:
            self._coverage.stop()
            data = self._coverage.get_data()
            for path in data.measured_files():
                lines = data.contexts_by_lineno(path)
                self._lines[path] = {line: {name for name in names if name} for line, names in lines.items()}

    def of_line(self, mutant: Mutant) -> set[str]:
        """What runs the line of a mutant."""
        return self._lines.get(str(source_of(mutant.module)), {}).get(mutant.line, set())

    def of_function(self, mutant: Mutant) -> set[str]:
        """What runs any line in the body of its function."""
        path = source_of(mutant.module)
        found = self._lines.get(str(path), {})
        first, last = _body(mutant)
        return set().union(*(names for line, names in found.items() if first <= line <= last))


def _body(mutant: Mutant) -> tuple[int, int]:
    """First and last line of the body of a mutant's function."""
    path = source_of(mutant.module)
    nodes = [
        node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.FunctionDef)
    ]
    name = mutant.function.rpartition(".")[2]
    for node in nodes:
        end = node.end_lineno or node.lineno
        if node.name == name and node.lineno <= mutant.line <= end:
            return node.body[0].lineno, end
    return mutant.line, mutant.line
