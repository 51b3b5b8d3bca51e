"""Where mutants are: every place of a module's functions that an operator can spoil, and how to spoil it here.

A mutant is a function with one node replaced. To plant it in this process, the whole module is compiled from its
changed syntax tree, and the function of the running module gets the code of its changed twin: whoever imported it by
name calls the mutant.
What runs when the module is loaded (constants, defaults, decorators, class bodies) is not mutated.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import walk_packages
from types import CodeType, FunctionType
from typing import Any, Final

from fuzz.mutants.operators import OPERATORS

PACKAGES: Final = ("mm", "reference", "candidate", "fuzz.oracle")
TEXTS: Final = frozenset({"fuzz.oracle.difference:show", "fuzz.oracle.accounting:_show"})
"""Functions whose result is put into a sentence for people and nowhere else; `__repr__` is another."""

LOADED: Final = frozenset({"mm.arch:Arch.__post_init__"})
"""Methods that run while the module is loaded and never again: the table of architectures is made there."""
RECORDS: Final = frozenset(
    {"touched", "tried", "undone", "unpopulated", "remaps", "short", "short_of_blocks", "violations"}
)
"""What the models write down for the oracle and never read (docs/architecture.md). A statement that does nothing else
is a part of the oracle, wherever it stands."""
RECORDING: Final = frozenset({"mm.tlb"})
"""Modules that do nothing else."""
ENTRIES: Final = ("fuzz.side", "fuzz.execute")
"""The modules that call the entry points of the models."""

Def = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Mutant:
    """One small fault."""

    module: str
    function: str
    """Qualified name: `function` or `Class.method`."""
    number: int
    """Among the mutants of the function."""
    operator: str
    line: int
    before: str
    after: str
    records: bool = False
    """It spoils what a model writes down for the oracle."""

    @property
    def id(self) -> str:
        """Unique for one version of the module."""
        return f"{self.module}:{self.function}:{self.number}"

    @property
    def package(self) -> str:
        """The one of `PACKAGES` that it belongs to."""
        if self.records:
            return "fuzz.oracle"
        return next(package for package in PACKAGES if f"{self.module}.".startswith(f"{package}."))


class InvalidMutantError(Exception):
    """The changed function does not fit where the original is (another closure), or is the same to the interpreter;
    nothing was planted."""


def modules(names: tuple[str, ...] = PACKAGES) -> list[str]:
    """Modules below the given packages or modules, in order. ValueError for what cannot be mutated."""
    out: list[str] = []
    for name in names:
        if not any(f"{name}.".startswith(f"{package}.") for package in PACKAGES) or _source(name) is None:
            raise ValueError(
                f"no module {name!r} to mutate; expected one of {', '.join(PACKAGES)}, or a module in them"
            )
        out.append(name)
        path = getattr(import_module(name), "__path__", None)
        if path is not None:
            out += [found.name for found in walk_packages(path, f"{name}.")]
    return sorted(set(out))


def mutants(module: str, source: str | None = None) -> Iterator[Mutant]:
    """All mutants of a module."""
    tree = ast.parse(source if source is not None else _read(module))
    loading = _at_import(tree)
    asked = _names() if source is None and not module.startswith("fuzz.") else None
    for name, function in _functions(tree):
        if name in loading or name.endswith("__repr__") or f"{module}:{name}" in TEXTS | LOADED:
            continue
        bare = name.rpartition(".")[2]
        if asked is not None and bare not in asked and not bare.startswith("__"):
            continue
        recording = {id(node) for node in ast.walk(function) if _records(node) for node in ast.walk(node)}
        for number, (operator, parent, field, at, new) in enumerate(_alternatives(function)):
            old = _get(parent, field, at)
            after = _brief(ast.fix_missing_locations(new))
            records = module in RECORDING or id(old) in recording
            yield Mutant(module, name, number, operator, old.lineno, _brief(old), after, records)


def mutated_code(
    mutant: Mutant, source: str | None = None, around: Callable[[ast.AST, ast.AST], ast.AST] | None = None
) -> CodeType:
    """The code of the changed function. `around` gives what stands in the place of a node: of the changed one and the
    original."""
    tree = ast.parse(source if source is not None else _read(mutant.module))
    function = dict(_functions(tree))[mutant.function]
    first = min((decorator.lineno for decorator in function.decorator_list), default=function.lineno)
    for number, (_, parent, field, at, new) in enumerate(_alternatives(function)):
        if number == mutant.number:
            old = _get(parent, field, at)
            new = new if around is None else around(new, old)
            ast.copy_location(new, old)
            _set(parent, field, at, new)
            break
    return _compiled(tree, mutant, first)


def marked_code(mutant: Mutant, mark: ast.expr, source: str | None = None, entered: bool = False) -> CodeType:
    """The code of the function itself, in which `mark` is evaluated each time before the statement that the mutant is
    in, or each time that the function is `entered`."""
    tree = ast.parse(source if source is not None else _read(mutant.module))
    function = dict(_functions(tree))[mutant.function]
    first = min((decorator.lineno for decorator in function.decorator_list), default=function.lineno)
    body: list[Any] = function.body
    at = 0
    for node in () if entered else ast.walk(function):  # the innermost statements come last
        for found in (getattr(node, field, None) for field in ("body", "orelse", "finalbody")):
            if not isinstance(found, list):
                continue
            for i, statement in enumerate(found):
                if statement.lineno <= mutant.line <= statement.end_lineno:
                    body, at = found, i
    body.insert(at, ast.copy_location(ast.Expr(mark), body[at]))
    return _compiled(tree, mutant, first)


def _compiled(tree: ast.Module, mutant: Mutant, first: int) -> CodeType:
    """The code of the mutant's function, which begins on line `first`."""
    path = _source(mutant.module)
    code = compile(ast.fix_missing_locations(tree), str(path or "<mutant>"), "exec", dont_inherit=True)
    return next(c for c in _codes(code) if c.co_qualname == mutant.function and c.co_firstlineno == first)


