"""The guest's file system: a cpio archive with the agent as /init and the kernel modules it may load.

The archive format is "newc" (Documentation/driver-api/early-userspace/buffer-format.rst). Modules are stored unpacked,
in the order in which they must be loaded, as /mod/NN-name.ko; which module needs which is read from the modules
themselves ("depends=" in .modinfo), so that no depmod is needed.
"""

from __future__ import annotations

import hashlib
import lzma
import re
import shutil
import stat
import subprocess
from collections.abc import Iterable
from pathlib import Path

from live.errors import LiveError

AGENT = Path(__file__).with_name("agent.c")

MODULES = ("device_dax", "dax_pmem", "nd_e820", "dax_hmem", "hwpoison_inject", "fsdev_dax", "kmem")
"""What the agent loads at boot, in this order, as far as the kernel has it. Not nd_pmem, which would take the
namespaces for block devices; kmem last, since it takes the devices that a soft-reserved region begins with."""

_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")


class InitramfsError(LiveError):
    """The archive cannot be made: one sentence."""


def newc(entries: Iterable[tuple[str, int, bytes]]) -> bytes:
    """A cpio archive of (path, mode, content), ended by its trailer."""
    out = bytearray()
    for number, (path, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        name = path.encode() + b"\0"
        # magic; inode, mode, uid, gid, links, mtime, size, device major and minor, rdev major and minor, name length,
        # checksum
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
        out += b"070701" + b"".join(b"%08x" % field for field in fields) + name
        out += bytes(-len(out) % 4)
        out += data
        out += bytes(-len(out) % 4)
    return bytes(out)


def depends(module: bytes) -> list[str]:
    """The modules that a module needs, from its .modinfo section."""
    found = _DEPENDS.search(module)
    return [name for name in found[1].decode().split(",") if name] if found else []


def unpack(path: Path) -> bytes:
    """A module's ELF file, whatever it is packed with."""
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    if path.suffix == ".zst":
        tool = shutil.which("zstd")
        if tool is None:
            raise InitramfsError(f"{path.name} is packed with zstd, and there is no zstd here")
        return subprocess.run([tool, "-dc"], input=data, check=True, capture_output=True).stdout
    if path.suffix == ".gz":
        import gzip

        return gzip.decompress(data)
    return data


def load_order(tree: Path, wanted: Iterable[str]) -> list[tuple[str, bytes]]:
    """The wanted modules of a kernel's module tree and what they need, each after what it needs; missing ones are
    left out.
    """
    files = {p.name.split(".ko")[0].replace("-", "_"): p for p in tree.rglob("*.ko*")}
    order: dict[str, bytes] = {}

    def visit(name: str) -> None:
        name = name.replace("-", "_")
        if name in order or name not in files:
            return
        data = unpack(files[name])
        for other in depends(data):
            visit(other)
        order[name] = data

    for name in wanted:
        visit(name)
    return list(order.items())


def compile_agent(target: Path) -> None:
    """Build the static agent with the machine's C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise InitramfsError("the guest's agent needs a C compiler: install gcc and libc6-dev")
    done = subprocess.run(
        [compiler, "-O2", "-static", "-o", str(target), str(AGENT)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise InitramfsError(f"the guest's agent does not compile: {done.stderr.strip().splitlines()[-1]}")


def build(cache: Path, modules: Path | None) -> Path:
    """The initramfs for a kernel with this module tree (None: no modules), made once and kept in the cache."""
    key = hashlib.sha256(AGENT.read_bytes())
    key.update(f"{modules and modules.resolve()} {MODULES}".encode())
    target = cache / f"initramfs-{key.hexdigest()[:16]}.cpio"
    if target.exists():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    agent = target.with_suffix(".agent")
    compile_agent(agent)
    directory, program = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o755
    entries = [(name, directory, b"") for name in ("dev", "proc", "sys", "mod")]
    entries.append(("init", program, agent.read_bytes()))
    agent.unlink()
    if modules is not None:
        for number, (name, data) in enumerate(load_order(modules, MODULES)):
            entries.append((f"mod/{number:02}-{name}.ko", program, data))
    part = target.with_suffix(".part")
    part.write_bytes(newc(entries))
    part.rename(target)
    return target
