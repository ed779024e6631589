# SPDX-License-Identifier: Apache-2.0
"""The wire protocol by hand (wire/handshake.h, wire/rings.h), for clients that do what libiokv never would."""

from __future__ import annotations

import array
import mmap
import os
import socket
import struct
from typing import Self

from iokvd import LIMIT_S

MAGIC = 0x766B6F69
HELLO, LOADING, WELCOME, REFUSED, ENDED = 1, 2, 3, 4, 7
LINE = 128
SUBMISSION_TAIL, COMPLETION_HEAD, RESULT_HEAD = 0 * LINE, 1 * LINE, 2 * LINE
SUBMISSION_HEAD, COMPLETION_TAIL = 1 * LINE, 2 * LINE
ENTRIES, ENTRY_BYTES, PAGE = 4096, 64, 4096


def hello(version_min: int = 1, version_max: int = 1, magic: int = MAGIC, flags: int = 0) -> bytes:
    return struct.pack("<IHHHHIQ4I32s", magic, HELLO, 72, version_min, version_max, flags, 0, 0, 0, 0, 0, b"raw")


class RawClient:
    """A socket, and after `shake` the two regions."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(LIMIT_S)
        self.socket.connect(path)
        self.descriptors: list[int] = []
        self.up: mmap.mmap | None = None
        self.down: mmap.mmap | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        for region in (self.up, self.down):
            if region is not None:
                region.close()
        for descriptor in self.descriptors:
            os.close(descriptor)

    def receive(self) -> tuple[int, bytes]:
        """(message type, packet); type 0 is the end of the connection. Passes over doorbells and LOADING."""
        while True:
            try:
                packet, ancillary, _, _ = self.socket.recvmsg(1024, socket.CMSG_SPACE(8))
            except ConnectionResetError:
                return 0, b""
            for _, _, data in ancillary:
                self.descriptors += array.array("i", data[: len(data) // 4 * 4])
            if not packet:
                return 0, b""
            if len(packet) >= 8:
                kind = struct.unpack_from("<H", packet, 4)[0]
                if kind != LOADING:
                    return kind, packet

    def shake(self) -> Self:
        self.socket.send(hello())
        kind, packet = self.receive()
        assert kind == WELCOME, (kind, packet)
        self.entries, self.completions, self.arena_bytes, self.result_bytes = struct.unpack_from("<4I", packet, 40)
        up, down = self.descriptors
        self.up = mmap.mmap(up, os.fstat(up).st_size)
        self.down = mmap.mmap(down, os.fstat(down).st_size, mmap.MAP_SHARED, mmap.PROT_READ)
        return self

    def write_entry(self, index: int, entry: bytes) -> None:
        assert self.up is not None
        offset = ENTRIES + index % self.entries * ENTRY_BYTES
        self.up[offset : offset + ENTRY_BYTES] = entry

    def set_index(self, offset: int, value: int) -> None:
        assert self.up is not None
        self.up[offset : offset + 4] = struct.pack("<I", value & 0xFFFFFFFF)

    def ring(self) -> None:
        """The doorbell; the daemon may have hung up already."""
        try:
            self.socket.send(b"\0")
        except OSError:
            pass

    def farewell(self) -> tuple[int, str]:
        """Waits for the end of the connection; returns ENDED's or REFUSED's code and message."""
        code, message = 0, ""
        while True:
            kind, packet = self.receive()
            if kind in (REFUSED, ENDED):
                code = struct.unpack_from("<i", packet, 8)[0]
                message = packet[12:].split(b"\0")[0].decode()
            if kind == 0:
                return code, message


def submission(
    opcode: int,
    operation: int,
    *,
    flags: int = 0,
    sequence: int = 0,
    argument: int = 0,
    payload: tuple[int, int] = (0, 0),
    n: int = 0,
    m: int = 0,
    reserved: int = 0,
) -> bytes:
    """One 64-byte entry of the submission ring."""
    return struct.pack(
        "<BBHhHQQQQIIIIII", opcode, 0, flags, 0, 0, operation, 7, sequence, argument, *payload, n, m, 0, reserved
    )
