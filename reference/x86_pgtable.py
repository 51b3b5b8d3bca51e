"""The vmemmap on x86-64 (arch/x86/mm/init_64.c, Linux 7.3; separate-paths.md 3.17).

Left out: the tracking of used parts of a PMD leaf (vmemmap_use_sub_pmd and friends): a leaf maps the memmap of
exactly one section, and a section that was added whole is removed whole.
"""

from __future__ import annotations

from mm.altmap import Altmap
from mm.kernel import Kernel
from mm.pgtable import Leaf, Mapping, Pte, private_frames, shared_uses
from reference.populate import vmemmap_populate_basepages, vmemmap_populate_hugepages


def vmemmap_populate(k: Kernel, lo: int, hi: int, nid: int, altmap: Altmap | None) -> int:
    """vmemmap_populate: PMD leaves for a whole section, base pages from RAM for less, whatever the altmap. 0 or
    -ENOMEM.
    """
    if hi - lo < k.arch.vmemmap_per_section:
        return vmemmap_populate_basepages(k, lo, hi, nid)
    return vmemmap_populate_hugepages(k, lo, hi, nid, altmap)


def free_frames(k: Kernel, frame: int, n: int) -> None:
    """free_pagetable, free_vmemmap_pages without altmap: frames go back to buddy, reserved ones as
    free_reserved_page does it.
    """
    for lo, hi, _ in k.pages.owners.runs(frame, frame + n):
        k.pages.free(lo, hi - lo)


def _free_ptes(k: Kernel, lo: int, hi: int, m: Mapping) -> None:
    """remove_pte_table over PTEs [lo, hi) of one form: each drops a reference, and the last one frees the frame."""
    uses = shared_uses(m, lo, hi)
    if uses is not None and k.pages.put_refs(*uses):
        k.memmap.frames.pop(uses[0], None)
        free_frames(k, uses[0], 1)
    refs = k.pages.refs
    for frame, n in private_frames(m, lo, hi):
        end = frame + n
        if refs and isinstance(m, Pte):
            # A private page of an early section can have lent its frame to a device's compound page behind it.
            candidates = range(frame, end) if n < len(refs) else sorted(refs)
            for lent in [f for f in candidates if frame <= f < end and f in refs]:
                k.pages.put_refs(lent, 1)
                if frame < lent:
                    free_frames(k, frame, lent - frame)
                frame = lent + 1
        if frame < end:
            free_frames(k, frame, end - frame)


def vmemmap_free(k: Kernel, lo: int, hi: int, altmap: Altmap | None) -> None:
    """vmemmap_free, remove_pagetable: frames by class, PMD leaves to the altmap if there is one, then tables that
    became empty.

    A PTE table that HVO made is freed without its destructor (free_pagetable calls pagetable_free only), so
    NR_PAGETABLE keeps counting it. With four-level page tables the kernel keeps empty PUD tables; here they go too,
    as with five levels.
    """
    ptrs = k.arch.ptrs_per_pte
    for s, e, m in k.tables.clear(lo, hi):
        if isinstance(m, Leaf):
            if s % ptrs or e % ptrs:
                raise AssertionError(f"vmemmap pages {s:#x}..{e:#x} are a part of a PMD leaf")
            if altmap is not None:
                altmap.release(e - s)
            else:
                free_frames(k, s + m.delta, e - s)
        else:
            _free_ptes(k, s, e, m)
    k.memmap.forget(lo * k.arch.spp, (hi - lo) * k.arch.spp)
    for frame, n in k.tables.pop_empty_tables(lo, hi):
        free_frames(k, frame, n)