def plant(mutant: Mutant) -> CodeType:
    """Put the mutant into this process for good; the code that now runs."""
    code = mutated_code(mutant)
    function = function_of(mutant.module, mutant.function)
    if code == function.__code__:
        raise InvalidMutantError("the same bytecode")
    try:
        function.__code__ = code
    except ValueError as error:
        raise InvalidMutantError(str(error)) from error
    return code


def _source(module: str) -> Path | None:
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec is not None and spec.origin else None


def source_of(module: str) -> Path:
    """The file of a module. ValueError if it has none."""
    path = _source(module)
    if path is None:
        raise ValueError(f"module {module} has no source")
    return path


def _read(module: str) -> str:
    return source_of(module).read_text(encoding="utf-8")


def _functions(tree: ast.Module) -> Iterator[tuple[str, Def]]:
    """Functions of a module and methods of its classes; those inside functions belong to these. Of several with one
    name (a property and its setter) none, since the name does not say which."""
    found: dict[str, list[Def]] = {}

    def collect(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, Def):
                found.setdefault(prefix + node.name, []).append(node)
            elif isinstance(node, ast.ClassDef):
                collect(node.body, f"{prefix}{node.name}.")

    collect(tree.body, "")
    yield from ((name, nodes[0]) for name, nodes in found.items() if len(nodes) == 1)


def _at_import(tree: ast.Module) -> set[str]:
    """Private functions that are called when the module is loaded, and named in no function: what they made is made."""

    def names(nodes: list[ast.stmt], calls: bool) -> set[str]:
        found = [n for node in nodes for n in ast.walk(node)]
        if calls:
            found = [n.func for n in found if isinstance(n, ast.Call)]
        return {n.id for n in found if isinstance(n, ast.Name)}

    bodies = [node for node in tree.body if isinstance(node, Def | ast.ClassDef)]
    loading = names([node for node in tree.body if not isinstance(node, Def | ast.ClassDef)], True)
    private = {node.name for node in bodies if isinstance(node, Def) and node.name.startswith("_")}
    return private & loading - names([s for node in bodies for s in node.body], False)


@functools.cache
def _names() -> frozenset[str]:
    """Every name that the models, the oracle or their entry points speak of. A function of a model that is not among
    them is for reports, the generator or a real kernel, and no behaviour of what is tested."""
    found: set[str] = set()
    for module in (*modules(), *ENTRIES):
        for node in ast.walk(ast.parse(_read(module))):
            if isinstance(node, ast.Name):
                found.add(node.id)
            elif isinstance(node, ast.Attribute):
                found.add(node.attr)
    return frozenset(found)


def _records(node: ast.AST) -> bool:
    """Whether a statement only writes down something for the oracle: `x.touched.append(...)`, `x.short += 1`."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute):
        targets = [node.value.func.value]
    elif isinstance(node, ast.Assign):
        targets = node.targets
    else:
        targets = [node.target] if isinstance(node, ast.AugAssign) else []
    names = [t.attr if isinstance(t, ast.Attribute) else t.id if isinstance(t, ast.Name) else "" for t in targets]
    return bool(names) and all(name in RECORDS for name in names)


Place = tuple[ast.AST, str, int | None]


def _places(node: ast.AST) -> Iterator[Place]:
    """Where the nodes below `node` hang, without annotations, defaults, what only makes a text, and `strict=` of zip,
    which is an assertion."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "args") and not isinstance(node, ast.Call):
            continue
        for at, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.JoinedStr):
                continue
            if isinstance(child, ast.keyword) and child.arg == "strict":
                continue
            yield node, field, at
            yield from _places(child)


def _alternatives(function: Def) -> Iterator[tuple[str, ast.AST, str, int | None, ast.AST]]:
    for parent, field, at in list(_places(function)):
        node = _get(parent, field, at)
        for operator in OPERATORS:
            for new in operator(node):
                yield operator.__name__, parent, field, at, new


def _get(parent: ast.AST, field: str, at: int | None) -> Any:
    value = getattr(parent, field)
    return value if at is None else value[at]


def _set(parent: ast.AST, field: str, at: int | None, new: ast.AST) -> None:
    if at is None:
        setattr(parent, field, new)
    else:
        getattr(parent, field)[at] = new


def _brief(node: ast.AST) -> str:
    return ast.unparse(node).partition("\n")[0]


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _codes(const)


def function_of(module: str, qualname: str) -> FunctionType:
    """The function object, taken out of properties, class methods and caches; a cache that knows old results is
    emptied."""
    found: Any = import_module(module)
    for part in qualname.split("."):
        found = vars(found)[part]
    if isinstance(found, property):
        found = found.fget
    elif isinstance(found, functools.cached_property):
        found = found.func
    elif isinstance(found, staticmethod | classmethod):
        found = found.__func__
    while not isinstance(found, FunctionType):
        if hasattr(found, "cache_clear"):
            found.cache_clear()
        found = found.__wrapped__
    return found
