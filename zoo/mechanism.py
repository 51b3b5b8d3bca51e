"""Planting defects: a function is replaced wherever it is known, and the replacement acts for kernels of one side only.

The models know nothing of it. They are modules of functions that call each other by name, and both sides share `mm`; so
a defect of one side can be neither a subclass nor a change of a module alone. `planted` therefore

- puts a wrapper in place of the function, in every module that has it under some name (or in the class, for a method);
- has the wrapper look at the first argument: the function's replacement is for the kernels that the defect's side was
  made for while the block runs, and for their parts; all others get the function itself;
- takes all of it out when the block ends: without a defect the models run exactly the code that is in their files.

Blocks nest, and several defects may sit at one spot: the one planted last is asked first.
"""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any, Final

from mm.kernel import Kernel
from zoo.defect import Defect, Side

SIDES: Final[dict[Side, str]] = {
    "reference": "reference.paths:SeparatePaths",
    "candidate": "candidate.framework:UnifiedFramework",
}
PACKAGES: Final = frozenset({"mm", "reference", "candidate", "fuzz", "live"})
"""Where functions of the models are known by name."""

Members = dict[int, weakref.ref[Kernel]]
"""Kernels of a side and their parts: the id of each, and the kernel."""


@contextmanager
def planted(*defects: Defect) -> Iterator[None]:
    """Run a block in which every kernel that is made has the defects of its side."""
    with ExitStack() as stack:
        members: dict[Side, Members] = {}
        for side in dict.fromkeys(defect.side for defect in defects):
            members[side] = {}
            stack.enter_context(_enrolled(side, members[side]))
        for defect in defects:
            stack.enter_context(_replaced(defect, members[defect.side]))
        yield


def _resolve(path: str) -> tuple[Any, str]:
    """What holds the function, a module or a class, and its name there."""
    module, _, name = path.partition(":")
    owner: Any = import_module(module)
    *outer, last = name.split(".")
    for part in outer:
        owner = getattr(owner, part)
    return owner, last


@contextmanager
def _enrolled(side: Side, members: Members) -> Iterator[None]:
    """While the block runs, kernels of the side put themselves and their parts into `members`, until they are gone.

    A kernel comes into being when its side is made, and when it is copied or comes out of a pickle.
    """
    module, name = _resolve(SIDES[side])
    cls = getattr(module, name)
    made = cls.__init__
    copied: Callable[[Kernel, dict[str, Any]], None] | None = getattr(Kernel, "__setstate__", None)

    def enrol(k: Kernel, paths: object) -> None:
        ids, owner = [id(part) for part in (k, paths, *_parts(k))], weakref.ref(k)
        members.update(dict.fromkeys(ids, owner))
        weakref.finalize(k, _forget, members, ids, owner).atexit = False

    @functools.wraps(made)
    def __init__(self: Any, k: Kernel, *args: Any, **kwargs: Any) -> None:
        made(self, k, *args, **kwargs)
        enrol(k, self)

    def __setstate__(self: Kernel, state: dict[str, Any]) -> None:
        if copied is None:
            vars(self).update(state)
        else:
            copied(self, state)
        paths = state.get("paths")
        if isinstance(paths, cls):
            enrol(self, paths)

    cls.__init__ = __init__
    Kernel.__setstate__ = __setstate__  # type: ignore[attr-defined]
    try:
        yield
    finally:
        cls.__init__ = made
        if copied is None:
            del Kernel.__setstate__  # type: ignore[attr-defined]
        else:
            Kernel.__setstate__ = copied  # type: ignore[attr-defined]


def _forget(members: Members, ids: list[int], owner: weakref.ref[Kernel]) -> None:
    """A kernel is gone. Where a part of it went before, another kernel may have its id by now."""
    for i in ids:
        if members.get(i) is owner:
            del members[i]


def _is_member(thing: object, members: Members) -> bool:
    """Whether it is a kernel of the side, or a part of one; not only something that has the id of a part that is
    gone."""
    owner = members.get(id(thing))
    k = owner() if owner is not None else None
    if k is None or thing is k or thing is vars(k).get("paths"):
        return k is not None
    return any(part is thing for part in _parts(k))


def _parts(k: Kernel) -> list[object]:
    """The objects a kernel is made of, whose methods can be replaced too."""
    parts = [part for part in vars(k).values() if type(part).__module__.startswith("mm.")]
    return [*parts, *k.nodes, *(zone for node in k.nodes for zone in node.zones), *k.hstates.values()]


@contextmanager
def _replaced(defect: Defect, members: Members) -> Iterator[None]:
    """While the block runs, the function at the defect's spot is replaced for `members`."""
    owner, name = _resolve(defect.spot)
    original = getattr(owner, name)
    replacement = defect.replacement

    @functools.wraps(original)
    def wrapper(first: Any, *args: Any, **kwargs: Any) -> Any:
        if _is_member(first, members):
            return replacement(original, first, *args, **kwargs)
        return original(first, *args, **kwargs)

    places = [(owner, name)] if isinstance(owner, type) else _known_as(original)
    for place, known in places:
        setattr(place, known, wrapper)
    try:
        yield
    finally:
        # Modules loaded meanwhile may have taken the wrapper.
        for place, known in [(owner, name)] if isinstance(owner, type) else _known_as(wrapper):
            setattr(place, known, original)


def _known_as(function: Callable[..., Any]) -> list[tuple[Any, str]]:
    """Every module of ours that has the function, and under which name."""
    return [
        (module, name)
        for path, module in list(sys.modules.items())
        if path.partition(".")[0] in PACKAGES
        for name, value in list(vars(module).items())
        if value is function
    ]
