"""Reading the machine's apt sources, and choosing kernels."""

from pathlib import Path

import pytest

from live.install import cached, matches, prune, upstream
from live.packages import PackageError, Source, machine_sources, parse_deb822, parse_list, with_other_suites

HERE = "http://mirror.example/debian"


def test_one_line_style() -> None:
    text = f"""
# deb {HERE} bullseye main
deb-src {HERE} bookworm main
deb [arch=amd64 signed-by=/k.gpg] {HERE} bookworm main contrib # our mirror
deb {HERE} bookworm-updates contrib
deb {HERE}-security bookworm-security main
"""
    assert list(parse_list(text)) == [
        Source(HERE, "bookworm", "/k.gpg"),
        Source(f"{HERE}-security", "bookworm-security"),
    ]


def test_paragraph_style() -> None:
    text = f"""Types: deb deb-src
URIs: {HERE}
Suites: bookworm
  bookworm-updates
Components: main
Signed-By: /k.gpg

Types: deb
Enabled: no
URIs: {HERE}
Suites: sid
Components: main

Types: deb
URIs: {HERE}
Suites: trixie
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
"""
    assert list(parse_deb822(text)) == [
        Source(HERE, "bookworm", "/k.gpg"),
        Source(HERE, "bookworm-updates", "/k.gpg"),
        Source(HERE, "trixie"),
    ]


def test_machine_sources_are_debian_only(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text(f"deb {HERE}/ bookworm main\ndeb http://other.example/tools stable main\n")
    (tmp_path / "sources.list.d" / "x.list.save").write_text(f"deb {HERE} sid main\n")
    assert [s.suite for s in machine_sources(tmp_path)] == ["bookworm"]


def test_other_suites(tmp_path: Path) -> None:
    ring = tmp_path / "ring.gpg"
    ring.touch()
    own = [Source(f"{HERE}-security", "bookworm-security"), Source(HERE, "bookworm", "/k.gpg")]
    got = with_other_suites(own, ring)
    assert got[:2] == own
    assert [s.suite for s in got[2:]] == [
        *("bookworm-backports", "trixie", "trixie-backports", "forky", "forky-backports", "sid", "experimental")
    ]
    assert {s.signed_by for s in got[2:]} == {str(ring)}


def test_no_archive_named() -> None:
    with pytest.raises(PackageError, match="no Debian archive"):
        with_other_suites([])


def test_versions() -> None:
    assert upstream("6.12.117-1~deb12u1") == (6, 12, 117)
    assert upstream("7.3~rc7-1~exp1") < upstream("7.3.4-1")
    assert matches("6.1.192-2", "6.1")
    assert not matches("6.12.117-1", "6.1")
    assert matches("7.3.4-1~bpo13+1", "7.3.4")


def _kernel(cache: Path, version: str) -> Path:
    folder = cache / "kernels" / f"linux-image_{version}"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(f'{{"version": "{version}"}}')
    return folder


def test_the_cache_offers_the_newest_of_a_line(tmp_path: Path) -> None:
    for version in ("7.3.4-1", "6.12.99-1", "6.12.117-1"):
        _kernel(tmp_path, version)
    (tmp_path / "kernels" / "half.part").mkdir()
    assert [p.name for p in cached(tmp_path, "6.12")] == ["linux-image_6.12.99-1", "linux-image_6.12.117-1"]


def test_the_cache_is_bounded(tmp_path: Path) -> None:
    folders = [_kernel(tmp_path, f"6.12.{i}-1") for i in range(9)]
    prune(tmp_path, folders[0])
    left = list((tmp_path / "kernels").iterdir())
    assert len(left) == 6
    assert folders[0] in left
