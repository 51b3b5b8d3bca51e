"""The server as a process: what it says, what it answers, how it ends."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fuzz.browser import Visit
from tests.fuzz.campaign.running import wait_for
from tests.fuzz.dashboard.places import Made

pytest.importorskip("datasette")


class Server:
    """A running `vmemmap-fuzz serve`."""

    def __init__(self, *args: str | Path, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fuzz.cli", "serve", *map(str, args)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline().strip()

    def get(self, path: str) -> tuple[int, str]:
        """Status and body."""
        where = re.match(r"http://([\d.]+):(\d+)/", self.said)
        assert where, self.said
        connection = http.client.HTTPConnection(where[1], int(where[2]), timeout=60)
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        return answer.status, body

    def end(self, number: int = signal.SIGINT) -> tuple[int, str]:
        """Ask it to end; its exit code, and what it complained of."""
        self.process.send_signal(number)
        _, complaints = self.process.communicate(timeout=60)
        return self.process.returncode, complaints


@pytest.fixture(scope="module")
def server(made: Made) -> Iterator[Server]:
    """One for the tests that only ask."""
    running = Server(made.folder, made.folder, "--port", "0", "--reports", made.reports)
    yield running
    assert running.end() == (0, "")


def test_every_page_is_there(server: Server, made: Made) -> None:
    night = "/-/campaign/night"
    for path, words in {
        "/": "Campaign night",
        f"{night}/findings": "nr_memmap",
        f"{night}/finding/{made.record}": "Step by step",
        f"{night}/finding/{made.record}/report.html": "the page",
        f"{night}/finding/{made.record}/repro.vmm": "vmm 1",
        f"{night}/coverage": "loongarch64",
        f"{night}/corpus?text=dax+create&arch=x86_64": "dax create",
        "/-/campaign/night-2/overview": "Campaign night-2",
        "/-/compare": "night and night-2",
        "/night/findings": "one_minimal",  # Datasette's table
    }.items():
        status, body = server.get(path)
        assert (status, words in body) == (200, True), path


def test_the_page_of_a_program(server: Server) -> None:
    link = re.search(r'href="(/-/campaign/night/program/[0-9a-f]{64})"', server.get("/-/campaign/night/corpus")[1])
    assert link
    status, body = server.get(link[1])
    assert status == 200
    assert "boot ok" in body


@pytest.mark.parametrize(
    "path",
    [
        "/-/campaign/day/overview",
        "/-/campaign/night/finding/abcdef",
        "/-/campaign/night/program/abcdef",
        "/-/campaign/night/finding/abcdef/report.html",
        "/-/campaign/../../etc/passwd",
        "/nothing",
    ],
)
def test_what_is_not_there(server: Server, path: str) -> None:
    assert server.get(path)[0] == 404


def test_nothing_can_be_written(server: Server) -> None:
    status, body = server.get("/night.json?sql=delete+from+findings")
    assert status == 400
    assert "SELECT" in json.loads(body)["error"] if body.startswith("{") else "SELECT" in body


def test_promises_come_while_one_waits(server: Server) -> None:
    page = wait_for(lambda: body if "struct pages fewer" in (body := server.get("/")[1]) else None)
    assert "dax-one-page-more" in page


def test_a_browser_opens_it(server: Server, visit: Callable[[str], Visit]) -> None:
    for path in (
        "",
        "-/campaign/night/corpus",
        "night/findings",
    ):
        address = server.said + path
        seen = visit(address)
        assert "night" in seen.dom
        assert seen.console == [], path
        # Our pages need nothing but themselves; Datasette's have a style sheet and scripts, which are its own.
        assert bool(seen.requests) == (path == "night/findings"), path
        assert all(url.startswith(server.said) for url in seen.requests), seen.requests


def test_pages_follow_a_campaign_that_runs(made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "night"
    shutil.copytree(made.folder, folder)
    running = Server(folder, "--port", "0")
    db = sqlite3.connect(folder / "campaign.db")
    with db:
        db.execute("update statistics set programs = 123456")
    assert "123,456" in running.get("/")[1]
    db.close()
    # What a campaign does with an index that breaks while it runs: another file takes its place.
    (folder / "campaign.db").rename(folder / "campaign.db.broken")
    assert running.get("/")[0] == 503
    shutil.copy(made.folder / "campaign.db", folder / "campaign.db")
    assert "123,456" not in running.get("/")[1]
    assert running.end(signal.SIGTERM) == (0, "")


def test_a_socket_in_the_file_system(made: Made, tmp_path: Path) -> None:
    path = tmp_path / "s"
    running = Server(made.folder, "--unix-socket", path)
    assert running.said == f"listening on {path}"
    assert path.stat().st_mode & 0o077 == 0
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"GET / HTTP/1.0\r\nHost: x\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 200")
    assert running.end() == (0, "")
    assert not path.exists()


def test_elsewhere_than_loopback_a_token_is_made(made: Made) -> None:
    running = Server(made.folder, "--host", "0.0.0.0", "--port", "0")
    address = re.fullmatch(r"http://0\.0\.0\.0:(\d+)/\?token=(\S{43})", running.said)
    assert address
    assert running.get("/")[0] == 401
    assert running.get("/sc.json?_shape=array")[0] == 401
    request = urllib.request.Request(
        f"http://127.0.0.1:{address[1]}/", headers={"Authorization": f"Bearer {address[2]}"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert b"Campaign night" in answer.read()
    assert running.end() == (0, "")


def test_a_token_that_is_given(made: Made) -> None:
    running = Server(made.folder, "--port", "0", VMEMMAP_FUZZ_TOKEN="0123456789abcdef")
    assert running.get("/")[0] == 401
    assert running.get("/?token=0123456789abcdef")[0] == 303
    assert running.end() == (0, "")


def run(*args: str | Path, **environment: str) -> tuple[int, str]:
    out = subprocess.run(
        [sys.executable, *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    return out.returncode, out.stderr


def test_bad_input_is_one_line(made: Made, tmp_path: Path) -> None:
    status, text = run("-m", "fuzz.cli", "serve", tmp_path)
    assert (status, text) == (2, f"error: {tmp_path} is no campaign: there is no campaign.json\n")
    status, text = run("-m", "fuzz.cli", "serve", made.folder, VMEMMAP_FUZZ_TOKEN="short")
    assert status == 2
    assert text.startswith("error: $VMEMMAP_FUZZ_TOKEN: a token is")
    hide = "import sys; sys.modules['datasette'] = None; from fuzz.cli import main; main()"
    status, text = run("-c", hide, "serve", made.folder)
    assert status == 2
    assert text == "error: datasette is not installed: pip install 'vmemmap-fuzz[report]'\n"


def test_report_writes_and_prints(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["-m", "fuzz.cli", "report", made.folder]
    assert run(*words, "-o", out, "--reports", made.reports)[0] == 0
    assert (out / "night" / "index.html").is_file()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes").write_text("x")
    status, text = run(*words, "-o", mine)
    assert status == 2
    assert "is no report" in text
    printed = subprocess.run([sys.executable, *map(str, words), "--json"], capture_output=True, check=True).stdout
    assert json.loads(printed)["campaigns"][0]["last"]["programs"] == 40
