"""The models, the oracle and the generator as machine code, for processes that only search: twice as fast.

`make compiled` (`fuzz.compiled.build`) lets mypyc turn the modules below into C and a C compiler into extension
modules. They lie in a folder whose name is a digest of the sources, so that what was built from other sources is never
used. `python -m fuzz.compiled MODULE` runs a module on them; where they have not been built, or the sources have
changed since, it runs on the sources.

The sources stay what everything else runs on: compiled functions call each other directly, so that none can be replaced
(planted defects, mutants, tests that patch), they are no bytecode (coverage, libFuzzer), and their objects neither show
their attributes nor go into a pickle (`explore`). What a search finds is run again on the sources before it is told.
"""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
BUILDS: Final = ROOT / "build" / "compiled"
VARIABLE: Final = "VMEMMAP_FUZZ_COMPILED"
"""Environment variable: 0 to run on the sources all the same, or the folder of a build to use, whatever its sources."""
PACKAGES: Final = ("mm", "reference", "candidate", "fuzz/oracle", "fuzz/generate")
MODULES: Final = (
    *("fuzz/execute.py", "fuzz/side.py", "fuzz/program/model.py"),
    *("fuzz/coverage.py", "fuzz/engines/statistics.py"),
)
COLD: Final = ("fuzz/oracle/canonical.py", "fuzz/oracle/ledger.py")
"""Modules of these packages that searching does not run."""
SUFFIX: Final[str] = sysconfig.get_config_var("EXT_SUFFIX")


def sources() -> list[Path]:
    """The modules that are compiled, relative to `ROOT`; files of packages have no code worth it."""
    found = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if path.name != "__init__.py"]
    hot = {path.relative_to(ROOT) for path in found} - {Path(module) for module in COLD}
    return sorted(hot) + [Path(module) for module in MODULES]


def folder() -> Path:
    """Where the build of the present sources for this interpreter is, if there is one."""
    digest = hashlib.sha256(SUFFIX.encode())
    for path in [*sources(), Path(__file__).with_name("build.py").relative_to(ROOT)]:
        digest.update(b"\0" + str(path).encode() + b"\0" + (ROOT / path).read_bytes())
    return BUILDS / digest.hexdigest()[:16]


class _Finder(MetaPathFinder):
    """Finds the modules of one build, before any other finder is asked."""

    def __init__(self, build: Path) -> None:
        self.files = {
            ".".join(path.relative_to(build).parts).removesuffix(SUFFIX): path for path in build.rglob(f"*{SUFFIX}")
        }

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        file = self.files.get(fullname)
        return None if file is None else spec_from_file_location(fullname, file)


def available() -> Path | None:
    """The build to use, if there is one."""
    wish = os.environ.get(VARIABLE)
    build = Path(wish) if wish else folder()
    return build if wish != "0" and build.exists() else None


def activate() -> bool:
    """From now on import the compiled modules, if they are built; whether they are.

    RuntimeError once this process has imported one of their sources: functions of both kinds must not meet.
    """
    build = None if active() else available()
    if build is not None:
        finder = _Finder(build)
        early = sorted(finder.files.keys() & sys.modules.keys())
        if early:
            raise RuntimeError(f"too late to use the compiled modules: {early[0]} has been imported")
        sys.meta_path.insert(0, finder)
    return active()


def rerun() -> None:
    """Run this process' script once more from its beginning, on the compiled modules; nothing where that is no use."""
    if not active() and available() is not None:
        os.execv(sys.executable, [sys.executable, "-P", "-m", "fuzz.compiled", *sys.argv])


def active() -> bool:
    """Whether this process runs on compiled modules."""
    return any(isinstance(finder, _Finder) for finder in sys.meta_path)
