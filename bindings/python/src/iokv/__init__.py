# SPDX-License-Identifier: Apache-2.0
"""Client of iokvd, a daemon that decodes language models for any number of local processes.

    with iokv.Client() as client, client.open() as sequence:
        for completion in sequence.step(prompt_tokens, max_tokens=32):
            print(client.connection.token_bytes(completion.token))

`Client` blocks, `AsyncClient` is for asyncio, `connection.Connection` is the C ABI call for call.
"""

from iokv.aio import AsyncClient, AsyncOperation, AsyncSequence
from iokv.client import Client, Operation, Sequence
from iokv.connection import Completion, Connection, Counter, Info, Sampling, Times, strerror
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
    NoDaemonError,
    NoSuchSequenceError,
    OutOfMemoryError,
    PoolTooSmallError,
    ProtocolError,
    ShuttingDownError,
    StillLoadingError,
    TryAgainError,
    UnsupportedError,
    VersionMismatchError,
    WaitTimeoutError,
    WokenError,
)
from iokv.text import Decoder

__all__ = [
    "AccessDeniedError",
    "AsyncClient",
    "AsyncOperation",
    "AsyncSequence",
    "BadTokenError",
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
    "Times",
    "TryAgainError",
    "UnsupportedError",
    "VersionMismatchError",
    "WaitTimeoutError",
    "WokenError",
    "strerror",
]
