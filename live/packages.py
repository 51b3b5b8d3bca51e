"""Debian packages without touching the machine: an apt with its own lists, sources, cache and status file.

The archive's address and the keys it is signed with come from the machine's own apt sources; suites that those do not
name (backports, the releases after this one) are asked for at the same address. Nothing is installed: packages are
downloaded, where apt checks hashes and signatures, and unpacked into a folder. A suite that the archive does not carry
is no error.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from live.errors import LiveError

ETC = Path("/etc/apt")
RELEASES = ("bullseye", "bookworm", "trixie", "forky")
ALWAYS = ("sid", "experimental")
FRESH = 24 * 3600
"""Seconds for which the lists are not fetched anew."""
ALL_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
"""A later release may be signed by a key that the file of one release lacks."""


class PackageError(LiveError):
    """Packages cannot be had: one sentence."""


@dataclass(frozen=True, slots=True)
class Source:
    """One place to get packages from, as the machine's own configuration names it."""

    uri: str
    suite: str
    signed_by: str = ""

    @property
    def security(self) -> bool:
        """Whether it is an archive of security updates, which lies at an address of its own."""
        return self.suite.endswith(("-security", "/updates"))

    def line(self) -> str:
        """As a line of sources.list."""
        key = f" signed-by={self.signed_by}" if self.signed_by else ""
        return f"deb [arch=amd64{key}] {self.uri} {self.suite} main"


def parse_list(text: str) -> Iterator[Source]:
    """The sources of a one-line-style file that offer binary packages of main."""
    for line in text.splitlines():
        found = re.match(r"\s*deb\s+(?:\[([^]]*)\]\s*)?(\S+)\s+(\S+)\s+(.*)", line)
        if found and "main" in found[4].split("#")[0].split():
            key = re.search(r"signed-by=(\S+)", found[1] or "")
            yield Source(found[2], found[3], key[1] if key else "")


def parse_deb822(text: str) -> Iterator[Source]:
    """The same for a file of paragraphs."""
    for paragraph in re.split(r"\n\s*\n", text):
        fields: dict[str, list[str]] = {}
        name = ""
        for line in paragraph.splitlines():
            if line.startswith("#"):
                continue
            if line[:1].isspace():
                fields.get(name, []).extend(line.split())
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.lower()
                fields[name] = value.split()
        if "deb" not in fields.get("types", []) or "main" not in fields.get("components", []):
            continue
        if fields.get("enabled", ["yes"])[0].lower() == "no":
            continue
        key = fields.get("signed-by", [""])[0]
        for uri in fields.get("uris", []):
            for suite in fields.get("suites", []):
                # An inlined key cannot be named on one line; the combined ring stands in for it.
                yield Source(uri, suite, key if key.startswith("/") else "")


def machine_sources(etc: Path = ETC) -> list[Source]:
    """The machine's Debian sources."""
    out: list[Source] = []
    for path in [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]:
        if not path.is_file():
            continue
        text = path.read_text(errors="replace")
        out += parse_deb822(text) if path.suffix == ".sources" else parse_list(text) if path.suffix == ".list" else []
    return [s for s in out if re.search(r"/debian(-security)?/?$", s.uri)]


def with_other_suites(own: list[Source], keys: Path = ALL_KEYS) -> list[Source]:
    """The machine's sources, and at the same addresses backports and the releases after this one."""
    main = next((s for s in own if not s.security), None)
    if main is None:
        raise PackageError("no Debian archive is named in this machine's apt sources")
    release = re.split(r"[-/]", main.suite)[0]
    later = RELEASES[RELEASES.index(release) + 1 :] if release in RELEASES else ()
    suites = [f"{release}-backports", *(name + end for name in later for end in ("", "-backports")), *ALWAYS]
    ring = str(keys) if keys.exists() else main.signed_by
    out = list(own)
    known = {(s.uri, s.suite) for s in own}
    out += [Source(main.uri, suite, ring) for suite in suites if (main.uri, suite) not in known]
    return out


