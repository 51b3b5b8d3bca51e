"""What a run needs, from the cache or from the archive: a kernel with its modules, and an emulator.

The cache is `.cache/live` of the checkout, or vmemmap-fuzz below $XDG_CACHE_HOME. Each kernel is a folder that appears
by rename when it is complete, with a manifest of the packages' sha256, so that an interrupted download is simply done
again. Beyond `KEEP` kernels the longest unused ones go.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from live.beside import LINE
from live.errors import LiveError
from live.initramfs import build
from live.packages import Apt, PackageError
from live.qemu import Emulator

FLAVOUR: Final = "amd64"
KEEP: Final = 6
EMULATOR: Final = "qemu-system-x86_64"
EMULATOR_PACKAGES: Final = ("qemu-system-x86", "seabios")


class Unavailable(LiveError):
    """Something needed cannot be had: one line for people."""


@dataclass(frozen=True, slots=True)
class Kit:
    """A kernel, an initramfs for it, and an emulator."""

    version: str
    vmlinuz: str
    initrd: str
    emulator: Emulator
    accel: str = "tcg"


def cache_folder() -> Path:
    """Where downloads are kept."""
    home = os.environ.get("XDG_CACHE_HOME")
    return Path(home) / "vmemmap-fuzz" if home else Path(__file__).resolve().parent.parent / ".cache" / "live"


Say = Callable[[str], None]
"""Told about work that takes a while."""


def make_kit(
    kernel: str = LINE,
    modules: Path | None = None,
    cache: Path | None = None,
    accel: str = "auto",
    say: Say = lambda text: None,
) -> Kit:
    """A kit for a kernel: the path of an image, or a version prefix such as 7.3 or 6.12.113."""
    cache = cache or cache_folder()
    apt = _lazy_apt(cache, say)
    if Path(kernel).exists():
        image, version = check_image(Path(kernel)), kernel
        if modules is not None:
            check_modules(modules)
        qemu = find_emulator(cache, apt, say)
    elif re.fullmatch(r"\d+(\.\d+)*", kernel):
        qemu = find_emulator(cache, apt, say)
        folder = fetch_kernel(cache, apt, kernel, say)
        facts = json.loads((folder / "manifest.json").read_text())
        image, version = folder / facts["vmlinuz"], facts["version"]
        modules = modules or (folder / facts["modules"] if facts["modules"] else None)
    else:
        raise Unavailable(f"{kernel} is neither a file nor a version such as {LINE}")
    return Kit(version, str(image), str(build(cache, modules)), qemu, accelerator(accel))


def check_image(image: Path) -> Path:
    """An image that a boot loader would take (Documentation/arch/x86/boot.rst: "HdrS" at 0x202)."""
    try:
        with image.open("rb") as stream:
            header = stream.read(0x206)
    except OSError as error:
        raise Unavailable(f"{image}: {error.strerror}") from None
    if header[0x202:0x206] != b"HdrS":
        raise Unavailable(f"{image} is no Linux kernel for x86 (a bzImage was expected)")
    return image


def check_modules(folder: Path) -> None:
    """A module tree, such as lib/modules/RELEASE."""
    if not folder.is_dir():
        raise Unavailable(f"{folder} is no folder (a module tree such as lib/modules/7.3.4 was expected)")
    if next(folder.rglob("*.ko*"), None) is None:
        raise Unavailable(f"there is no kernel module in {folder} (lib/modules/RELEASE was expected)")


def accelerator(wanted: str) -> str:
    """ "kvm" or "tcg" for "auto": KVM if this machine's CPU can and this user may."""
    if wanted != "auto":
        return wanted
    flags = Path("/proc/cpuinfo").read_text().split()
    usable = os.access("/dev/kvm", os.R_OK | os.W_OK) and ("vmx" in flags or "svm" in flags)
    return "kvm" if usable else "tcg"


