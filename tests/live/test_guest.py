"""With a real kernel: `make live`, or VMEMMAP_LIVE=1."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fuzz.program.model import make_op
from live.conform import conform, make_template
from live.generate import PROFILES, Profile
from live.install import Kit, Unavailable, make_kit
from live.pair import Pair
from live.runner import Step
from mm.machine import Machine

M, G = 1 << 20, 1 << 30

pytestmark = pytest.mark.skipif(
    os.environ.get("VMEMMAP_LIVE") != "1", reason="needs an emulator and a kernel from the archive: make live"
)


@pytest.fixture(scope="module")
def kit() -> Kit:
    try:
        return make_kit()
    except Unavailable as error:
        pytest.skip(str(error))


def test_the_measured_table(kit: Kit) -> None:
    """First huge page of a zone: +1 kept, 8 boot frames freed, one table split (separate-paths.md, 3.7)."""
    profile = Profile(Machine(ram=G))
    template = make_template(kit, profile)
    pair = Pair(profile, template)
    try:
        before = pair.seen
        step = pair.step(make_op("hugetlb resize", size=2 * M, to=1))
        after = pair.seen
        assert step == Step((0, 0))
        assert after.nr_memmap - before.nr_memmap == 1
        assert after.nr_memmap_boot - before.nr_memmap_boot == -8
        assert after.nr_page_table_pages - before.nr_page_table_pages == 1
        assert after.managed - before.managed == 8
    finally:
        pair.close()
        template.close()


def test_random_programs(kit: Kit) -> None:
    total = conform(kit, 6, seed=1, workers=1)
    assert total.programs == 6
    assert total.operations == 6 * 20
    assert [found.to_json() for found in total.disagreements] == []


def test_the_emulator_dies_with_its_parent(kit: Kit) -> None:
    text = (
        "import sys, time\n"
        "from live.conform import make_template\n"
        "from live.generate import PROFILES\n"
        "from live.install import make_kit\n"
        "guest = make_template(make_kit(), PROFILES[0]).start()\n"
        "print(guest.qemu.process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    root = Path(__file__).resolve().parents[2]
    parent = subprocess.Popen([sys.executable, "-c", text], cwd=root, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert Path(f"/proc/{child}").exists()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()


def test_profiles_differ() -> None:
    assert len(set(PROFILES)) == len(PROFILES)
