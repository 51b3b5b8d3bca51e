"""What can go wrong outside of the programs."""


class LiveError(Exception):
    """A guest, or what it needs, cannot be had or used: one sentence for people."""