def _lazy_apt(cache: Path, say: Say) -> Callable[[], Apt]:
    def make() -> Apt:
        say("reading the archive's lists of packages")
        return Apt(cache / "apt")

    return functools.cache(make)


# -- emulator -------------------------------------------------------------------------------------------------------


def find_emulator(cache: Path, apt: Callable[[], Apt], say: Say = lambda text: None) -> Emulator:
    """The machine's emulator, or one unpacked below the cache."""
    installed = shutil.which(EMULATOR)
    if installed:
        return Emulator((installed,))
    return private_emulator(cache, apt, say)


def private_emulator(cache: Path, apt: Callable[[], Apt], say: Say) -> Emulator:
    """Debian's emulator with everything that it needs, unpacked below the cache and run by its own loader."""
    root = cache / "qemu"
    if not root.exists():
        part = cache / "qemu.part"
        shutil.rmtree(part, ignore_errors=True)
        packages = apt().closure(EMULATOR_PACKAGES)
        say(f"fetching {EMULATOR} ({len(packages)} packages)")
        sums = apt().unpack(packages, part)
        (part / "manifest.json").write_text(json.dumps({"sha256": sums}, indent=1) + "\n")
        part.rename(root)
    loader = next(
        (p for p in (root / "lib64/ld-linux-x86-64.so.2", root / "usr/lib64/ld-linux-x86-64.so.2") if p.exists()), None
    )
    if loader is None:
        raise Unavailable("the unpacked emulator has no loader: install the package qemu-system-x86")
    folders = [p for base in ("usr/lib", "lib") for p in _library_folders(root / base / "x86_64-linux-gnu")]
    command = (str(loader), "--library-path", ":".join(map(str, folders)), str(root / "usr/bin" / EMULATOR))
    return Emulator(
        command,
        tuple(str(root / "usr/share" / name) for name in ("qemu", "seabios")),
        str(root / "usr/lib/x86_64-linux-gnu/qemu"),
    )


def _library_folders(folder: Path) -> list[Path]:
    return [p for p in (folder, *sorted(folder.glob("*/"))) if any(p.glob("*.so*"))]


# -- kernels --------------------------------------------------------------------------------------------------------


def upstream(version: str) -> tuple[int, ...]:
    """(6, 12, 117) of 6.12.117-1~deb12u1; a release candidate ends in -1, so that it sorts below its release."""
    found = re.match(r"(?:\d+:)?(\d+(?:\.\d+)*)(~rc\d+)?", version)
    if found is None:
        return ()
    numbers = tuple(int(x) for x in found[1].split("."))
    return (*numbers, -1) if found[2] else numbers


def matches(version: str, prefix: str) -> bool:
    """Whether a package version is of that line: 6.1 is 6.1.192 but not 6.12."""
    wanted = tuple(int(x) for x in prefix.split(".")) if prefix else ()
    return upstream(version)[: len(wanted)] == wanted


def offered(apt: Apt, prefix: str = "") -> list[tuple[str, str]]:
    """(package, version) of the kernels on offer, oldest first; meta packages are left out."""
    pattern = rf"^linux-image-[0-9].*-{FLAVOUR}$"
    names = [n for n in apt.names(pattern) if not re.search(r"-(cloud|rt)-amd64$", n)]
    real = [n for n in names if not re.fullmatch(rf"linux-image-\d+\.\d+-{FLAVOUR}", n)]
    rows = [(n, v) for n, v in apt.versions(real) if matches(v, prefix)]
    order = functools.cmp_to_key(_compare)
    return sorted(rows, key=lambda row: order(row[1]))


def _compare(a: str, b: str) -> int:
    if upstream(a) != upstream(b):
        return -1 if upstream(a) < upstream(b) else 1
    if a == b:
        return 0
    return 1 if subprocess.run(["dpkg", "--compare-versions", a, "gt", b], check=False).returncode == 0 else -1