class Apt:
    """apt-get and apt-cache with a state of their own in `folder`."""

    def __init__(self, folder: Path, max_age: float = FRESH, etc: Path = ETC) -> None:
        if shutil.which("apt-get") is None:
            raise PackageError("there is no apt-get on this machine")
        for name in ("lists/partial", "cache/archives/partial", "empty"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "status").touch()
        sources = folder / "sources.list"
        own = machine_sources(etc)
        text = "".join(source.line() + "\n" for source in with_other_suites(own))
        self.release = next(s.suite for s in own if not s.security)
        """The machine's own release."""
        changed = not sources.exists() or sources.read_text() != text
        sources.write_text(text)
        settings = {
            "Dir::Etc::sourcelist": sources,
            "Dir::Etc::sourceparts": folder / "empty",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": folder / "empty",
            "Dir::State::lists": folder / "lists",
            "Dir::State::status": folder / "status",
            "Dir::Cache": folder / "cache",
            "APT::Architecture": "amd64",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            "Acquire::Retries": "1",
            "Acquire::http::Timeout": "20",
            "Acquire::https::Timeout": "20",
        }
        self.options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        stamp = folder / "updated"
        if changed or not stamp.exists() or time.time() - stamp.stat().st_mtime > max_age:
            done = self._run("apt-get", "-q", "update")
            if not any((folder / "lists").glob("*_Packages*")):
                raise PackageError(f"the archive cannot be reached: {_why(done.stderr or done.stdout)}")
            stamp.touch()

    def _run(self, tool: str, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run([tool, *self.options, *words], capture_output=True, text=True, cwd=cwd, check=False)

    def names(self, pattern: str) -> list[str]:
        """Package names that match a regular expression."""
        out = self._run("apt-cache", "search", "--names-only", pattern).stdout
        return [line.split()[0] for line in out.splitlines() if line.strip()]

    def versions(self, names: Iterable[str]) -> list[tuple[str, str]]:
        """(package, version) on offer."""
        words = list(names)
        if not words:
            return []
        rows = [line.split("|") for line in self._run("apt-cache", "madison", *words).stdout.splitlines()]
        return list(dict.fromkeys((r[0].strip(), r[1].strip()) for r in rows if len(r) == 3 and "Packages" in r[2]))

    def depends(self, name: str, version: str) -> list[tuple[str, str | None]]:
        """(package, exact version or None) of what a package depends on."""
        text = self._run("apt-cache", "show", f"{name}={version}").stdout
        found = re.search(r"^Depends: (.*)$", text, re.M)
        out: list[tuple[str, str | None]] = []
        for item in found[1].split(",") if found else []:
            one = re.match(r"\s*([a-z0-9.+-]+)(?::\w+)?\s*(?:\(=\s*([^)]+)\))?", item)
            if one:
                out.append((one[1], one[2]))
        return out

    def closure(self, roots: Iterable[str]) -> list[str]:
        """The packages that some packages need, themselves included, by apt's own solver for an empty system of this
        release.
        """
        words = ("-q", "-y", "-t", self.release, "--no-install-recommends", "--print-uris", "install")
        done = self._run("apt-get", *words, *roots)
        if done.returncode:
            raise PackageError(f"apt finds no way to have {' '.join(roots)}: {_why(done.stderr)}")
        rows = [line.split()[1].split("_") for line in done.stdout.splitlines() if line.startswith("'")]
        return [f"{row[0]}={unquote(row[1])}" for row in rows]

    def unpack(self, packages: Iterable[str], folder: Path) -> dict[str, str]:
        """Download packages (name or name=version) and unpack them below `folder`; file name -> sha256."""
        debs = folder.with_name(folder.name + ".debs")
        shutil.rmtree(debs, ignore_errors=True)
        debs.mkdir(parents=True)
        words = list(packages)
        done = self._run("apt-get", "-q", "download", *words, cwd=debs)
        if done.returncode:
            raise PackageError(f"{words[0]} cannot be downloaded: {_why(done.stderr)}")
        sums = {}
        folder.mkdir(parents=True, exist_ok=True)
        for deb in sorted(debs.glob("*.deb")):
            sums[deb.name] = hashlib.sha256(deb.read_bytes()).hexdigest()
            subprocess.run(["dpkg-deb", "-x", str(deb), str(folder)], check=True)
        shutil.rmtree(debs)
        return sums


def _why(text: str) -> str:
    """The line of apt's complaints that says most: why a file cannot be fetched, else the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if "Failed to fetch" in line] or lines[-1:] or ["without a word"]
    return re.sub(r"^[EW]: ", "", lines[0])
