"""With a real kernel: `make live`, or VMEMMAP_LIVE=1."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fuzz.program.model import Program, make_op
from live.beside import BOOT
from live.conform import beside_model, conform, make_template
from live.crew import Task, run_crew
from live.diff import diff
from live.errors import LiveError
from live.generate import PROFILES, Profile
from live.install import Kit, Unavailable, make_kit
from live.pagetable import Leaf
from live.pair import Pair
from live.runner import Step
from mm.machine import Machine
from zoo import find, planted

M, G = 1 << 20, 1 << 30
ROOT = Path(__file__).resolve().parents[2]

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


def test_a_poisoned_huge_page(kit: Kit) -> None:
    """Hard offline of a free optimized page: its memmap is restored (+7), 511 of its pages are free again
    (separate-paths.md 3.21; the row "poison/offline a free HVO page"); unpoisoned, so is the last.
    """
    profile = Profile(Machine(ram=G))
    template = make_template(kit, profile)
    pair = Pair(profile, template)
    try:
        assert pair.step(make_op("hugetlb resize", size=2 * M, to=2)) == Step((0, 0))
        before = pair.seen
        at = max(before.folios) + 3 << 12
        for name, nr_memmap, poisoned in (("memory hard_offline", 7, 1), ("memory unpoison", 7, 0)):
            op = make_op(name, at=at)
            assert pair.refusal(op) is None
            assert pair.step(op) == Step((0, 0))
            assert pair.seen.nr_memmap - before.nr_memmap == nr_memmap
            assert pair.seen.poisoned == poisoned
        assert len(pair.seen.folios) == 1
    finally:
        pair.close()
        template.close()


def test_a_device_of_the_driver_fsdev_shares_nothing(kit: Kit) -> None:
    """drivers/dax/fsdev.c does not set vmemmap_shift, so that a section has all of its 512 vmemmap pages."""
    profile = Profile(Machine(ram=G))
    template = make_template(kit, profile)
    pair = Pair(profile, template)
    try:
        before = pair.seen
        op = make_op("dax create", "d0", at=(0x48000000,), size=(128 * M,), driver="fsdev")
        assert pair.refusal(op) is None
        assert pair.step(op) == Step((0, 0))
        assert pair.seen.nr_memmap - before.nr_memmap == 512
        assert pair.step(make_op("dax rebind", d="d0", driver="devdax")) == Step((0, 0))
        assert pair.seen.nr_memmap - before.nr_memmap == 128
    finally:
        pair.close()
        template.close()


def test_random_programs(kit: Kit) -> None:
    total = conform(kit, 6, seed=1, workers=1)
    assert total.programs == 6
    assert total.operations == 6 * 20
    assert [found.to_json() for found in total.disagreements] == []


def test_a_memory_map_in_the_device(kit: Kit) -> None:
    """devdax 1G and 2M, map dev: nr_memmap counts every page of it though no RAM is used (row "map dev (altmap)")."""
    profile = Profile(Machine(ram=4 * G))
    template = make_template(kit, profile)
    at, size = next(n for n in template.namespaces if n[1] == 3 * G)
    pair = Pair(profile, template)
    try:
        for align in (2 * M, G, 4096):
            before = pair.seen
            create = make_op("dax create", "d0", at=(at,), size=(size,), align=align, altmap=True)
            assert pair.step(create) == Step((0, 0))
            assert pair.seen.nr_memmap - before.nr_memmap == 12288
            assert all(isinstance(pair.seen.mapping[s], Leaf) for s in range(at >> 27, (at + size) >> 27))
            assert abs(pair.seen.free[0] - before.free[0]) < 100
            assert pair.step(make_op("dax destroy", d="d0")) == Step((0, 0))
            assert pair.seen.nr_memmap == before.nr_memmap
    finally:
        pair.close()
        template.close()


def test_a_model_error_is_found_and_minimized(kit: Kit) -> None:
    """A defect that Linux had, put into the model: the kernel is right, and two lines are left of the program."""
    ops = (
        make_op("hugetlb resize", size=2 * M, to=5),
        make_op("memory add", "m0", at=G, size=256 * M),
        make_op("dax create", "d0", at=(G + 256 * M,), size=(130 * M,)),
        make_op("dax destroy", d="d0"),
    )
    program = Program(Machine(ram=G), (BOOT, *ops))
    with planted(find("ACC-2026-03")):
        total = run_crew(beside_model(kit), [Task(Profile(program.machine), (program,))], seed=0, workers=1)
    (found,) = total.disagreements
    assert found.finding.field == "nr_memmap"
    assert [op.name for op in found.program.ops] == ["boot", "dax create"]
    assert found.program.ops[1].args["size"] == (2 * M,)
    assert found.minimal
    assert found.repeats
    assert found.triage.startswith("The specification supports the kernel: nr_memmap_pages")


def test_an_image_and_a_module_tree(kit: Kit, tmp_path: Path) -> None:
    """What a developer has built: files, not a package. Two kernels that are the same do not differ."""
    image = tmp_path / "bzImage"
    shutil.copy(kit.vmlinuz, image)
    modules = Path(json.loads((kernel_folder(kit) / "manifest.json").read_text())["modules"])
    own = make_kit(str(image), kernel_folder(kit) / modules)
    assert own.version == str(image)
    total, skipped = diff(kit, own, 4, 11, [ROOT / "corpus" / "seeds" / "pool-grow-shrink-2m.vmm"], workers=1)
    assert skipped == {}
    assert total.programs == 5
    assert [found.to_json() for found in total.disagreements] == []
    wrong = tmp_path / "modules"
    wrong.mkdir()
    (wrong / "device_dax.ko").write_bytes(bytes(64))
    other = make_kit(str(image), wrong)
    with pytest.raises(LiveError, match="does not load"):
        make_template(other, PROFILES[0])


def kernel_folder(kit: Kit) -> Path:
    """The folder of the cache that a fetched kernel lies in."""
    return next(folder for folder in Path(kit.vmlinuz).parents if (folder / "manifest.json").exists())


def test_a_kernel_that_does_not_boot(kit: Kit, tmp_path: Path) -> None:
    image = tmp_path / "bzImage"
    image.write_bytes(Path(kit.vmlinuz).read_bytes()[:1_000_000])
    done = vmemmap_fuzz("live", "conform", "--programs", "1", "--kernel", str(image))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {image} does not boot: ")
    assert len(done.stderr.splitlines()) == 1


def vmemmap_fuzz(*words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "fuzz.cli", *words]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)


# -- processes ------------------------------------------------------------------------------------------------------


def emulators(ancestor: int) -> list[int]:
    """Emulators below a process."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])

    def below(pid: int) -> bool:
        while pid := parents.get(pid, 0):
            if pid == ancestor:
                return True
        return False

    return [pid for pid in parents if below(pid) and b"-nodefaults" in command(pid)]


