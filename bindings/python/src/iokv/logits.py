# SPDX-License-Identifier: Apache-2.0
"""Logits that lie where the daemon wrote them: BorrowedLogits, for clients made with borrow_logits=True.

    with completion.borrowed as row:        # gives the space back at the end of the block
        probabilities = softmax(row.numpy())

Invariants
 1. The memory is the connection's: arrays over it must not be used after `release` or after the connection's end.
 2. While it is not released its space is not reused; a client that releases nothing makes its steps wait for room.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    import numpy
    import numpy.typing


class Lender(Protocol):
    """Gives a completion's result back to the daemon."""

    def release(self, raw: Any) -> None: ...


class BorrowedLogits:
    """A row of logits, float32, the whole vocabulary, read-only."""

    def __init__(self, lender: Lender, raw: Any, address: int, count: int) -> None:
        self._lender: Lender | None = lender
        self._raw = raw
        self._view = memoryview((ctypes.c_float * count).from_address(address)).cast("B").cast("f").toreadonly()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __len__(self) -> int:
        return len(self._view)

    @property
    def view(self) -> memoryview[float]:
        """The row in shared memory; ValueError once it is released."""
        if self._lender is None:
            raise ValueError("these logits were released")
        return self._view

    def numpy(self) -> numpy.typing.NDArray[numpy.float32]:
        """The row as an array over the same memory."""
        import numpy

        return numpy.frombuffer(self.view.cast("B"), dtype=numpy.float32)

    def release(self) -> None:
        """Gives the space back. Calling it again does nothing."""
        lender, self._lender = self._lender, None
        if lender is not None:
            lender.release(self._raw)
