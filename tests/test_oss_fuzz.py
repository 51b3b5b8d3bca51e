"""oss-fuzz/: the build script, with a stand-in for what only the build image has, and the fuzzer that comes of it."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fuzz.engines.libfuzzer import unavailable
from fuzz.program.codec import WIDTH, decode

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 240

COMPILE = """#!/bin/sh -eu
# The image's makes a package with PyInstaller and this wrapper around it.
cp "$1" "$OUT/vmemmap_fuzzer.py"
printf '#!/bin/sh\\nexec "%s" -P "%s" "$@"\\n' "$PYTHON" "$OUT/vmemmap_fuzzer.py" > "$OUT/vmemmap_fuzzer"
chmod +x "$OUT/vmemmap_fuzzer"
"""


@pytest.mark.skipif(unavailable() is not None, reason=unavailable() or "")
def test_build_and_run(tmp_path: Path) -> None:
    out, work, tools, installed = (tmp_path / name for name in ("out", "work", "tools", "installed"))
    for folder in (out, work, tools):
        folder.mkdir()
    (tools / "compile_python_fuzzer").write_text(COMPILE)
    (tools / "compile_python_fuzzer").chmod(0o755)
    (tools / "python3").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (tools / "python3").chmod(0o755)
    # pip as the script calls it, but into a folder of its own and without asking anybody for anything.
    options = f'--no-deps --no-build-isolation --no-index --target "{installed}"'
    (tools / "pip3").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pip "$@" {options}\n')
    (tools / "pip3").chmod(0o755)
    checkout = tmp_path / "checkout"
    shutil.copytree(
        ROOT, checkout, ignore=shutil.ignore_patterns(".*", "campaigns", "reports", "build", "dist", "__pycache__")
    )
    environment = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "OUT": str(out),
        "WORK": str(work),
        "SRC": str(tmp_path),
        "PYTHON": sys.executable,
        "PYTHONPATH": str(installed),
    }
    built = subprocess.run(
        ["bash", "-eu", "oss-fuzz/build.sh"],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    assert (installed / "fuzz" / "cli.py").exists()

    with zipfile.ZipFile(out / "vmemmap_fuzzer_seed_corpus.zip") as pack:
        pack.extractall(tmp_path / "corpus")
    # Those that build.sh packs.
    programs = sum(len(list((ROOT / "corpus" / name).rglob("*.vmm"))) for name in ("seeds", "regressions"))
    seeds = list((tmp_path / "corpus").iterdir())
    assert 0.9 * programs < len(seeds) <= programs
    assert all(decode(path.read_bytes()).ops for path in seeds)
    words = re.findall(r'^record\d+="((?:\\x[0-9a-f]{2})+)"$', (out / "vmemmap_fuzzer.dict").read_text(), re.MULTILINE)
    assert len(words) > 50
    assert {len(word) for word in words} == {4 * WIDTH}

    def run(*args: str, defect: str = "") -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(out / "vmemmap_fuzzer"), *args],
            cwd=tmp_path,
            env={**environment, "VMEMMAP_FUZZ_DEFECT": defect},
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )

    # The seed corpus is run whole first, and counts.
    runs = len(seeds) + 50
    clean = run(f"-runs={runs}", f"-dict={out / 'vmemmap_fuzzer.dict'}", str(tmp_path / "corpus"))
    assert clean.returncode == 0, clean.stderr[-3000:]
    assert f"Dictionary: {len(words)} entries" in clean.stderr
    assert f"Done {runs} runs" in clean.stderr
    # -runs=0 only reads the corpus: some seed makes a device, and the defect shows.
    planted = run("-runs=0", str(tmp_path / "corpus"), defect="ACC-2026-03")
    assert planted.returncode == 77
    # Which seed comes first decides whether the comparison speaks or the law of one side.
    assert re.search(r"FindingError: accounting\|(reference: )?nr_memmap\|dax create", planted.stdout + planted.stderr)
    assert list(tmp_path.glob("crash-*"))
