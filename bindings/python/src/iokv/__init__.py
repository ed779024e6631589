# SPDX-License-Identifier: Apache-2.0
"""Client of iokvd, a daemon that decodes language models for any number of local processes.

    with iokv.Client() as client, client.open() as sequence:
        for completion in sequence.step(prompt_tokens, max_tokens=32):
            print(client.connection.token_bytes(completion.token))

`Client` blocks, `AsyncClient` is for asyncio, `connection.Connection` is the C ABI call for call.
"""

from iokv.aio import AsyncClient, AsyncOperation, AsyncSequence
from iokv.client import Client, Operation, Sequence
from iokv.connection import Completion, Connection, Counter, Info, Sampling, Times, TokenLogprob, strerror
from iokv.errors import (
    AccessDeniedError,
    BadTokenError,
    BusyError,
    CanceledError,
    ConnectionClosedError,
    ContextFullError,
    DeadlinePassedError,
    DeviceError,
    Error,
    ForkedError,
    InvalidArgumentError,
    LimitError,
    MaskError,
    NoDaemonError,
    NoSuchSequenceError,
    OutOfMemoryError,
    PoolTooSmallError,
    ProtocolError,
    ShuttingDownError,
    StillLoadingError,
    StopError,
    TryAgainError,
    UnsupportedError,
    VersionMismatchError,
    WaitTimeoutError,
    WokenError,
)
from iokv.logits import BorrowedLogits
from iokv.text import Decoder

__all__ = [
    "AccessDeniedError",
    "AsyncClient",
    "AsyncOperation",
    "AsyncSequence",
    "BadTokenError",
    "BorrowedLogits",
    "BusyError",
    "CanceledError",
    "Client",
    "Completion",
    "Connection",
    "ConnectionClosedError",
    "ContextFullError",
    "Counter",
    "Decoder",
    "DeadlinePassedError",
    "DeviceError",
    "Error",
    "ForkedError",
    "Info",
    "InvalidArgumentError",
    "LimitError",
    "MaskError",
    "NoDaemonError",
    "NoSuchSequenceError",
    "Operation",
    "OutOfMemoryError",
    "PoolTooSmallError",
    "ProtocolError",
    "Sampling",
    "Sequence",
    "ShuttingDownError",
    "StillLoadingError",
    "StopError",
    "Times",
    "TokenLogprob",
    "TryAgainError",
    "UnsupportedError",
    "VersionMismatchError",
    "WaitTimeoutError",
    "WokenError",
    "strerror",
]
