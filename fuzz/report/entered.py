"""Which kernel functions a program enters in the two models, and where those functions are modelled.

The models' docstrings are the source: that of a function that models a kernel function begins with its name, and its
module says in which file of the kernel it is.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

from fuzz.execute import Lockstep, Profile
from fuzz.program.model import Program
from fuzz.side import Side

Spy = Callable[[FrameType, str, Any], object]
"""A profile function (sys.setprofile)."""

ROOT: Final = Path(__file__).resolve().parents[2]
_PACKAGES: Final = ("mm", "reference", "candidate")
_KERNEL_FILE: Final = re.compile(r"\b(?:[\w-]+/)+[\w-]+\.[chS]\b")

_NAMES: Final = re.compile(r"(\w+(?:\(\))?(?:, \w+)*)(?: \([^)]*\))?(?=[:.,]| (?:at|for|in|of|on|with) |$)")
"""Names of functions, perhaps their file in brackets, and then what is said of them."""


@dataclass(frozen=True, slots=True)
class Entered:
    """A modelled function that an operation entered."""

    name: str
    """The kernel's name."""
    says: str
    """First sentence of its docstring."""
    kernel_file: str
    """File of the kernel's source that the docstrings name; empty if they name none."""
    model: str
    """Where it is modelled: `mm/hugetlb.py:120`."""
    reference: bool
    """Whether the reference came by."""
    candidate: bool


def step_under(spy: Spy, pair: Lockstep, program: Program, begin: Callable[[int], None]) -> None:
    """Run a program with `spy` as the profile function; `begin` is given the number of each operation, from 1 on."""
    for number, op in enumerate(program.ops, 1):
        begin(number)
        before = sys.getprofile()
        sys.setprofile(spy)
        try:
            pair.step(op)
        finally:
            sys.setprofile(before)
        if pair.over:
            break


def entered(program: Program, profile: Profile) -> list[Entered]:
    """Functions that the last operation enters, in the order of the first call, the reference first.

    Operations after the first difference are not run, so the last one is the one that showed it.
    """
    pair = Lockstep(program.machine, profile, full_every=1)
    spy = _Spy(pair)

    def begin(number: int) -> None:
        spy.seen = {}

    step_under(spy, pair, program, begin)
    out = []
    for code, sides in spy.seen.items():
        found = _function(code)
        if found is not None:
            out.append(Entered(*found, 0 in sides, 1 in sides))
    return out


class _Spy:
    """A profile function: which code runs below each side's `run`."""

    def __init__(self, pair: Lockstep) -> None:
        self.pair = pair
        self.side: int | None = None
        self.seen: dict[CodeType, set[int]] = {}

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event not in ("call", "return"):
            return
        code = frame.f_code
        if code is Side.run.__code__:
            of_candidate = frame.f_locals["self"] is self.pair.candidate
            self.side = int(of_candidate) if event == "call" else None
        elif event == "call" and self.side is not None:
            self.seen.setdefault(code, set()).add(self.side)


@cache
def kernel_function(code: CodeType) -> str:
    """The kernel's name of the function that some code models; empty for code that models none."""
    found = _function(code)
    return found[0].partition(",")[0].removesuffix("()") if found else ""


def _function(code: CodeType) -> tuple[str, str, str, str] | None:
    """Name, sentence, kernel file and place of a function that models one of the kernel's; None for any other."""
    path = Path(code.co_filename)
    if not path.is_relative_to(ROOT) or path.relative_to(ROOT).parts[0] not in _PACKAGES:
        return None
    module, functions = _documented(path)
    doc = functions.get((code.co_name, code.co_firstlineno))
    if not doc:
        return None
    first = " ".join(doc.split("\n\n")[0].split())
    begins = _NAMES.match(first)
    # A docstring that begins with the kernel's name, or with some of them.
    if begins is None or "_" not in begins[1]:
        return None
    name, says = begins[1], first[begins.end() :].lstrip(":.,")
    file = _KERNEL_FILE.search(doc) or _KERNEL_FILE.search(module)
    where = f"{path.relative_to(ROOT).as_posix()}:{code.co_firstlineno}"
    return name, says.strip(), file.group() if file else "", where


@cache
def _documented(path: Path) -> tuple[str, dict[tuple[str, int], str]]:
    """The docstring of a module, and those of its functions by name and line."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            line = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            functions[node.name, line] = ast.get_docstring(node) or ""
    return ast.get_docstring(tree) or "", functions
