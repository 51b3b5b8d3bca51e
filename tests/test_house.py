"""Rules of the house that no linter checks."""

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("mm", "reference", "candidate", "fuzz", "live", "zoo")
MAX_LINES = 600

# Written in pieces, so that this file keeps its own rule.
REGISTRIES = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("deb", "debian", "org"),
        ("security", "debian", "org"),
        ("archive", "ubuntu", "com"),
        ("registry", "npmjs", "org"),
        ("registry", "yarnpkg", "com"),
        ("crates", "io"),
        ("proxy", "golang", "org"),
    )
]
HOME = re.compile(r"(?<![\w.-])/(?:(?:home|Users)/\w|root/)")


def tracked() -> list[Path]:
    """Every file in the index that is still on disk."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()]


def tracked_lines() -> list[tuple[str, str]]:
    """Each line of each tracked text file, after `file:line`."""
    lines = []
    for path in tracked():
        data = path.read_bytes()
        if b"\0" not in data:
            text = data.decode(errors="replace").splitlines()
            lines += [(f"{path.relative_to(ROOT)}:{number}", line) for number, line in enumerate(text, 1)]
    return lines


def modules() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def test_no_registry_is_named() -> None:
    assert [where for where, line in tracked_lines() if any(host in line for host in REGISTRIES)] == []


def test_no_path_of_one_machine() -> None:
    checkout = str(ROOT)
    # A checkout right below / has a path too short to search for.
    here = [checkout] if checkout.count("/") > 1 else []
    found = [where for where, line in tracked_lines() if HOME.search(line) or any(path in line for path in here)]
    assert found == []


def test_every_module_has_a_docstring() -> None:
    assert [str(p.relative_to(ROOT)) for p in modules() if not ast.get_docstring(ast.parse(p.read_bytes()))] == []


def test_no_module_is_too_long() -> None:
    lengths = {str(p.relative_to(ROOT)): len(p.read_bytes().splitlines()) for p in modules()}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}
