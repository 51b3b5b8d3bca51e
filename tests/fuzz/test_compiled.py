"""The compiled modules: which build is used, and when none is. The C compiler takes a minute: here only mypyc runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fuzz import compiled
from fuzz.campaign.pool import compilable
from fuzz.campaign.slices import Task
from fuzz.commands import fuzzing
from fuzz.compiled import ROOT, SUFFIX, VARIABLE, build
from mm.folio import Folio
from mm.mmzone import Zone


def run(*words: str, wish: str) -> str:
    """A process of this interpreter, told which build to use."""
    done = subprocess.run(
        [sys.executable, "-P", *words],
        env={"PYTHONPATH": str(ROOT), VARIABLE: wish},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_the_folder_follows_from_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "ROOT", tmp_path)
    monkeypatch.setattr(compiled, "sources", lambda: [Path("mm/runs.py")])
    monkeypatch.setattr(compiled, "__file__", str(tmp_path / "fuzz" / "compiled" / "__init__.py"))
    for name in ("mm/runs.py", "fuzz/compiled/build.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("a = 1\n")
    first = compiled.folder()
    assert compiled.folder() == first
    (tmp_path / "mm/runs.py").write_text("a = 2\n")
    assert compiled.folder() != first


def test_a_build_is_used_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(compiled, "folder", lambda: tmp_path / "build")
    assert compiled.available() is None
    (tmp_path / "build").mkdir()
    assert compiled.available() == tmp_path / "build"
    monkeypatch.setenv(VARIABLE, "0")
    assert compiled.available() is None


def test_its_modules_are_found_before_the_sources(tmp_path: Path) -> None:
    (tmp_path / "mm").mkdir()
    module = tmp_path / "mm" / f"runs{SUFFIX}"
    module.write_bytes(b"no module at all")
    where = "import importlib.util; print(importlib.util.find_spec('mm.runs').origin)"
    assert run("-c", f"from fuzz.compiled import activate; print(activate()); {where}", wish=str(tmp_path)) == (
        f"True\n{module}\n"
    )
    source = f"False\n{ROOT / 'mm' / 'runs.py'}\n"
    assert run("-c", f"from fuzz.compiled import activate; print(activate()); {where}", wish="0") == source


def test_it_is_refused_once_a_source_is_there(tmp_path: Path) -> None:
    (tmp_path / "mm").mkdir()
    (tmp_path / "mm" / f"runs{SUFFIX}").touch()
    said = run("-c", "import mm.runs; from fuzz.compiled import activate; activate()", wish=str(tmp_path))
    assert said.splitlines()[-1] == "RuntimeError: too late to use the compiled modules: mm.runs has been imported"


def test_every_source_is_there_and_the_packages_themselves_are_not_compiled() -> None:
    found = compiled.sources()
    assert all((ROOT / path).is_file() for path in found)
    assert len(set(found)) == len(found)
    assert Path("mm/runs.py") in found
    assert Path("fuzz/execute.py") in found
    assert not [path for path in found if path.name == "__init__.py"]
    assert all((ROOT / path).is_file() for path in compiled.COLD)


@pytest.mark.parametrize(
    ("task", "may"),
    [
        (Task("uniform", 1), True),
        (Task("guided", 1), True),
        (Task("libfuzzer", 1), False),
        (Task("uniform", 1, defect="ACC-2026-03"), False),
        (Task("uniform", 1, reference="v7.0-base"), False),
    ],
)
def test_who_may_search_with_it(task: Task, may: bool) -> None:
    assert compilable(task) is may


def test_without_a_compiler_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler -O9")
    assert build.missing() == (
        "no C compiler: no-such-compiler is not there (on Debian and Ubuntu, install gcc, or set CC)"
    )
    monkeypatch.setattr(build, "folder", lambda: tmp_path / "none")
    with pytest.raises(build.BuildError, match="no C compiler"):
        build.build()


def test_mypyc_takes_the_sources(tmp_path: Path) -> None:
    """It does not know all of Python: `x in (a, *b)`, for one, is a mistake of its own."""
    library, *modules = build._translate(tmp_path)
    assert library.name == f"{build.LIBRARY}__mypyc"
    assert all(Path(text).is_file() for text in library.texts)
    assert {module.name.replace(".", "/") + ".py" for module in modules} == {str(path) for path in compiled.sources()}


def test_what_goes_with_the_frames_of_a_folio_is_all_but_its_references() -> None:
    """Swapping two folios names the attributes one by one, which `vars` would do, but not on compiled objects."""
    folio = Folio(0, 9, Zone(0, 2))
    own = set(vars(folio)) | {
        name
        for name, value in vars(Folio).items()
        if not name.startswith("__") and not callable(value) and not isinstance(value, property)
    }
    assert own - {"OF_THE_FRAMES"} == {*Folio.OF_THE_FRAMES, "refcount"}


def test_equal_programs_have_equal_lines_and_others_have_not() -> None:
    first = run("-m", "fuzz.compiled.outcomes", "6", "5", wish="0").splitlines()
    assert len(first) == 6
    assert run("-m", "fuzz.compiled.outcomes", "6", "5", wish="0").splitlines() == first
    assert not set(run("-m", "fuzz.compiled.outcomes", "6", "7", wish="0").splitlines()) & set(first)
    assert "usage: " in run("-m", "fuzz.compiled.outcomes", "x", wish="0")


def test_advice_is_for_those_who_can_compile_and_have_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(compiled, "folder", lambda: tmp_path / "none")
    monkeypatch.setattr(build, "missing", lambda: None)
    assert "make compiled" in (build.advice() or "")
    monkeypatch.setenv(VARIABLE, "0")
    assert build.advice() is None
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr(build, "missing", lambda: "no C compiler")
    assert build.advice() is None
    monkeypatch.setattr(build, "missing", lambda: None)
    (tmp_path / "none").mkdir()
    assert build.advice() is None


@pytest.mark.parametrize("terminal", [True, False])
def test_nobody_is_advised_but_at_a_terminal(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "advice", lambda: "make compiled")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    fuzzing.advise()
    assert capsys.readouterr().err == ("make compiled\n" if terminal else "")
