"""Planting: a replacement acts for kernels of one side made in the block, wherever the function is known, and leaves
nothing behind."""

import copy
import gc
import operator
import pickle
import sys
from typing import Any

import pytest

import reference.section_rows
import reference.sparse_vmemmap
from candidate.framework import UnifiedFramework
from fuzz.engines.explore import Explore
from fuzz.engines.universe import UNIVERSES
from mm.boot import boot
from mm.kernel import Kernel
from mm.machine import Machine
from reference.paths import SeparatePaths
from zoo import DEFECTS, Defect, find, planted, reference_version
from zoo.mechanism import PACKAGES

FAR, SECTION = 0x1000000000 >> 12, 32768


def defect(spot: str, replacement: Any, side: Any = "reference") -> Defect:
    return Defect("TEST", "test", "", side, "", "", "accounting", spot, replacement, None)


def kernel(make: Any = SeparatePaths) -> Kernel:
    k = Kernel(Machine(ram=1 << 30), make)
    boot(k)
    return k


def seven(original: Any, *args: Any) -> int:
    return 7


def functions() -> dict[tuple[str, str], Any]:
    """Everything that modules and classes of ours hold."""
    out = {}
    for path, module in list(sys.modules.items()):
        if path.partition(".")[0] in PACKAGES:
            for name, value in vars(module).items():
                out[path, name] = value
                if isinstance(value, type):
                    out |= {(f"{path}:{name}", attribute): v for attribute, v in vars(value).items()}
    return out


def test_only_its_side_and_only_kernels_of_the_block() -> None:
    """`mm` is shared: a defect of the reference in `mm` does not reach the candidate."""
    before = kernel()
    spot = defect("mm.page_alloc:PageAllocator.alloc_page", lambda original, *args: None)
    with planted(spot):
        inside, other = kernel(), kernel(UnifiedFramework)
        assert inside.pages.alloc_page(0, "pages") is None
        assert other.pages.alloc_page(0, "pages") is not None
        assert before.pages.alloc_page(0, "pages") is not None
    assert inside.pages.alloc_page(0, "pages") is not None


def test_wherever_the_function_is_known() -> None:
    """Functions imported by name in other modules are replaced there too."""
    with planted(defect("reference.sparse_vmemmap:section_nr_vmemmap_pages", seven)):
        k = kernel()
        assert reference.section_rows.section_nr_vmemmap_pages(k, FAR, SECTION, None, None) == 7
        k.paths.sparse_add_section(0, FAR, 3 * SECTION, None, None)
        assert k.vmstat.nr_memmap == 3 * 7
        k.paths.sparse_remove_section(FAR, SECTION, None, None)
        assert k.vmstat.nr_memmap == 2 * 7


def test_nothing_stays_behind() -> None:
    """Every attribute of every module and class is what it was, also after an exception."""
    kernel(UnifiedFramework)
    before = functions()
    with planted(*DEFECTS.values()):
        assert functions() != before
        kernel()
    assert functions() == before
    with pytest.raises(ZeroDivisionError), planted(*DEFECTS.values()):
        raise ZeroDivisionError
    assert functions() == before


def test_several_defects_at_one_spot() -> None:
    """The one planted last is asked first, and can go on to the other."""
    spot = "reference.sparse_vmemmap:section_nr_vmemmap_pages"
    with planted(defect(spot, seven), defect(spot, lambda original, *args: original(*args) + 1)):
        assert reference.sparse_vmemmap.section_nr_vmemmap_pages(kernel(), FAR, SECTION, None, None) == 8
        with planted(defect(spot, lambda original, *args: -original(*args))):
            assert reference.sparse_vmemmap.section_nr_vmemmap_pages(kernel(), FAR, SECTION, None, None) == -8
    assert reference.sparse_vmemmap.section_nr_vmemmap_pages(kernel(), FAR, SECTION, None, None) == 512


def test_a_kernel_made_after_another_is_gone_is_not_taken_for_it() -> None:
    """Objects are known by id, which is used again: a dead kernel's ids are forgotten."""
    with planted(defect("mm.page_alloc:PageAllocator.alloc_page", lambda original, *args: None)):
        for _ in range(10):
            k = kernel()
            assert k.pages.alloc_page(0, "pages") is None
            del k
            gc.collect()
            other = kernel(UnifiedFramework)
            assert other.pages.alloc_page(0, "pages") is not None


def test_a_part_counts_as_long_as_it_is_one() -> None:
    """What has been taken out of a kernel is none of its parts, and its id may be another's while the kernel lives."""
    with planted(defect("mm.page_alloc:PageAllocator.is_free", seven)):
        k, other = kernel(), kernel()
        mine, theirs = k.pages, other.pages
        k.pages = theirs
        assert mine.is_free(0, 1) in (True, False)
        assert theirs.is_free(0, 1) == 7


def test_copies_of_copies_have_the_defects() -> None:
    """A search copies kernels by the thousand, and drops them in any order: ids come back all the time."""
    with reference_version("v7.0-base"):
        search = Explore("posted", UNIVERSES["devices"], 3)
        search.start()
        while search.running:
            search.advance(1e9)
    assert search.findings == []
    assert "history-dax-vmemmap-accounting" in search.statistics.clauses


@pytest.mark.parametrize("again", [copy.deepcopy, lambda k: pickle.loads(pickle.dumps(k))])
def test_copies_are_like_the_original(again: Any) -> None:
    """Kernels that are copied, or kept as a pickle, keep their defects, and only theirs."""
    spot = "mm.page_alloc:PageAllocator.alloc_page"
    with planted(
        defect(spot, lambda original, *args: None), defect("mm.kernel:Kernel.set_pageblocks", seven, "candidate")
    ):
        one, two = again(kernel()), again(kernel(UnifiedFramework))
        assert one.pages.alloc_page(0, "pages") is None
        assert two.pages.alloc_page(0, "pages") is not None
        assert one.set_pageblocks(0, 512, "movable") is None
        assert two.set_pageblocks(0, 512, "movable") == 7
    assert one.pages.alloc_page(0, "pages") is not None


def test_find() -> None:
    assert find("ACC-2026-03") is find("dax_full_count")
    with pytest.raises(ValueError, match="no defect 'ACC-1999-01'; there are ACC-2024-35, ACC-2024-37, ACC-2025-27, "):
        find("ACC-1999-01")


@pytest.mark.parametrize("name", DEFECTS)
def test_every_entry_is_complete(name: str) -> None:
    """One spot that exists, a source, a mechanism and a layer that the oracle has."""
    d = DEFECTS[name]
    assert d.id == name
    module, _, function = d.spot.partition(":")
    assert callable(operator.attrgetter(function)(sys.modules[module]))
    assert d.title
    assert d.source
    assert d.mechanism
    assert d.layer in ("returns", "mapping", "structpages", "accounting", "frames")
