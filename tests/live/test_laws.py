"""Laws: the model obeys them, each breach is told, and it decides which side is right."""

import array
from collections.abc import Callable
from dataclasses import replace

import pytest

from fuzz.oracle.finding import Difference
from fuzz.program.model import make_op
from fuzz.side import Side
from live.laws import LAWS, broken
from live.mirror import model_snapshot
from live.placement import tell, told
from live.snapshot import Snapshot
from live.triage import triage
from mm.machine import Machine
from reference.paths import SeparatePaths
from tests.live.test_compare import pool_of

M, G = 1 << 20, 1 << 30
FIRST, SECOND = 0x8000, 0x8200
"""Two optimized huge pages, the first and the second of section 1."""


@pytest.fixture
def states() -> tuple[Snapshot, Snapshot]:
    """After the boot, and with two huge pages, a device and an online block that holds its own memory map."""
    side = Side(Machine(ram=G, memmap_on_memory="on"), told(SeparatePaths))
    side.run(make_op("boot"))
    first = model_snapshot(side.kernel)
    tell(side.kernel, Snapshot(), pool_of([FIRST, SECOND]))
    for op in (
        make_op("hugetlb resize", size=2 * M, to=2),
        make_op("dax create", "d0", at=(G,), size=(128 * M,)),
        make_op("memory add", "m0", at=2 * G, size=128 * M, memmap_on_memory=True),
        make_op("memory add", "m1", at=2 * G + 128 * M, size=128 * M),
        make_op("memory online", m="m0", block=0),
        make_op("memory online", m="m1", block=0),
    ):
        assert side.run(op) == 0
    return first, model_snapshot(side.kernel)


def set_pte(section: int, at: int, word: int) -> Callable[[Snapshot], None]:
    def change(seen: Snapshot) -> None:
        table = array.array("Q", seen.mapping[section])
        table[at] = word
        seen.mapping[section] = table.tobytes()

    return change


def pool(**fields: object) -> Callable[[Snapshot], None]:
    return lambda s: s.pools.update({9: replace(s.pools[9], **fields)})


def folio(**fields: object) -> Callable[[Snapshot], None]:
    return lambda s: s.folios.update({FIRST: s.folios[FIRST]._replace(**fields)})


BREACHES: dict[str, tuple[Callable[[Snapshot], None], str]] = {
    "a page too many": (lambda s: setattr(s, "nr_memmap", s.nr_memmap + 1), "count the frames of the memory map"),
    "MemTotal": (lambda s: setattr(s, "managed", s.managed - 512), "MemTotal follows"),
    "nr_hugepages": (pool(nr=[3]), "counters of a pool"),
    "free_hugepages": (pool(free=[1]), "counters of a pool"),
    "resv_hugepages": (pool(resv=3), "counters of a pool"),
    "surplus_hugepages": (pool(surplus=[3]), "counters of a pool"),
    "refcount": (folio(refcount=1), "reference count of 0"),
    "in use": (folio(free=False), "reference count of 0"),
    "not optimized": (folio(optimized=False), "keeps one vmemmap page"),
    "a tail of its own": (set_pte(1, 2, 0x77 << 12 | 1), "keeps one vmemmap page"),
    "a read-only head": (set_pte(1, 0, 0x77 << 12 | 1), "keeps one vmemmap page"),
    "no memory map": (set_pte(1, 3, 0), "keeps one vmemmap page"),
}


def test_a_sound_state_breaks_none(states: tuple[Snapshot, Snapshot]) -> None:
    assert broken(*states) == []
    assert broken(states[0], states[0]) == []


@pytest.mark.parametrize("name", BREACHES)
def test_each_breach_is_told(states: tuple[Snapshot, Snapshot], name: str) -> None:
    change, title = BREACHES[name]
    change(states[1])
    assert any(title in law.title for law, _ in broken(*states))


def test_a_writer_to_a_shared_frame(states: tuple[Snapshot, Snapshot]) -> None:
    table = array.array("Q", states[1].mapping[1])
    set_pte(1, 100, table[1] | 2)(states[1])
    assert any(law.title.startswith("a shared vmemmap page") for law, _ in broken(*states))


def test_every_law_has_a_breach() -> None:
    told_of = {title for _, title in BREACHES.values()} | {"a shared vmemmap page"}
    assert all(any(part in law.title for part in told_of) for law in LAWS)


DIFFERENCE = Difference("accounting", "nr_memmap", "+", "nr_memmap since boot: +1 in the model, +2 in the kernel")


def test_the_side_that_keeps_the_law_is_supported(states: tuple[Snapshot, Snapshot]) -> None:
    first, good = states
    bad = replace(good, nr_memmap=good.nr_memmap + 1)
    text = triage("dax create", DIFFERENCE, (0, 0), ((first, bad), (first, good)))
    assert text.startswith("The specification supports the kernel: nr_memmap_pages")
    text = triage("dax create", DIFFERENCE, (0, 0), ((first, good), (first, bad)))
    assert text.startswith("The specification supports the model: nr_memmap_pages")


def test_where_no_law_decides_the_source_is_named(states: tuple[Snapshot, Snapshot]) -> None:
    text = triage("dax create", DIFFERENCE, (0, -12), (states, states))
    assert "dev_dax_probe" in text
    assert "supports" not in text


def test_who_complains_or_stops_is_wrong(states: tuple[Snapshot, Snapshot]) -> None:
    log = Difference("returns", "log", "changed", "the kernel says: BUG: Bad page state")
    assert triage("sysctl", log, (0, 0), (states, states)).startswith("The specification supports the model")
    assert "supports the kernel" in triage("sysctl", DIFFERENCE, ("bug: fault", 0), (states, states))
    assert "supports the model" in triage("sysctl", DIFFERENCE, (0, "bug: the guest is gone"), None)
    both = ("kernel A", "kernel B")
    log_a = Difference("returns", "log A", "changed", "kernel A says: BUG")
    assert triage("sysctl", log_a, (0, 0), None, both).startswith("The specification supports kernel B")
