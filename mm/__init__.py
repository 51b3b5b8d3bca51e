"""The part of Linux that both trees share, and the hardware below it.

Everything here is what the series "mm: Generalize vmemmap optimization for DAX and HugeTLB" did not rewrite. What it
did rewrite stands behind the seam in `mm.vmemmap` and exists twice, in `reference` and in `candidate`.
"""
