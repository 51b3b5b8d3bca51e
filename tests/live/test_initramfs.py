"""The cpio archive and the order of modules."""

from pathlib import Path

from live.initramfs import depends, load_order, newc


def unpack(archive: bytes) -> list[tuple[str, int, bytes]]:
    """Entries of a newc archive, read by the format's own description."""
    out, at = [], 0
    while True:
        header = archive[at : at + 110]
        assert header[:6] == b"070701"
        fields = [int(header[6 + 8 * i : 14 + 8 * i], 16) for i in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 110 + name_size - 1].decode()
        at = -(-(at + 110 + name_size) // 4) * 4
        if name == "TRAILER!!!":
            return out
        out.append((name, mode, archive[at : at + size]))
        at = -(-(at + size) // 4) * 4


def test_newc_holds_what_was_put_in() -> None:
    entries = [("dev", 0o040755, b""), ("init", 0o100755, b"\x7fELF..."), ("mod/a.ko", 0o100755, b"x" * 7)]
    assert unpack(newc(entries)) == entries


def test_newc_is_aligned() -> None:
    assert len(newc([("a", 0o100644, b"123")])) % 4 == 0


def module(name: str, needs: str) -> bytes:
    return b"\x7fELF\0license=GPL\0depends=" + needs.encode() + b"\0name=" + name.encode() + b"\0"


def test_depends() -> None:
    assert depends(module("kmem", "dax_a,dax_b")) == ["dax_a", "dax_b"]
    assert depends(module("device_dax", "")) == []


def test_modules_come_after_what_they_need(tmp_path: Path) -> None:
    for name, needs in (("top", "mid-dle,low"), ("mid-dle", "low"), ("low", ""), ("unused", "")):
        (tmp_path / f"{name}.ko").write_bytes(module(name, needs))
    assert [name for name, _ in load_order(tmp_path, ("absent", "top"))] == ["low", "mid_dle", "top"]
