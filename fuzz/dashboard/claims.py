"""What a campaign's programs say about the series' promises, and what booting costs each side.

Neither is in the index: both are what the models of today do. Programs run in a helper process, with the campaign's
defect planted, so that neither a defect nor a program that dies reaches a server.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Thread
from typing import Any, Final

from fuzz.campaign.helper import LIMIT, Helper
from fuzz.campaign.settings import CampaignError, Settings
from fuzz.dashboard.data import connect

MOST: Final = 300
LONGEST: Final = 40
"""Programs that are run, evenly from the architectures, and their operations: a few seconds."""

BOOTED: Final = """vmm 1
machine arch=x86_64 page=4K ram=64G nodes=2 deferred_init=off
reserve size=1G count=24
boot
"""
"""A host of virtual machines that sets pages of 1G aside when it boots, which is what the series says it speeds up.
All struct pages are initialised at boot, not later in threads: only then does 7.3 write those that HVO drops."""


@dataclass(frozen=True, slots=True)
class Claims:
    """The promises as the corpus shows them."""

    programs: int
    """That were run."""
    promises: list[dict[str, Any]]
    """`fuzz.promises.Record.to_json`."""
    trouble: str
    """Why there are none, if there are none."""
    boot: list[dict[str, Any]]
    """`fuzz.boot_cost.BootCost` of both sides, of the machine `BOOTED`; empty with `trouble`."""

    @property
    def saved(self) -> int:
        """Struct pages that the candidate does not initialise at boot."""
        return int(self.boot[0]["struct_pages_initialized"]) - int(self.boot[1]["struct_pages_initialized"])


def sample(db: sqlite3.Connection, most: int = MOST) -> list[str]:
    """Texts of programs, the longest of each architecture that are not too long."""
    rows = db.execute(
        "select text from (select text, arch, row_number() over (partition by arch order by operations desc, program) "
        "as place from programs where operations <= ?) order by place, arch limit ?",
        (LONGEST, most),
    )
    return [row[0] for row in rows]


def examine(folder: Path) -> Claims:
    """Run the programs; some seconds."""
    try:
        settings = Settings.load(folder)
    except CampaignError:
        settings = Settings()
    with connect(folder) as db:
        texts = sample(db)
    job = {"do": "claims", "programs": texts, "booted": BOOTED, **settings.planted()}
    ended = Helper(job, LIMIT + len(texts)).wait()
    if ended.answer is None:
        return Claims(0, [], ended.how, [])
    return Claims(len(texts), ended.answer["promises"], "", ended.answer["boot"])


class Examiner:
    """Claims for a server: examined in the background, anew when the corpus has grown by half."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: Claims | None = None
        self._lock = Lock()
        self._size = 0
        self._at_work = False

    def ask(self, programs: int) -> Claims | None:
        """What is known by now, None before the first examination is done; `programs` is the size of the corpus."""
        with self._lock:
            stale = self.known is None or programs > self._size * 1.5
            if stale and programs and not self._at_work:
                self._at_work = True
                self._size = programs
                Thread(target=self._work, daemon=True).start()
            return self.known

    def _work(self) -> None:
        try:
            known = examine(self.folder)
        except Exception as error:
            known = Claims(0, [], str(error), [])
        with self._lock:
            self.known = known
            self._at_work = False
