"""What is looked at after every operation, of a guest or of the model in its place."""

from __future__ import annotations

from dataclasses import dataclass, field

from live.folios import HugeFolio
from live.pagetable import Entry


@dataclass(slots=True)
class Pool:
    """One hstate; lists are by node."""

    nr: list[int]
    free: list[int]
    surplus: list[int]
    resv: int
    overcommit: int


@dataclass(slots=True)
class Snapshot:
    """What was seen. Counters are in pages."""

    nr_memmap: int = 0
    nr_memmap_boot: int = 0
    nr_page_table_pages: int = 0
    managed: int = 0
    """MemTotal: pages that the buddy allocator manages, all zones."""
    poisoned: int = 0
    """HardwareCorrupted: pages that memory_failure and soft_offline_page took out of use."""
    free: list[int] = field(default_factory=list)
    """Free pages of each node, per-cpu lists included."""
    pools: dict[int, Pool] = field(default_factory=dict)
    blocks: dict[int, str] = field(default_factory=dict)
    """Memory block -> "offline", or the name of the zone it is online in."""
    mapping: dict[int, Entry] = field(default_factory=dict)
    folios: dict[int, HugeFolio] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    """Lines of the kernel's log that no healthy kernel prints."""
