"""The cycle collector, out of the way while programs run.

A program leaves no cycles behind (`Lockstep.close`), but it makes objects by the thousand, and the collector would walk
all that live, over and over, to find nothing.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """No automatic collection in the block; as it was before, afterwards."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
