"""Cases of planted defects."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fuzz.program import parse
from fuzz.report.case import Case, examine
from zoo import find, planted


@pytest.fixture(scope="session")
def case() -> Callable[[str], Case]:
    """The case of a defect of the zoo, by its shortest known program."""

    def make(name: str) -> Case:
        defect = find(name)
        assert defect.program is not None
        with planted(defect):
            return examine(parse(defect.program), planted=defect.id)

    return make
