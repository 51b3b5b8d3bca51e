"""Mutation operators: what may be put in the place of one syntax node.

Each takes a node and gives replacements, fresh copies, of the same kind (expression or statement), so that every mutant
compiles. Left alone are texts, and whatever only makes a text: what a message says is no behaviour.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Final

COMPARISONS: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}

Operator = Callable[[ast.AST], Iterator[ast.AST]]


def comparison(node: ast.AST) -> Iterator[ast.AST]:
    """`a < b` -> `a <= b`, `is` -> `is not`, ...: the neighbour at the border, or the opposite."""
    if isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            new = deepcopy(node)
            new.ops[i] = COMPARISONS[type(op)]()
            yield new


def constant(node: ast.AST) -> Iterator[ast.AST]:
    """A number one larger; the other truth value."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield ast.Constant(not node.value)
        elif isinstance(node.value, int):
            yield ast.Constant(node.value + 1)


def arithmetic(node: ast.AST) -> Iterator[ast.AST]:
    """`+` and `-`, `*` and `//`, `<<` and `>>`, `&` and `|` change places, in `+=` and its like too."""
    if isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in ARITHMETIC:
        new = deepcopy(node)
        new.op = ARITHMETIC[type(node.op)]()
        yield new


def connective(node: ast.AST) -> Iterator[ast.AST]:
    """`and` and `or` change places."""
    if isinstance(node, ast.BoolOp):
        new = deepcopy(node)
        new.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield new


def negation(node: ast.AST) -> Iterator[ast.AST]:
    """`not a` -> `a`; `if a` -> `if not a`, where a is no comparison of its own."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield deepcopy(node.operand)
    elif isinstance(node, ast.If | ast.IfExp | ast.While) and isinstance(
        node.test, ast.Name | ast.Attribute | ast.Call
    ):
        new = deepcopy(node)
        new.test = ast.UnaryOp(ast.Not(), new.test)
        yield new


def deletion(node: ast.AST) -> Iterator[ast.AST]:
    """A call for its effect, an assignment to a place that exists before, a `raise`, `continue` or `break` left out.

    Not a `raise AssertionError`, nor an `assert`: they say what cannot be.
    """
    if isinstance(node, ast.Expr):
        gone = isinstance(node.value, ast.Call)
    elif isinstance(node, ast.Assign):
        gone = all(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets)
    else:
        gone = isinstance(node, ast.AugAssign | ast.Raise | ast.Continue | ast.Break | ast.Delete)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            gone = ast.unparse(node.exc.func) != "AssertionError"
    if gone:
        yield ast.Pass()


def returned(node: ast.AST) -> Iterator[ast.AST]:
    """Another result: 0 for what is computed, None for what stands in a name, and nothing said where a text is the
    result. Other constants have their own operator."""
    if isinstance(node, ast.Return) and node.value is not None:
        text = isinstance(node.value, ast.JoinedStr) or isinstance(getattr(node.value, "value", None), str)
        if text or not isinstance(node.value, ast.Constant):
            yield ast.Return(ast.Constant(None if text or isinstance(node.value, ast.Name) else 0))


def arguments(node: ast.AST) -> Iterator[ast.AST]:
    """The last two positional arguments change places, but for `min` and `max`, to which it is all the same."""
    if isinstance(node, ast.Call) and len(node.args) > 1 and ast.unparse(node.func) not in ("min", "max"):
        *_, a, b = node.args
        if not isinstance(a, ast.Starred) and not isinstance(b, ast.Starred) and ast.dump(a) != ast.dump(b):
            new = deepcopy(node)
            new.args[-2:] = [new.args[-1], new.args[-2]]
            yield new


OPERATORS: Final[tuple[Operator, ...]] = (
    comparison,
    constant,
    arithmetic,
    connective,
    negation,
    deletion,
    returned,
    arguments,
)