def command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def open_files(pid: int) -> list[str]:
    out = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            out.append(str(fd.readlink()))
    return out


def unix_sockets() -> set[str]:
    return {line.split()[6] for line in Path("/proc/net/unix").read_text().splitlines()[1:]}


def network_sockets() -> set[str]:
    out = set()
    for name in ("tcp", "tcp6", "udp", "udp6"):
        table = Path(f"/proc/net/{name}")
        if table.exists():
            out |= {line.split()[9] for line in table.read_text().splitlines()[1:]}
    return out


def test_emulators_die_with_kill_9_of_the_command_and_leave_nothing(kit: Kit, tmp_path: Path) -> None:
    words = ["live", "conform", "--programs", "40", "--seed", "3", "--workers", "2", "--reports", str(tmp_path / "r")]
    places = [tmp_path, Path("/dev/shm")]
    before = [set(place.rglob("*")) for place in places]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    with (tmp_path / "out").open("w") as out:
        parent = subprocess.Popen([sys.executable, "-m", "fuzz.cli", *words], cwd=ROOT, env=environment, stderr=out)
    end = time.monotonic() + 60
    found: list[int] = []
    while len(found) < 2 and time.monotonic() < end:
        time.sleep(0.1)
        found = emulators(parent.pid)
    assert len(found) == 2
    for pid in found:
        assert os.getpgid(pid) == pid  # a process group of its own
        files = open_files(pid)
        sockets = {name[8:-1] for name in files if name.startswith("socket:[")}
        assert len(sockets) >= 2  # the agent's and the monitor's
        assert sockets <= unix_sockets()
        assert not sockets & network_sockets()
        assert not [name for name in files if name.startswith((str(tmp_path), "/dev/shm"))]
    workers = children(parent.pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    gone = time.monotonic() + 10
    while any(alive(pid) for pid in (*found, *workers)) and time.monotonic() < gone:
        time.sleep(0.05)
    assert not [pid for pid in (*found, *workers) if alive(pid)]
    after = [set(place.rglob("*")) for place in places]
    assert after[0] - before[0] == {tmp_path / "out"}
    assert not after[1] - before[1]


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_profiles_differ() -> None:
    assert len(set(PROFILES)) == len(PROFILES)
