"""A zone of both kernels.

Most operations change the free pages of one zone or of none, so what a zone had before is kept as plain numbers, which
cost less to compare than to write down.
"""

from __future__ import annotations

from mm.mmzone import Zone


class ZonePair:
    """A zone of both kernels, and the numbers that it had after the operation before."""

    __slots__ = (
        "at",
        "blocks",
        "cand",
        "cma",
        "frags",
        "managed",
        "order",
        "ref",
        "their_blocks",
        "their_cma",
        "their_frags",
        "their_managed",
    )

    def __init__(self, ref: Zone, cand: Zone, at: int, order: int) -> None:
        self.ref, self.cand = ref, cand
        self.at = at
        """Index of its free pages in `Accounting.offset`; that of its managed pages follows."""
        self.order = order
        """Of a pageblock."""
        self.look()

    def look(self) -> None:
        """Keep what there is now."""
        z, w = self.ref, self.cand
        self.blocks, self.frags, self.cma, self.managed = z.blocks.total, z.frags.total, z.cma.total, z.managed_pages
        self.their_blocks, self.their_frags = w.blocks.total, w.frags.total
        self.their_cma, self.their_managed = w.cma.total, w.managed_pages

    def changed(self) -> bool:
        """Whether a number is not what it was."""
        z, w = self.ref, self.cand
        return (
            z.frags.total != self.frags
            or w.frags.total != self.their_frags
            or z.blocks.total != self.blocks
            or w.blocks.total != self.their_blocks
            or z.managed_pages != self.managed
            or w.managed_pages != self.their_managed
            or z.cma.total != self.cma
            or w.cma.total != self.their_cma
        )

    def free(self) -> int:
        """Free pages of the reference."""
        z = self.ref
        return (z.blocks.total << self.order) + z.frags.total + z.cma.total

    def more(self) -> int:
        """How many free pages more the candidate has."""
        w = self.cand
        return (w.blocks.total << self.order) + w.frags.total + w.cma.total - self.free()

    def more_managed(self) -> int:
        """How many managed pages more the candidate has."""
        return self.cand.managed_pages - self.ref.managed_pages

    def room(self, candidate: bool, cma: bool) -> tuple[int, int]:
        """Free pages and pageblocks that a side had; with `cma` also what only movable allocations get."""
        blocks, frags, of_cma = self.blocks, self.frags, self.cma
        if candidate:
            blocks, frags, of_cma = self.their_blocks, self.their_frags, self.their_cma
        if not cma:
            of_cma = 0
        return (blocks << self.order) + frags + of_cma, blocks + (of_cma >> self.order)
