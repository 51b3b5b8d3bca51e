"""Which of two sides the specification supports, as a sentence: what a disagreement is reported with.

The laws (live.laws) are asked about both sides, before and after the operation: a law that one side has just broken
decides. Where none does, the sentence names the function of the kernel that has to be read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fuzz.oracle.finding import Difference, Outcome
from live.laws import Law, broken
from live.snapshot import Snapshot

WHERE: Final = {
    "boot": "hugetlb_bootmem_alloc and memmap_init (mm/hugetlb.c, mm/mm_init.c)",
    "hugetlb resize": "set_max_huge_pages (mm/hugetlb.c)",
    "hugetlb overcommit": "nr_overcommit_hugepages_store (mm/hugetlb_sysfs.c)",
    "hugetlb demote": "demote_pool_huge_page (mm/hugetlb.c)",
    "hugetlb map": "alloc_hugetlb_folio and hugetlb_reserve_pages (mm/hugetlb.c)",
    "hugetlb unmap": "free_huge_folio (mm/hugetlb.c)",
    "hugetlb dissolve": "dissolve_free_hugetlb_folio (mm/hugetlb.c)",
    "sysctl": "hugetlb_optimize_vmemmap (mm/hugetlb_vmemmap.c)",
    "memory hard_offline": "memory_failure (mm/memory-failure.c)",
    "memory soft_offline": "soft_offline_page (mm/memory-failure.c)",
    "memory unpoison": "unpoison_memory (mm/memory-failure.c)",
    "memory add": "add_memory_resource (mm/memory_hotplug.c)",
    "memory online": "memory_block_online (drivers/base/memory.c)",
    "memory offline": "offline_pages (mm/memory_hotplug.c)",
    "memory remove": "try_remove_memory (mm/memory_hotplug.c)",
    "dax create": "dev_dax_probe and memremap_pages (drivers/dax/device.c, mm/memremap.c)",
    "dax rebind": "dev_dax_probe, fsdev_dax_probe and dev_dax_kmem_probe (drivers/dax)",
    "dax set": "memmap_on_memory_store (drivers/dax/bus.c)",
    "dax state": "state_store (drivers/dax/kmem.c)",
    "dax online": "memory_block_online (drivers/base/memory.c)",
    "dax offline": "offline_pages (mm/memory_hotplug.c)",
    "dax destroy": "memunmap_pages (mm/memremap.c)",
}
"""Operation -> what does it in the kernel."""

State = tuple[Snapshot, Snapshot]
"""A side after the boot, and now."""


def triage(
    operation: str, difference: Difference, outcomes: tuple[Outcome, Outcome], states: tuple[State, State] | None,
    names: tuple[str, str] = ("the model", "the kernel"),
) -> str:  # fmt: skip
    """The sentence. `states` are None when one side has no state any more."""
    mine, its = names
    if difference.field.startswith("log"):
        who = its if difference.field in ("log", "log B") else mine
        other = mine if who == its else its
        return f"The specification supports {other}: {who} itself reports that something is broken."
    for outcome, died, other in ((outcomes[1], its, mine), (outcomes[0], mine, its)):
        if isinstance(outcome, str):
            return (
                f"The specification supports {other}: no operation of a program may stop a kernel, and {died} stopped."
            )
    if states is not None:
        verdicts = [broken(*state) for state in states]
        titles = [{law.title for law, _ in verdict} for verdict in verdicts]
        for i, (right, wrong) in enumerate(((its, mine), (mine, its))):
            decisive = [v for v in verdicts[i] if v[0].title not in titles[1 - i]]
            if decisive:
                return _verdict(right, wrong, *decisive[0])
    return (
        f"No rule that can be checked from outside decides between {mine} and {its}: read {WHERE[operation]}; where the"
        " source does not say otherwise, the running kernel is the authority."
    )


def _verdict(right: str, wrong: str, law: Law, how: str) -> str:
    return f"The specification supports {right}: {law.title} ({law.source}), but of {wrong}, {how}."


Judge = Callable[[str, Difference, tuple[Outcome, Outcome]], str]
