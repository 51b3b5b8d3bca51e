"""A TLB that writes down how it is flushed."""

from mm.tlb import Tlb


class Flushes(Tlb):
    """Writes down what is flushed: "all" or the vmemmap pages (lo, hi)."""

    __slots__ = ("flushes",)

    def __init__(self) -> None:
        super().__init__()
        self.flushes: list[str | tuple[int, int]] = []

    def flush_tlb_all(self) -> None:
        self.flushes.append("all")

    def flush_tlb_kernel_range(self, lo: int, hi: int) -> None:
        self.flushes.append((lo, hi))
