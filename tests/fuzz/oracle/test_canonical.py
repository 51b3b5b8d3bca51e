"""The canonical form: states that it calls equal behave alike, and states that differ have different forms."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from fuzz.engines.explore import BOOT, canonical_pair, freeze, thaw
from fuzz.engines.universe import HOT, SECTION, SLOTS, UNIVERSES, Universe
from fuzz.execute import Lockstep
from fuzz.oracle.canonical import IGNORED, Side
from fuzz.oracle.history import History
from fuzz.program.model import Op, make_op

M = 1 << 20
ALL = UNIVERSES["all"]
Path = tuple[Op, ...]


def run(path: Path, universe: Universe = ALL) -> Lockstep:
    pair = Lockstep(universe.start.machine, full_every=0)
    for op in (BOOT, *path):
        pair.step(op)
    return pair


def random_path(rng: Random, universe: Universe, length: int) -> Path:
    """A walk through a universe in which both sides go on."""
    pair = run((), universe)
    path: Path = ()
    while len(path) < length:
        moves = list(universe.moves(pair, len(path)))
        move = rng.choice(moves)
        pair.step(move)
        if pair.over:
            return path
        path = (*path, move)
    return path


def names(pair: Lockstep) -> list[str]:
    """Live handles in the order of what they stand for, which is the order of canonical names."""
    sides = [Side(side.kernel, True) for side in (pair.reference, pair.candidate)]
    both = pair.reference.handles, pair.candidate.handles
    live = [name for name in pair.reference.handles if not name.startswith("ram")]
    return sorted(live, key=lambda n: repr(tuple(side.handle(h.get(n)) for side, h in zip(sides, both, strict=True))))


def renamed(move: Op, mine: list[str], theirs: list[str]) -> Op:
    """The move of another pair that a move of this one corresponds to."""
    to = dict(zip(mine, theirs, strict=True))
    return Op(move.name, {k: to.get(v, v) if isinstance(v, str) else v for k, v in move.args.items()}, move.result)


def merged_paths(seed: int, universe: Universe, walks: int, coarser: bool = False) -> Iterator[tuple[Path, Path]]:
    """Pairs of different programs that end in one canonical state: shuffles of walks, and walks that undo what they do.

    With `coarser` only those that frame numbers tell apart.
    """
    rng = Random(seed)
    by_form: dict[bytes, tuple[Path, bytes]] = {}
    for _ in range(walks):
        path = random_path(rng, universe, rng.randrange(2, 7))
        shuffled = tuple(rng.sample(path, len(path)))
        for candidate in (path, shuffled):
            pair = Lockstep(universe.start.machine, full_every=0)
            pair.step(BOOT)
            for op in candidate:
                if any(v not in pair.reference.handles for k, v in op.args.items() if k in "mdup"):
                    break
                pair.step(op)
                if pair.over:
                    break
            else:
                form, fine = canonical_pair(pair), canonical_pair(pair, pages=False)
                known, its = by_form.setdefault(form, (candidate, fine))
                if known != candidate and (not coarser or its != fine):
                    yield known, candidate


@pytest.mark.parametrize("coarser", [False, True], ids=["any", "frames differ"])
def test_merged_states_behave_alike_under_random_continuations(coarser: bool) -> None:
    universe = ALL
    rng = Random(1)
    tried = 0
    for first, second in merged_paths(7, universe, 320, coarser):
        a, b = run(first), run(second)
        for step in range(6):
            assert canonical_pair(a) == canonical_pair(b), (first, second)
            mine, theirs = names(a), names(b)
            moves = list(universe.moves(a, 100 + step))
            assert [renamed(m, mine, theirs) for m in moves if m.name == "hugetlb dissolve"] == [
                m for m in universe.moves(b, 100 + step) if m.name == "hugetlb dissolve"
            ]
            move = rng.choice(moves)
            one, other = a.step(move), b.step(renamed(move, mine, theirs))
            assert (one.rcs, one.finding, one.terminal) == (other.rcs, other.finding, other.terminal), (
                first,
                second,
                move,
            )
            if a.over:
                break
        else:
            assert a.finish() == b.finish()
        tried += 1
    assert tried >= (5 if coarser else 40)


def test_the_form_does_not_depend_on_how_a_state_was_reached_or_kept() -> None:
    path = (
        make_op("hugetlb resize", size=2 * M, to=2),
        make_op("dax create", "d1", at=(SLOTS[0],), size=(SECTION,)),
        make_op("pages alloc", "p2", count=1, movable=True),
    )
    other = (path[2], path[0], make_op("sysctl", hugetlb_optimize_vmemmap=True), path[1])
    pair = run(path)
    assert canonical_pair(pair) == canonical_pair(run(other))
    assert canonical_pair(pair) == canonical_pair(thaw(freeze(pair)))


def test_a_mapping_can_be_taken_back_after_it_was_kept() -> None:
    path = (make_op("hugetlb resize", size=2 * M, to=2), make_op("hugetlb map", "u1", size=2 * M, count=1))
    unmap = make_op("hugetlb unmap", u="u1")
    pair = thaw(freeze(run(path)))
    pair.step(unmap)
    assert canonical_pair(pair) == canonical_pair(run((*path, unmap)))
    assert not pair.reference.kernel.hstates[9].mapped


def test_undone_is_as_not_done() -> None:
    done = run((make_op("memory add", "m0", at=HOT[0], size=SECTION), make_op("memory remove", m="m0")))
    again = run((*((make_op("memory add", "m0", at=HOT[0], size=SECTION), make_op("memory remove", m="m0")) * 2),))
    assert canonical_pair(done) == canonical_pair(again)


TAMPERS: dict[str, Any] = {
    "nr_memmap": lambda k: setattr(k.vmstat, "nr_memmap", k.vmstat.nr_memmap + 1),
    "struct_pages_initialized": lambda k: setattr(
        k.vmstat, "struct_pages_initialized", k.vmstat.struct_pages_initialized + 1
    ),
    "protection": lambda k: k.tables.set(24633, 24634, k.tables.get(24633)._replace(rw=False)),
    "mapping": lambda k: k.tables.clear(24633, 24634),
    "content": lambda k: k.memmap.own.set(0x1000, 0x1001, k.memmap.own.get(0x3000)),
    "shared content": lambda k: k.memmap.frames.update(dict.fromkeys(k.memmap.frames, k.memmap.own.get(0x1000))),
    "references": lambda k: k.pages.refs.update({frame: n + 1 for frame, n in k.pages.refs.items()}),
    "leaked frame": lambda k: k.pages.alloc_page(0, "memmap"),
    "owner": lambda k: k.pages.owners.set(*k.tables.tables[1].items()[0][:1], 1, "pgtable"),
    "folio": lambda k: setattr(next(iter(k.hstates[9].folios.values())), "hwpoison", True),
    "order of the free list": lambda k: (
        k.hstates[9].free[0].update({k.hstates[9].free[0].pop(next(iter(k.hstates[9].free[0]))).pfn: 0})
    ),
    "zone span": lambda k: k.nodes[0].zones[3].grow_span(0, 5),
    "section word": lambda k: k.sections.set_flags(70, 71, 1),
    "pool": lambda k: setattr(k.hstates[18], "nr_overcommit", 1),
    "armed failure": lambda k: setattr(k.faults, "nth", 2),
    "sysctl": lambda k: setattr(k.paths, "vmemmap_optimize_enabled", False),
    "once": lambda k: k.warned_once.add("x"),
    "an attribute that is new": lambda k: setattr(k.paths, "novelty", 1),
}


@pytest.mark.parametrize("side", ["reference", "candidate"])
@pytest.mark.parametrize("name", TAMPERS)
def test_any_change_of_state_changes_the_form(name: str, side: str) -> None:
    path = (
        make_op("hugetlb resize", size=2 * M, to=2),
        make_op("dax create", "d1", at=(SLOTS[0],), size=(SECTION,)),
    )
    pair = run(path)
    before = canonical_pair(pair)
    TAMPERS[name](getattr(pair, side).kernel)
    assert canonical_pair(pair) != before


def test_what_the_oracle_remembers_is_part_of_the_form() -> None:
    pair = run(())
    before = canonical_pair(pair)
    for name, value in (("parted", True), ("over_surplus", {9}), ("_device_tails", {((0, 4), 9)})):
        was = getattr(pair.oracle, name)
        setattr(pair.oracle, name, value)
        assert canonical_pair(pair) != before, name
        setattr(pair.oracle, name, was)
    assert canonical_pair(pair) == before


def test_ignored_attributes_exist() -> None:
    pair = run(())
    k: Any = pair.reference.kernel
    oracle = pair.oracle
    things = [
        k,
        k.memblock,
        k.cma,
        k.faults,
        k.vmstat,
        k.pages,
        k.memmap,
        k.sections,
        k.memory_blocks,
        k.hstates[9],
        k.tables,
    ]
    things += [k.nodes[0].zones[0], oracle, oracle.accounting, History(k, k, oracle.accounting, set())]
    assert {type(thing) for thing in things} == set(IGNORED)
    for thing in things:
        for name, why in IGNORED[type(thing)].items():
            assert hasattr(thing, name), f"{type(thing).__name__}.{name}"
            assert why


def test_sections_of_memory_are_not_symmetric() -> None:
    """Swapping the two sections maps one program to the other, but not what becomes of the range made first."""
    inside = []
    for order in (HOT, HOT[::-1]):
        path: list[Op] = []
        for i, at in enumerate(order):
            path.append(make_op("memory add", f"m{i}", at=at, size=SECTION))
            path.append(make_op("memory online", m=f"m{i}", block=0, zone="movable"))
        pair = run((*path, make_op("pages alloc", "p0", count=1, movable=True)))
        ((pfn, _),) = pair.reference.handles["p0"]
        first = pair.reference.handles["m0"]
        inside.append(first.start_pfn <= pfn < first.start_pfn + first.nr)
    assert inside == [True, False] or inside == [False, True]


def test_slots_of_devices_are_symmetric() -> None:
    """What `explore` relies on: programs with the two slots swapped answer alike, and count alike."""
    rng = Random(3)
    universe = UNIVERSES["devices"]
    swap = {SLOTS[0] + d: SLOTS[1] + d for d in (0, 32 * M)} | {SLOTS[1] + d: SLOTS[0] + d for d in (0, 32 * M)}
    compared = 0
    for _ in range(60):
        path = random_path(rng, universe, 8)
        a, b = run(()), run(())
        for op in path:
            mirrored = op
            if "at" in op.args:
                mirrored = Op(op.name, {**op.args, "at": tuple(swap.get(at, at) for at in op.args["at"])}, op.result)
            one, other = a.step(op), b.step(mirrored)
            assert one.rcs == other.rcs
            for mine, its in ((a.reference.kernel, b.reference.kernel), (a.candidate.kernel, b.candidate.kernel)):
                assert mine.vmstat.nr_memmap == its.vmstat.nr_memmap
                assert [z.blocks.items() for z in mine.nodes[0].zones] == [z.blocks.items() for z in its.nodes[0].zones]
            compared += mirrored is not op
    assert compared > 100
