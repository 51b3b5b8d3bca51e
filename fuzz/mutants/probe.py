"""Whether a mutant has made a difference yet, asked while it runs.

A program in which what the mutant computes is what the original would have computed, every time, ends as it would
without the mutant; so a search need not run it again with the original, and knows how near it came.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from types import CodeType
from typing import Any, Final

from fuzz.mutants.sites import Mutant, function_of, marked_code, mutated_code

NAME: Final = "__mutant__"
"""The global name of the probe in the mutant's module."""
PURE: Final = frozenset(
    [
        "len",
        "any",
        "all",
        "min",
        "max",
        "sum",
        "isinstance",
        "sorted",
        "set",
        "list",
        "tuple",
        "abs",
        "range",
        "zip",
        "enumerate",
        "bool",
        "int",
        "str",
        "dict",
        "repr",
        "get",
        "overlaps",
        "items",
        "keys",
        "values",
        "runs",
        "index",
        "count",
        "startswith",
        "partition",
        "copy",
        "is_free",
        "free_pages",
        "early",
        "getattr",
    ]
)
"""Functions and methods that may be called once more: they change nothing."""
_WHOLE: Final = ast.NamedExpr | ast.Await | ast.Yield | ast.YieldFrom


class Probe:
    """Counts how often the mutant's place was reached, and how often it made a difference there."""

    __slots__ = ("differed", "reached", "sure")

    def __init__(self) -> None:
        self.reached = self.differed = 0
        self.sure = True
        """Whether the counts mean anything: some mutants have no probe."""

    def __call__(self, new: Callable[[], Any] | None = None, old: Callable[[], Any] | None = None) -> Any:
        """What the mutant computes, if anything. Where nobody can tell what the original would have, it differs."""
        self.reached += 1
        if new is None or old is None:
            self.differed += 1
            return True if new is None else new()
        try:
            value = new()
        except Exception:
            self.differed += 1
            raise
        try:
            self.differed += bool(value != old())
        except Exception:
            self.differed += 1
        return value


def instrumented(mutant: Mutant) -> tuple[CodeType, Probe]:
    """The mutant's code with a probe at its place; the name of the probe is known to its module from now on."""
    probe = Probe()
    function = function_of(mutant.module, mutant.function)
    function.__globals__[NAME] = probe
    plain = mutated_code(mutant)
    was = function.__code__
    try:
        code = mutated_code(mutant, around=_around)
        function.__code__ = code
    except (ValueError, SyntaxError):
        code, probe.sure = plain, False
    finally:
        function.__code__ = was
    return code, probe


def marked(mutant: Mutant, entered: bool = False) -> CodeType:
    """The code of the function itself; the probe that is known to its module counts how often the statement is reached
    that the mutant is in, which it may not be evaluated in, or how often the function is `entered`."""
    return marked_code(mutant, _call(), entered=entered)


def _around(new: ast.AST, old: ast.AST) -> ast.AST:
    if isinstance(new, ast.Return) and isinstance(old, ast.Return) and new.value is not None and old.value is not None:
        return ast.Return(_asked(new.value, old.value))
    if isinstance(new, ast.stmt):
        return ast.If(_call(), [new], [])
    if isinstance(new, ast.expr) and isinstance(old, ast.expr):
        return _asked(new, old)
    raise ValueError(f"no probe around {ast.dump(new)}")


def _asked(new: ast.expr, old: ast.expr) -> ast.expr:
    if any(isinstance(node, _WHOLE) for one in (new, old) for node in ast.walk(one)):
        raise ValueError("no probe around what binds names")
    return _call(new, old) if _pure(new) and _pure(old) else _call(new)


def _call(*asked: ast.expr) -> ast.expr:
    none = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
    return ast.Call(ast.Name(NAME, ast.Load()), [ast.Lambda(none, one) for one in asked], [])


def _pure(node: ast.expr) -> bool:
    calls = [found.func for found in ast.walk(node) if isinstance(found, ast.Call)]
    return all(getattr(func, "id", getattr(func, "attr", "")) in PURE for func in calls)
