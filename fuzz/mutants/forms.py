"""Whether a mutant of the canonical form (`fuzz.oracle.canonical`) tells states apart, or takes them for one, where the
sound form does not: the search would go on with states that it knows, or leave out such as it does not know.

The form of a pair is taken twice, by the mutant and by the sound function: after operations of programs, after programs
whose operations come in another order, and after something is spoiled or moved to where it makes no difference.
Between the two kinds of forms there must be one partner for each.
"""

from __future__ import annotations

from random import Random
from time import process_time
from types import CodeType
from typing import Final

from fuzz.engines.explore import canonical_pair
from fuzz.execute import Lockstep
from fuzz.generate.afford import affordable
from fuzz.mutants.planted import Source, handle_off
from fuzz.mutants.sites import Mutant
from fuzz.mutants.spoil import SPOILERS, entry, folio, free, free_zone, owner, references, shared_page
from fuzz.mutants.spoil_books import BOOKS
from fuzz.mutants.trials import Kill
from fuzz.mutants.turns import Turns
from fuzz.oracle.accounting import INITIALIZED
from fuzz.program.model import Op
from fuzz.program.mutate import mutate
from fuzz.side import Side
from mm.machine import Machine

MODULE: Final = "fuzz.oracle.canonical"
SPOILED: Final = 10
"""How often something is spoiled in the last state of a program, one upon the other."""
OWNED: Final = (owner, entry, references, shared_page, free, free_zone, folio)
"""What the form renames frames by."""
SPOILS: Final = (*SPOILERS, *BOOKS, *OWNED * 4)
LAST: Final = 3
"""After so many of the last operations that are run the form is taken: states of equal programs are alike before."""


class Forms(Turns):
    """The search for one mutant, which is planted."""

    def __init__(self, mutant: Mutant, original: CodeType, seed: int) -> None:
        super().__init__(mutant, original)
        self.draw = Random(seed)
        self.partners: tuple[dict[tuple[Machine, bytes], bytes], ...] = {}, {}
        self.pairs = 0
        """Forms that were taken twice."""

    def search(self, sources: list[Source], end: float) -> Kill | None:
        """Look until `end` of the process's CPU time, in these programs and what is near them."""
        with self.taken():
            while sources and process_time() < end:
                source = self.draw.choice(sources)
                kill = self.run(self.original, lambda source=source: self._program(source))  # type: ignore[misc]
                if kill is not None:
                    return kill
        return None

    def _program(self, source: Source) -> Kill | None:
        draw, program = self.draw, source.program
        booted = next((i for i, op in enumerate(program.ops) if op.name == "boot"), 0)
        how = draw.random()
        if how < 0.3:
            program = mutate(program, draw)
        ops = list(program.ops)
        if 0.3 < how < 0.7 and len(ops) > booted + 2:
            i = draw.randrange(booted + 1, len(ops) - 1)
            ops[i : i + 2] = ops[i + 1], ops[i]
            stop = i + 2
        else:
            stop = draw.randrange(booted + 1, len(ops) + 1) if len(ops) > booted else len(ops)
        with source.setting.models():
            pair = Lockstep(program.machine, source.setting.profile)
            for at, op in enumerate(ops[:stop]):
                try:
                    pair.step(affordable(op, pair.reference))
                except Exception:
                    return None  # a handle that is not there yet
                if pair.over:
                    return None
                if at >= stop - LAST and (kill := self._taken(pair, source.name)):
                    return kill
            for _ in range(SPOILED):
                side = draw.choice((pair.reference, pair.candidate))
                text = run_on(pair, draw) if draw.random() < 0.1 else self._spoiled(side, ops[stop - 1])
                if text is not None and (kill := self._taken(pair, f"{source.name}: {text}")):
                    return kill
        return None

    def _spoiled(self, side: Side, op: Op) -> str | None:
        draw = self.draw
        how = draw.random()
        if how < 0.2:
            return handle_off(side.handles, op, draw)
        if how < 0.3:
            return moved(side, draw)
        return draw.choice(SPOILS)(side.kernel, draw)

    def _taken(self, pair: Lockstep, where: str) -> Kill | None:
        """Take the form of a state; what is wrong with the mutant's."""
        try:
            sound = canonical_pair(pair)
        except Exception:
            return None  # of what is spoiled there may be no form
        self.become(self.mutated)
        try:
            mine = canonical_pair(pair)
        except Exception as error:
            return Kill("crash", f"{type(error).__name__}: {error}", where)
        finally:
            self.become(self.original)
        self.pairs += 1
        machine = pair.reference.kernel.machine
        if self.partners[0].setdefault((machine, sound), mine) != mine:
            return Kill("search", "states of one form have two", where)
        if self.partners[1].setdefault((machine, mine), sound) != sound:
            return Kill("search", "states of two forms have one", where)
        return None


def run_on(pair: Lockstep, draw: Random) -> str:
    """Struct pages were initialised once more, by both sides or by one as a rule explains: nobody asks how many."""
    n, drift = draw.randrange(1, 1000), draw.choice((0, 1, 512))
    pair.reference.kernel.vmstat.struct_pages_initialized += n
    pair.candidate.kernel.vmstat.struct_pages_initialized += n + drift
    pair.oracle.accounting.offset[INITIALIZED] += drift
    return f"{n} struct pages more were initialised, {drift} more by the candidate"


def moved(side: Side, draw: Random) -> str | None:
    """Pages of a program lie one frame further; where that is the same pageblock, they lie as well."""
    k = side.kernel
    extents = [thing for thing in side.handles.values() if isinstance(thing, list) and thing]
    if not extents:
        return None
    thing = draw.choice(extents)
    i = draw.randrange(len(thing))
    pfn, n = thing[i]
    zone, owner = k.pages.zone_of.get(pfn + n), k.pages.owners.get(pfn)
    if zone is None or owner is None or not zone.frags.overlaps(pfn + n, pfn + n + 1):
        return None
    thing[i] = pfn + 1, n
    k.pages.owners.clear(pfn, pfn + 1)
    k.pages.owners.set(pfn + n, pfn + n + 1, owner)
    zone.frags.remove(pfn + n, pfn + n + 1)
    zone.frags.add(pfn, pfn + 1)
    return f"pages at {pfn:#x} lie one frame further"
