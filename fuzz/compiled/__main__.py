"""`python -m fuzz.compiled WHAT [ARGUMENT ...]`: run a module or a script, as Python does, on the compiled modules."""

from __future__ import annotations

import runpy
import sys

from fuzz.compiled import activate

if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m fuzz.compiled MODULE|SCRIPT.py [ARGUMENT ...]")
    activate()
    del sys.argv[0]
    if sys.argv[0].endswith(".py"):
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
