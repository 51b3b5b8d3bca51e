"""The mutation score: what each operator does, and that the smoke kills what can be seen and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from fuzz.mutants import sites
from fuzz.mutants.run import choose, interval
from fuzz.mutants.sites import InvalidMutantError, function_of, modules, mutants, mutated_code

ROOT = Path(__file__).resolve().parents[2]


def of(operator: str, body: str) -> list[str]:
    """What an operator makes of one line in a function."""
    return [m.after for m in mutants("m", f"def f(a, b):\n    {body}\n") if m.operator == operator]


@pytest.mark.parametrize(
    ("operator", "body", "expected"),
    [
        ("comparison", "x = a < b", ["a <= b"]),
        ("comparison", "x = a >= b == 3", ["a > b == 3", "a >= b != 3"]),
        ("comparison", "x = a is None", ["a is not None"]),
        ("comparison", "x = a not in b", ["a in b"]),
        ("constant", "x = 7", ["8"]),
        ("constant", "x = True", ["False"]),
        ("constant", "x = 'seven'", []),
        ("arithmetic", "x = a + b", ["a - b"]),
        ("arithmetic", "x = a << b", ["a >> b"]),
        ("arithmetic", "a -= b", ["a += b"]),
        ("arithmetic", "x = a % b", []),
        ("connective", "x = a and b", ["a or b"]),
        ("negation", "x = not a", ["a"]),
        ("negation", "x = 1 if a else 2", ["1 if not a else 2"]),
        ("deletion", "a.append(b)", ["pass"]),
        ("deletion", "a[0] = b", ["pass"]),
        ("deletion", "a += b", ["pass"]),
        ("deletion", "raise ValueError", ["pass"]),
        ("deletion", "x = a", []),
        ("deletion", "'a text'", []),
        ("returned", "return a + b", ["return 0"]),
        ("returned", "return a", ["return None"]),
        ("returned", "return 5", []),
        ("returned", "return f'{a} is gone'", ["return None"]),
        ("returned", "return 'it is gone'", ["return None"]),
        ("returned", "return None", []),
        ("arguments", "x = a(1, 2, b)", ["a(1, b, 2)"]),
        ("arguments", "x = a(b, b)", []),
        ("arguments", "x = max(a, b)", []),
        ("arguments", "x = a(1, *b)", []),
    ],
)
def test_operator(operator: str, body: str, expected: list[str]) -> None:
    assert of(operator, body) == expected


@pytest.mark.parametrize(
    "source",
    [
        "X = 1 + 2",  # runs when the module is loaded
        "def f(a=1): pass",
        "def f():\n    x: Literal[1]\n",
        "def f(a):\n    x = f'{a + 1}'",
        "@cache(1)\ndef f(): pass",
        "def _table(a):\n    return a + 1\nTABLE = _table(1)\n",  # runs when the module is loaded
        "class C:\n    def __repr__(self):\n        return self.text(1 + 2)\n",  # words
    ],
)
def test_left_alone(source: str) -> None:
    assert list(mutants("m", source)) == []


def test_what_runs_later_is_mutated_although_it_runs_when_the_module_is_loaded_too() -> None:
    source = "def _one(a):\n    return a + 1\nONE = _one(1)\ndef f():\n    return _one(2)\n"
    assert {m.function for m in mutants("m", source)} == {"_one", "f"}


def test_methods_are_named_by_their_class_and_inner_functions_belong_to_the_outer_one() -> None:
    source = dedent(
        """
        class C:
            def m(self, a):
                def inner(b):
                    return b + 1
                return inner(a)
        """
    )
    assert {m.function for m in mutants("m", source)} == {"C.m"}


def test_mutated_code_does_what_the_mutant_says() -> None:
    source = "def g(a):\n    return a\n\ndef f(a, b):\n    c = a - b\n    return c * 2\n"
    found = {(m.operator, m.line): m for m in mutants("m", source)}
    space: dict[str, object] = {}
    exec(source, space)
    function = space["f"]
    assert function(7, 3) == 8  # type: ignore[operator]
    for key, result in {("arithmetic", 5): 20, ("constant", 6): 12, ("arithmetic", 6): 2, ("returned", 6): 0}.items():
        function.__code__ = mutated_code(found[key], source)  # type: ignore[attr-defined]
        assert function(7, 3) == result  # type: ignore[operator]


def test_every_package_has_mutants_and_equal_seeds_choose_equal_ones() -> None:
    chosen = choose(("mm.runs", "candidate.arch"), 40, 3)
    assert {m.package for m in chosen} == {"mm", "candidate"}
    assert choose(("mm.runs", "candidate.arch"), 60, 3)[:40] == chosen
    assert choose(("mm.runs", "candidate.arch"), 40, 4) != chosen
    assert len({m.id for m in choose(("mm.runs",), None, 0)}) == len(list(mutants("mm.runs")))


def test_what_a_model_writes_down_for_the_oracle_is_of_the_oracle() -> None:
    source = dedent(
        """
        def f(self, h, touched):
            self.touched.append((1, 2))
            touched.append(3)
            h.touched = True
            self.short += 4
            self.pages.append(self.touched)
            x = self.short + 5
        """
    )
    assert {m.line for m in mutants("m", source)} == {3, 4, 5, 6, 7, 8}
    assert {m.line for m in mutants("m", source) if m.records} == {3, 4, 5, 6}
    models = choose(("mm", "reference", "candidate"), None, 0)
    oracle = choose(("fuzz.oracle",), None, 0)
    assert {m.package for m in models} == {"mm", "reference", "candidate"}
    assert {m.package for m in oracle} == {"fuzz.oracle"}
    assert {m.module for m in oracle} >= {"mm.page_alloc", "mm.tlb", "fuzz.oracle.laws"}
    everything = choose(("mm", "reference", "candidate", "fuzz.oracle"), None, 0)
    assert {m.id for m in everything} == {m.id for m in models} | {m.id for m in oracle}
    assert len(everything) == len(models) + len(oracle)


@pytest.mark.parametrize("name", ["fuzz.execute", "mm.nothing", "nothing.at_all", "os"])
def test_what_cannot_be_mutated(name: str) -> None:
    with pytest.raises(ValueError, match=r"to mutate; expected one of mm, reference, candidate, fuzz\.oracle"):
        modules((name,))


def test_interval() -> None:
    # Wilson 1927, as worked in Newcombe (1998), Statistics in Medicine 17, table I: 81/263 and 15/148.
    assert [round(x, 4) for x in interval(81, 263)] == [0.2553, 0.3662]
    assert [round(x, 4) for x in interval(15, 148)] == [0.0624, 0.1605]


EXAMINE = """
import json, sys
from fuzz.mutants import budget as smoke
from fuzz.mutants.run import fill_panel, run_all
from fuzz.mutants.sites import mutants
smoke.HANG = 2.0
budget = smoke.Budget.load(1.0, 1)
assert budget.baseline() is None
module, function, before, after = sys.argv[1:]
chosen = [m for m in mutants(module) if (m.function, m.before, m.after) == (function, before, after)]
print(json.dumps([result.to_json() for result in run_all(budget, chosen)]))
"""


def examine(module: str, function: str, before: str, after: str) -> list[dict[str, object]]:
    """The smoke on the mutants of a function that read like this, in a process that may fork."""
    words = [sys.executable, "-c", EXAMINE, module, function, before, after]
    out = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return json.loads(out)  # type: ignore[no-any-return]


def test_a_planted_mutant_is_killed() -> None:
    (result,) = examine(
        "candidate.sparse_vmemmap",
        "depopulate_section_memmap",
        "f.k.vmstat.nr_memmap -= section_nr_vmemmap_pages(f, pfn, nr)",
        "pass",
    )
    assert result["status"] == "killed"
    assert result["by"] == "finding"
    assert "nr_memmap" in str(result["what"])


def test_a_mutant_that_changes_nothing_survives() -> None:
    # One vmemmap page in all: no device page is that small, they have none (4K) or at least eight (2M).
    page = "f.k.arch.vmemmap_pages(pgmap.vmemmap_shift)"
    (result,) = examine(
        "candidate.vmemmap_optimization",
        "vmemmap_can_optimize",
        f"{page} > VMEMMAP_OPTIMIZATION_PAGES",
        f"{page} >= VMEMMAP_OPTIMIZATION_PAGES",
    )
    assert (result["status"], result["by"], result["reached"]) == ("survived", None, True)


def test_a_mutant_that_never_ends_is_killed_by_its_time() -> None:
    # The folio that was to move stays in the range, and is to move again.
    (result,) = examine("mm.hugetlb_isolate", "migrate_hugetlb", "_swap_places(h, folio, target)", "pass")
    assert (result["status"], result["by"]) == ("killed", "timeout")


def test_what_cannot_be_and_what_nobody_asks_is_left_out() -> None:
    bug, never = (f"def f(a):\n    if a:\n        raise {name}(a)\n" for name in ("KernelBug", "AssertionError"))
    assert [m.operator for m in mutants("mm.errno", bug)] == ["negation", "deletion"]
    assert [m.operator for m in mutants("mm.errno", never)] == ["negation"]
    assert list(mutants("mm.errno")) == []  # errno_name is for reports
    assert not any(m.function == "Arch.__post_init__" for m in mutants("mm.arch"))
    assert any(m.function == "record" for m in mutants("mm.tlb"))  # named by fuzz.execute


def test_the_same_bytecode_is_no_mutant(monkeypatch: pytest.MonkeyPatch) -> None:
    mutant = next(mutants("mm.runs"))
    monkeypatch.setattr(sites, "mutated_code", lambda mutant: function_of(mutant.module, mutant.function).__code__)
    with pytest.raises(InvalidMutantError, match="bytecode"):
        sites.plant(mutant)
