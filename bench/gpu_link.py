# SPDX-License-Identifier: Apache-2.0
"""The link's rate at the moment, by copies of 32 MiB from pinned host memory: what a row's floor is computed from.

A machine's link is often shared with others', and was seen to carry 45 to 55 GB/s within a minute. So each row has it
measured right before and right after, with the daemon idle, and the higher rate counts. Through the CUDA runtime itself,
since a library that takes seconds to load cannot be asked so often."""

from __future__ import annotations

import ctypes
import mmap
import statistics
import time

PIECE = 32 << 20
HOST = 256 << 20
ROUND = 1 << 30
ROUNDS = 7
TO_DEVICE = 1  # cudaMemcpyHostToDevice
NAMES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12")


class Link:
    """One pinned buffer and one on the device. OSError: there is no CUDA runtime or no device."""

    def __init__(self) -> None:
        self._cuda = self._load()
        self._host = mmap.mmap(-1, HOST, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self._host.madvise(mmap.MADV_HUGEPAGE)
        for at in range(0, HOST, mmap.PAGESIZE):
            self._host[at] = 1
        self._host_at = ctypes.addressof(ctypes.c_char.from_buffer(self._host))
        self._device = ctypes.c_void_p()
        self._stream = ctypes.c_void_p()
        self._call("cudaHostRegister", ctypes.c_void_p(self._host_at), ctypes.c_size_t(HOST), ctypes.c_uint(0))
        self._call("cudaMalloc", ctypes.byref(self._device), ctypes.c_size_t(PIECE))
        self._call("cudaStreamCreateWithFlags", ctypes.byref(self._stream), ctypes.c_uint(1))

    @staticmethod
    def _load() -> ctypes.CDLL:
        for name in NAMES:
            try:
                return ctypes.CDLL(name)
            except OSError:
                continue
        raise OSError(f"none of {', '.join(NAMES)} is there")

    def _call(self, name: str, *arguments: object) -> None:
        if code := getattr(self._cuda, name)(*arguments):
            raise OSError(f"{name}: error {code}")

    def rate(self) -> float:
        """Bytes a second, the median of some rounds of 20 ms."""
        rates = []
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            for copy in range(ROUND // PIECE):
                self._call("cudaMemcpyAsync", self._device, ctypes.c_void_p(self._host_at + copy * PIECE % HOST),
                           ctypes.c_size_t(PIECE), ctypes.c_int(TO_DEVICE), self._stream)
            self._call("cudaStreamSynchronize", self._stream)
            rates.append(ROUND / (time.perf_counter() - begun))
        return statistics.median(rates)
