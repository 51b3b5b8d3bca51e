"""The operation that a process was at when it died.

A process that runs programs writes each operation into a file mapped into memory before it runs it. What was written
is there after the process was killed or hangs, for whoever looks at the file: `read` gives the program that was being
run. One or two microseconds an operation. The file is best one that has no disk behind it (`memfd_create`, by its name
below /proc), which costs no writing back and cannot run full.
"""

from __future__ import annotations

import marshal
import mmap
import os
import struct
from pathlib import Path
from typing import Final

from fuzz import execute
from fuzz.program.model import Op, Program
from fuzz.program.text import format_machine, parse
from mm.machine import Machine

VARIABLE: Final = "VMEMMAP_FUZZ_TRAIL"
"""Environment variable: path of the trail."""
SIZE: Final = 1 << 18
"""Bytes; operations that do not fit are not written, so that the program read back ends early."""
_HEAD: Final = struct.Struct("<QII")
"""Programs begun, bytes used, operations begun in this program (those that did not fit included)."""
_LENGTH: Final = struct.Struct("<I")


class Trail:
    """The writing end."""

    def __init__(self, path: Path) -> None:
        # Not truncated: another process may have it mapped. Allocated now: on a full disk, a later write is a SIGBUS.
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.posix_fallocate(file, 0, SIZE)
        self._map = mmap.mmap(file, SIZE)
        os.close(file)
        self._programs = 0
        self._used = 0
        self._ops = 0

    def begin(self, machine: Machine) -> None:
        """A new program."""
        text = format_machine(machine).encode()
        self._programs += 1
        self._used = _HEAD.size
        self._ops = 0
        _HEAD.pack_into(self._map, 0, self._programs, 0, 0)
        self._append(text)

    def step(self, op: Op) -> None:
        """The next operation of the program."""
        self._ops += 1
        self._append(marshal.dumps((op.name, op.args, op.result)))

    def _append(self, record: bytes) -> None:
        start = self._used
        end = start + _LENGTH.size + len(record)
        if end <= SIZE:
            _LENGTH.pack_into(self._map, start, len(record))
            self._map[start + _LENGTH.size : end] = record
            self._used = end
        # The head last: what it counts is there.
        _HEAD.pack_into(self._map, 0, self._programs, self._used, self._ops)


def pulse(path: Path) -> tuple[int, int]:
    """Programs and operations begun, to see whether a process gets on; zeros if there is no trail."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD.size)
        programs, _, ops = _HEAD.unpack(head)
    except (OSError, struct.error):
        return 0, 0
    return programs, ops


def read(path: Path) -> Program | None:
    """The program that was being run, up to the operation that had begun; None without a legible file."""
    try:
        data = path.read_bytes()
        _, used, _ = _HEAD.unpack_from(data)
        records = []
        at = _HEAD.size
        while at < used:
            (length,) = _LENGTH.unpack_from(data, at)
            at += _LENGTH.size
            records.append(data[at : at + length])
            at += length
        if not records:
            return None
        ops = [marshal.loads(record) for record in records[1:]]
        machine = parse(f"vmm 1\n{records[0].decode()}\nboot\n").machine
        return Program(machine, tuple(Op(name, args, result) for name, args, result in ops))
    except (OSError, ValueError, EOFError, TypeError, struct.error):
        return None


def open_trail(path: Path) -> None:
    """Write a trail in this process from now on, and in those that it starts and that call `open_inherited`."""
    execute.TRAIL = Trail(path)
    os.environ[VARIABLE] = str(path)


def open_inherited() -> None:
    """Go on with the trail of the process that started this one, which runs no programs itself."""
    path = os.environ.get(VARIABLE)
    if path:
        execute.TRAIL = Trail(Path(path))
