"""Reading the machine's apt sources, and choosing kernels."""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import cast

import pytest

from live.install import Unavailable, cached, fetch_kernel, make_kit, matches, prune, upstream
from live.packages import Apt, PackageError, Source, machine_sources, parse_deb822, parse_list, with_other_suites

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


@pytest.fixture
def unreachable(tmp_path: Path) -> Callable[[], Apt]:
    """An apt whose archive is at an address where nobody listens."""
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "sources.list").write_text("deb http://127.0.0.1:9/debian bookworm main\n")
    return lambda: Apt(tmp_path / "apt", etc=etc)


needs_apt = pytest.mark.skipif(shutil.which("apt-get") is None, reason="needs apt-get")


@needs_apt
def test_archive_out_of_reach_is_one_line(tmp_path: Path, unreachable: Callable[[], Apt]) -> None:
    with pytest.raises(Unavailable) as caught:
        fetch_kernel(tmp_path, unreachable, "7.3")
    text = str(caught.value)
    assert text.startswith("the archive cannot be reached: ")
    assert "127.0.0.1" in text
    assert "\n" not in text


@needs_apt
def test_out_of_reach_the_newest_of_the_line_in_the_cache_is_offered(
    tmp_path: Path, unreachable: Callable[[], Apt]
) -> None:
    _kernel(tmp_path, "7.3.2-1")
    _kernel(tmp_path, "7.3.4-1")
    with pytest.raises(Unavailable, match=r"cannot be reached.*; the newest 7\.3 in the cache is 7\.3\.4-1$"):
        fetch_kernel(tmp_path, unreachable, "7.3.9")
    assert fetch_kernel(tmp_path, unreachable, "7.3").name == "linux-image_7.3.4-1"


class Archive:
    """What the archive offers, instead of an apt: image packages of these versions, complete or not."""

    def __init__(self, complete: dict[str, bool], broken: tuple[str, ...] = ()) -> None:
        self.complete = complete
        self.broken = broken

    def names(self, pattern: str) -> list[str]:
        return ["linux-image-x-amd64"]

    def versions(self, names: Iterable[str]) -> list[tuple[str, str]]:
        there = [(n, v) for n in names for v, whole in self.complete.items() if whole or not n.startswith("linux-m")]
        return sorted(there)

    def depends(self, name: str, version: str) -> list[tuple[str, str | None]]:
        return [("linux-modules-7-amd64", version)]

    def unpack(self, packages: Iterable[str], folder: Path) -> dict[str, str]:
        version = next(iter(packages)).partition("=")[2]
        if version in self.broken:
            raise PackageError(f"{version} cannot be downloaded: 404 Not Found")
        (folder / "boot").mkdir(parents=True)
        (folder / "boot" / "vmlinuz-x").touch()
        return {}


def fetch(tmp_path: Path, archive: Archive, prefix: str) -> str:
    return fetch_kernel(tmp_path, lambda: cast(Apt, archive), prefix).name


def test_the_newest_complete_kernel_of_a_line_is_taken(tmp_path: Path) -> None:
    archive = Archive({"7.3.4-1": True, "7.3.5-1": False, "6.12.9-1": True})
    assert fetch(tmp_path, archive, "7.3") == "linux-image-x-amd64_7.3.4-1"


def test_a_package_that_is_gone_is_passed_over(tmp_path: Path) -> None:
    archive = Archive({"7.3.3-1": True, "7.3.4-1": True}, broken=("7.3.4-1",))
    assert fetch(tmp_path, archive, "7.3") == "linux-image-x-amd64_7.3.3-1"


def test_a_line_that_is_gone_gets_a_reason_and_an_offer(tmp_path: Path) -> None:
    archive = Archive({"7.2.9-1": False, "7.3.4-1": True}, broken=("7.3.4-1",))
    with pytest.raises(Unavailable, match=r"^no kernel 7\.3\.4 to be had \(7\.3\.4-1 cannot be downloaded: 404"):
        fetch(tmp_path, archive, "7.3.4")
    with pytest.raises(Unavailable, match=r"^no kernel 7\.3\.8 to be had; the newest 7\.3 on offer is 7\.3\.4-1$"):
        fetch(tmp_path, archive, "7.3.8")
    with pytest.raises(
        Unavailable, match=r"\(7\.2\.9-1 is incomplete in the archive\); the newest kernel on offer is 7"
    ):
        fetch(tmp_path, archive, "7.2")


def test_a_file_that_is_no_kernel(tmp_path: Path) -> None:
    junk = tmp_path / "vmlinuz"
    junk.write_bytes(bytes(4096))
    with pytest.raises(Unavailable, match="is no Linux kernel for x86"):
        make_kit(str(junk), cache=tmp_path)
    with pytest.raises(Unavailable, match="Is a directory"):
        make_kit(str(tmp_path), cache=tmp_path)
    with pytest.raises(Unavailable, match="neither a file nor a version"):
        make_kit(str(tmp_path / "none"), cache=tmp_path)


def test_a_folder_that_is_no_module_tree(tmp_path: Path) -> None:
    image = tmp_path / "vmlinuz"
    image.write_bytes(bytes(0x202) + b"HdrS" + bytes(100))
    with pytest.raises(Unavailable, match="is no folder"):
        make_kit(str(image), tmp_path / "none", cache=tmp_path)
    with pytest.raises(Unavailable, match="there is no kernel module in"):
        make_kit(str(image), tmp_path, cache=tmp_path)


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
