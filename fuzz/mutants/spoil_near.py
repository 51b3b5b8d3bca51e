"""What a fault in an operation spoils first of all: the books that operations of its kind keep.

Spoiled at random, most structures have nothing to do with the operation, and a law of its effect has nothing to say.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Final

from fuzz.mutants.spoil import (
    Spoiler,
    altmap,
    block,
    entry,
    folio,
    folios,
    free,
    free_pages,
    holder,
    neighbour,
    online,
    owner,
    page_map,
    points,
    poison,
    pool,
    remap,
    resource,
    section,
    struct_page,
    subsection,
    table,
    unplugged,
    waiting,
    zone,
)
from fuzz.mutants.spoil_books import area, cma_lists, driver_frames, early_area, gone, on_another_node, window
from fuzz.mutants.spoil_devices import DEVICES
from mm.kernel import Kernel


def request(k: Kernel, draw: Random) -> str | None:
    """Huge pages that the command line asked for, or areas for them, are others."""
    if draw.random() < 0.5 and k.boot_requests:
        i = draw.randrange(len(k.boot_requests))
        was = k.boot_requests[i]
        if draw.random() < 0.3:
            del k.boot_requests[i]
            return f"{was} is gone"
        k.boot_requests[i] = replace(was, count=neighbour(was.count, draw))
        return f"{was} is {k.boot_requests[i]}"
    cma = k.hugetlb_cma
    nid = draw.randrange(len(cma.size_in_node))
    numbers = draw.choice((cma.size_in_node, cma.percent_in_node))
    numbers[nid] = neighbour(numbers[nid], draw)
    return f"hugetlb_cma= of node {nid} is {cma.size_in_node[nid]}, {cma.percent_in_node[nid]} %"


NEAR: Final[dict[str, tuple[Spoiler, ...]]] = {
    "reserve": (request, request, early_area),
    "boot": (area, cma_lists, early_area, pool, zone, online, resource, gone),
    "hugetlb": (pool, pool, pool, free_pages, folio, folios, waiting, on_another_node, table, entry),
    "sysctl": (pool, folio, entry),
    "memory": (poison, block, block, online, zone, section, subsection, resource, altmap, window, folio, gone),
    "subblock": (unplugged, driver_frames, driver_frames, owner, zone, free),
    "dax": (page_map, page_map, remap, resource, block, altmap, subsection, struct_page, table, gone, *DEVICES),
    "pages": (holder, holder, owner, free, poison),
    "fail": (points,),
}
"""By the first word of an operation; what has more to be got wrong is there twice."""
