"""A program leaves nothing for the cycle collector, which therefore may rest meanwhile."""

from __future__ import annotations

import gc
from contextlib import suppress

from fuzz.engines.collector import paused
from fuzz.engines.uniform import Uniform


def test_programs_leave_no_cycles() -> None:
    engine = Uniform(7)
    engine.advance(60.0, 20)  # caches fill
    gc.collect()
    with paused():
        engine.advance(60.0, 20)
        assert gc.collect() == 0


def test_paused_restores_what_was() -> None:
    assert gc.isenabled()
    with suppress(KeyError), paused():
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()
    gc.disable()
    try:
        with paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
