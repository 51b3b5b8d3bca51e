"""What a browser made of a page."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Visit:
    """One page, looked at when its scripts were done."""

    dom: str
    console: list[str]
    requests: list[str]
    """Addresses that it asked for; files and data in the page are none."""