def parts(apt: Apt, name: str, version: str) -> list[str] | None:
    """The packages that make up a kernel, as name=version; None when the archive has dropped some of them."""
    wanted = [
        (n, v or version) for n, v in apt.depends(name, version) if re.match(r"linux-(binary|modules|base)-\d.*-", n)
    ]
    there = set(apt.versions({n for n, _ in wanted}))
    needed = [(n, v) for n, v in wanted if not n.startswith("linux-base-")]
    if any(p not in there for p in needed):
        return None
    return [f"{name}={version}", *(f"{n}={v}" for n, v in needed)]


def fetch_kernel(cache: Path, apt: Callable[[], Apt], prefix: str, say: Say = lambda text: None) -> Path:
    """The newest complete kernel of a line; from the cache when there is one."""
    kept = cached(cache, prefix)
    if kept:
        os.utime(kept[-1])
        return kept[-1]
    why = ""
    try:
        for name, version in reversed(offered(apt(), prefix)):
            packages = parts(apt(), name, version)
            if packages is None:
                why = f"{version} is incomplete in the archive"
                continue
            say(f"fetching Linux {version} ({len(packages)} packages)")
            try:
                folder = _unpack(cache, apt(), name, version, packages)
            except PackageError as error:
                why = str(error)
                continue
            prune(cache, folder)
            return folder
    except PackageError as error:
        raise Unavailable(f"{error}{_instead(cache, None, prefix)}") from None
    why = f" ({why})" if why else ""
    raise Unavailable(f"no kernel {prefix} to be had{why}{_instead(cache, apt(), prefix)}")


def _instead(cache: Path, apt: Apt | None, prefix: str) -> str:
    """The newest kernel of the same line that can be had, as the end of a sentence."""
    line = ".".join(prefix.split(".")[:2])
    kept = cached(cache, line)
    if kept:
        return f"; the newest {line} in the cache is {json.loads((kept[-1] / 'manifest.json').read_text())['version']}"
    if apt is None:
        return ""
    for where, wanted in ((f"the newest {line} on offer", line), ("the newest kernel on offer", "")):
        complete = (v for name, v in reversed(offered(apt, wanted)) if parts(apt, name, v) is not None)
        version = next(complete, None)
        if version is not None:
            return f"; {where} is {version}"
    return ""


def cached(cache: Path, prefix: str) -> list[Path]:
    """Kernels in the cache of that line, oldest version first."""
    found = []
    for manifest in (cache / "kernels").glob("*/manifest.json"):
        version = json.loads(manifest.read_text())["version"]
        if matches(version, prefix):
            found.append((upstream(version), manifest.parent))
    return [folder for _, folder in sorted(found)]


def _unpack(cache: Path, apt: Apt, name: str, version: str, packages: list[str]) -> Path:
    folder = cache / "kernels" / f"{name}_{re.sub(r'[^A-Za-z0-9.+~-]', '_', version)}"
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    sums = apt.unpack(packages, part / "root")
    image = next(iter([*part.glob("root/boot/vmlinuz-*"), *part.glob("root/usr/lib/modules/*/vmlinuz")]), None)
    if image is None:
        raise Unavailable(f"there is no kernel image in {name}")
    trees = [
        p for p in (*part.glob("root/usr/lib/modules/*"), *part.glob("root/lib/modules/*")) if (p / "kernel").is_dir()
    ]
    facts: dict[str, Any] = {
        "package": name,
        "version": version,
        "vmlinuz": str(image.relative_to(part)),
        "modules": str(trees[0].relative_to(part)) if trees else None,
        "sha256": sums,
    }
    (part / "manifest.json").write_text(json.dumps(facts, indent=1) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return folder


def prune(cache: Path, keep: Path) -> None:
    """Forget the longest unused kernels beyond KEEP."""
    folders = sorted((m.parent for m in (cache / "kernels").glob("*/manifest.json")), key=lambda p: p.stat().st_mtime)
    for folder in [f for f in folders if f != keep][: max(0, len(folders) - KEEP)]:
        shutil.rmtree(folder)
