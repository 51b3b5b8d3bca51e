"""The counters that the memory map is accounted in (include/linux/mmzone.h, mm/vmstat.c)."""

from __future__ import annotations


class Vmstat:
    """Global counters, in pages. They are plain signed integers: drift below zero is a finding, not an overflow."""

    __slots__ = ("nr_memmap", "nr_memmap_boot", "nr_page_table_pages", "struct_pages_initialized")

    def __init__(self) -> None:
        self.nr_memmap = 0
        """NR_MEMMAP, /proc/vmstat nr_memmap_pages."""
        self.nr_memmap_boot = 0
        """NR_MEMMAP_BOOT, /proc/vmstat nr_memmap_boot_pages."""
        self.nr_page_table_pages = 0
        """NR_PAGETABLE as far as the vmemmap moves it: PTE tables that HVO made by splitting a PMD leaf."""
        self.struct_pages_initialized = 0
        """Struct pages written by initialisation code so far; not a kernel counter, but the boot time the series
        promises to save."""
