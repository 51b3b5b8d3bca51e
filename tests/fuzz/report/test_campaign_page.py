"""A campaign's page says what its index says."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlite_utils import Database

from fuzz.report.campaign import campaign_page
from fuzz.store.index import Index


def test_page_shows_what_the_index_holds(tmp_path: Path) -> None:
    index = Index(tmp_path)
    index.open()
    for seconds, features in ((1.0, 10), (2.0, 15)):
        row = {"run": 1, "seconds": seconds, "programs": 7, "operations": 1234, "features": features}
        index.add("statistics", {**row, "operations_per_second": 600.0, "chance": 0.125, "findings": 1})
    index.add("findings", {"record": "a", "stage": "report", "signature": "x|<y>", "detail": "d"})
    index.add("findings", {"record": "b", "stage": "found", "signature": "not yet", "detail": "d"})
    index.flush()
    index.close()
    assert Database(str(tmp_path / "campaign.db"))["statistics"].count == 2
    page = campaign_page(tmp_path)
    assert "1,234 operations, 15 features" in page
    assert "x|&lt;y&gt;" in page
    assert "not yet" not in page
    assert page.count("<svg") == 1


def test_no_campaign_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no campaign is there"):
        campaign_page(tmp_path)
