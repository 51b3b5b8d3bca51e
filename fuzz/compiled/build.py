"""Building the compiled modules: `make compiled`, which is `python -m fuzz.compiled.build`.

mypyc writes C for all modules together, a file each, and the C compiler takes these on all cores. They become one
library that holds everything, and an extension module of a few lines for each module. Nothing counts as built before
programs have done the same on it as on the sources.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import Final, NamedTuple

from fuzz.compiled import BUILDS, ROOT, SUFFIX, VARIABLE, active, available, folder, sources

FLAGS: Final = ("-O1", "-g0", "-fPIC", "-fvisibility=hidden", "-fno-plt", "-w")
"""-O3 takes about twice as long, and is no faster within the noise. What is visible can be replaced from outside the
library, so each call within it would go the long way: hidden saves 6 % of an operation."""
LIBRARY: Final = "vmemmap_fuzz"
MODULES: Final = "modules"
PROGRAMS: Final = 1000
"""Programs that must do the same on the sources and on what was built."""


class BuildError(Exception):
    """It cannot be built here."""


class Unit(NamedTuple):
    """An extension module: a setuptools.Extension, as far as mypyc fills it in."""

    name: str
    texts: list[str]
    """Its C files."""
    includes: list[str]


def compiler() -> list[str]:
    """The C compiler and its first arguments."""
    return os.environ.get("CC", "cc").split()


def missing() -> str | None:
    """What building needs and is not there, if anything."""
    name = compiler()[0]
    if shutil.which(name) is None:
        return f"no C compiler: {name} is not there (on Debian and Ubuntu, install gcc, or set CC)"
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.exists():
        return f"no headers of this Python: {header} is not there (on Debian and Ubuntu, install python3-dev)"
    for needed in "mypyc", "setuptools":
        if find_spec(needed) is None:
            return f"{needed} is not installed; `make venv` does it"
    return None


def advice() -> str | None:
    """What to tell a person who searches on the sources where they could be compiled; None otherwise."""
    if active() or available() is not None or os.environ.get(VARIABLE) == "0" or missing() is not None:
        return None
    return "searched on the sources; `make compiled`, once, about doubles the speed"


def build() -> Path:
    """Build what is not built yet, and remove what is out of date; where it is. BuildError if it cannot be done."""
    done = folder()
    if done.exists():
        return done
    lacking = missing()
    if lacking is not None:
        raise BuildError(lacking)
    BUILDS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILDS, prefix="making-") as name:
        making = Path(name)
        _compile(making, _translate(making))
        compare(making / MODULES)
        if folder() != done:
            raise BuildError("a source has changed meanwhile")
        (making / MODULES).rename(done)
    for other in BUILDS.iterdir():
        if other != done and not other.name.startswith("making-"):
            shutil.rmtree(other, ignore_errors=True)
    return done


def _translate(making: Path) -> list[Unit]:
    """From Python to C: the library, and its modules."""
    from mypyc.build import mypycify

    said = io.StringIO()
    options = ["--config-file=pyproject.toml", "--cache-dir=.mypy_cache/mypyc"]
    try:
        with chdir(ROOT), redirect_stdout(said), redirect_stderr(said):
            made = mypycify(
                [*options, *map(str, sources())],
                multi_file=True,
                group_name=LIBRARY,
                target_dir=str(making / "c"),
            )
    except (SystemExit, AssertionError):  # a mistake in the sources, or one of its own
        raise BuildError(f"mypyc does not take the sources:\n{said.getvalue()}") from None
    return [Unit(extension.name, extension.sources, extension.include_dirs) for extension in made]


def _compile(making: Path, units: list[Unit]) -> None:
    """From C to the library and its modules, on all cores."""
    library, *modules = units
    # The longest first, so that no core is left with it at the end.
    texts = sorted(library.texts, key=lambda text: Path(text).stat().st_size, reverse=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = list(pool.map(lambda text: _object(library, text), texts))
        _link(making, library, made)
        list(pool.map(lambda unit: _link(making, unit, [_object(unit, text) for text in unit.texts]), modules))


def _object(unit: Unit, text: str) -> str:
    made = f"{text}.o"
    includes = [f"-I{include}" for include in (*unit.includes, sysconfig.get_path("include"))]
    _run([*compiler(), *FLAGS, *includes, "-c", text, "-o", made])
    return made


def _link(making: Path, unit: Unit, made: list[str]) -> None:
    out = (making / MODULES).joinpath(*unit.name.split("."))
    out.parent.mkdir(parents=True, exist_ok=True)
    _run([*compiler(), "-shared", *made, "-o", f"{out}{SUFFIX}"])


def _run(command: list[str], **more: str) -> str:
    """Run a program; what it says."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **more})
    if done.returncode:
        raise BuildError(f"{command[0]} fails with status {done.returncode}:\n{done.stderr[-4000:]}")
    return done.stdout


def compare(modules: Path) -> None:
    """Run the same programs on the sources and on what was built; BuildError at the first one that differs."""
    words = [sys.executable, "-P", "-m"]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    plain, built = (
        _run([*words, *start, "fuzz.compiled.outcomes", str(PROGRAMS)], PYTHONPATH=path, **{VARIABLE: which})
        for start, which in (((), "0"), (("fuzz.compiled",), str(modules)))
    )
    for a, b in zip(plain.splitlines(), built.splitlines(), strict=True):
        if a != b:
            raise BuildError(f"what was built does not do the same as the sources:\n  sources: {a}\n  built:   {b}")


def main() -> None:
    """The command."""
    begin = monotonic()
    try:
        where = build()
    except BuildError as error:
        print(f"not compiled: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"compiled: {where.relative_to(ROOT)}, {monotonic() - begin:.0f} s; {VARIABLE}=0 runs on the sources")


if __name__ == "__main__":
    main()
