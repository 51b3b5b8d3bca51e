"""Talking to the agent in the guest (the protocol is at the top of agent.c)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable

_ANSWER = struct.Struct("<Iq")
_LENGTH = struct.Struct("<i")


class GuestDied(Exception):
    """The guest ended or stopped answering: a panic, if the console says so."""


class Agent:
    """The host's end. Every method is one request; results are what the kernel returned, -errno when negative."""

    def __init__(self, port: socket.socket, timeout: float = 120.0) -> None:
        self.port = port
        port.settimeout(timeout)

    def hello(self) -> None:
        """Wait for the greeting of a guest that boots."""
        self._answer()

    def write(self, path: str, data: str) -> int:
        """Write a file once."""
        return self.steps([(path, data)])[0]

    def steps(self, writes: Iterable[tuple[str, str]]) -> list[int]:
        """Write files in order until one is refused; the result of each write that was tried."""
        body = bytearray()
        for path, data in writes:
            p, d = path.encode(), data.encode()
            body += struct.pack("<HH", len(p), len(d)) + p + d
        _, out = self._ask(b"w", bytes(body))
        return [rc for (rc,) in _LENGTH.iter_unpack(out)]

    def read(self, paths: Iterable[str]) -> list[bytes | int]:
        """The content of each file, or -errno."""
        _, out = self._ask(b"r", b"".join(p.encode() + b"\0" for p in paths))
        files: list[bytes | int] = []
        at = 0
        while at < len(out):
            (n,) = _LENGTH.unpack_from(out, at)
            at += 4
            if n < 0:
                files.append(n)
            else:
                files.append(out[at : at + n])
                at += n
        return files

    def names(self, folder: str) -> list[str]:
        """The names in a folder, without those that begin with a dot."""
        rc, out = self._ask(b"l", folder.encode())
        if rc < 0:
            return []
        return [name for name in out.decode().split("\0") if name and not name.startswith(".")]

    def insert_module(self, path: str) -> int:
        """Load a kernel module from the guest's file system."""
        return self._ask(b"i", path.encode())[0]

    def map(self, slot: int, shift: int, pages: int, node: int | None) -> int:
        """Map and populate huge pages of 2^shift bytes; they stay until `unmap(slot)`."""
        return self._ask(b"m", struct.pack("<4i", slot, shift, pages, -1 if node is None else node))[0]

    def unmap(self, slot: int) -> int:
        """Unmap what `map` made."""
        return self._ask(b"u", struct.pack("<4i", slot, 0, 0, 0))[0]

    def _ask(self, order: bytes, body: bytes) -> tuple[int, bytes]:
        try:
            self.port.sendall(struct.pack("<I", len(body) + 1) + order + body)
        except OSError as error:
            raise GuestDied(f"the guest is gone ({error})") from error
        return self._answer()

    def _answer(self) -> tuple[int, bytes]:
        length, rc = _ANSWER.unpack(self._receive(_ANSWER.size))
        return rc, self._receive(length - 8)

    def _receive(self, n: int) -> bytes:
        out = bytearray()
        while len(out) < n:
            try:
                piece = self.port.recv(n - len(out))
            except TimeoutError as error:
                raise GuestDied("the guest does not answer") from error
            except OSError as error:
                raise GuestDied(f"the guest is gone ({error})") from error
            if not piece:
                raise GuestDied("the guest is gone")
            out += piece
        return bytes(out)
