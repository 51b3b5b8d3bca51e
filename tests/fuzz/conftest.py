"""A browser."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz.browser import Visit

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OWN = "not an origin"
"""How Chromium's log calls the initiator of a request that no page made."""
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@pytest.fixture
def visit(tmp_path: Path) -> Callable[[str], Visit]:
    """Opens an address in a headless browser and looks at it when its scripts are done."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")

    def open_page(address: str) -> Visit:
        log = tmp_path / "net.json"
        out = subprocess.run(
            [
                *(browser, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={log}"),
                *("--enable-logging=stderr", "--virtual-time-budget=3000", "--dump-dom", address),
            ],
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert out.returncode == 0, out.stderr
        events = json.loads(log.read_text())
        start = events["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
        asked = [event.get("params", {}) for event in events["events"] if event["type"] == start]
        # The browser has business of its own, which no page began.
        urls = {request["url"] for request in asked if request.get("initiator", OWN) != OWN}
        return Visit(
            out.stdout,
            [line for line in out.stderr.splitlines() if "CONSOLE" in line],
            sorted(url for url in urls if not url.startswith(("file:", "data:"))),
        )

    return open_page
