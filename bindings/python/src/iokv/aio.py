# SPDX-License-Identifier: Apache-2.0
"""The asyncio client: AsyncClient, AsyncSequence, AsyncOperation. One event loop; no threads but for connecting, which
blocks while the daemon loads its model.

Invariants
 1. The connection's descriptor is watched by the loop; each time it is readable everything is reaped, so it is armed
    again before the loop runs on.
 2. When the daemon goes, every waiting operation raises ConnectionClosedError.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from collections.abc import Sequence as TokenList
from typing import Self

from iokv.abi import MORE, PREDICTED, TOKEN
from iokv.connection import Completion, Connection, Counter, Info, Sampling
from iokv.errors import ConnectionClosedError, Error, TryAgainError

_REAP = 256
_WITH_TOKEN = TOKEN | PREDICTED


class AsyncOperation:
    """A submitted operation. `async for` gives its tokens as they come; `await operation.result()` its end."""

    def __init__(self, identity: int) -> None:
        self._arrived: deque[Completion] = deque()
        self._waiters: list[asyncio.Future[None]] = []  # done when something comes
        self._lost: Error | None = None
        self.id = identity
        self.final: Completion | None = None

    def _tell(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _lose(self, error: Error) -> None:
        self._lost = error
        self._tell()

    async def _wait(self) -> None:
        if self.final is None and self._lost is None:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        if self.final is None and self._lost is not None:
            raise self._lost

    async def __aiter__(self) -> AsyncIterator[Completion]:
        """Each completion that carries a token, as it arrives; then raises the operation's failure, if it failed."""
        while True:
            while self._arrived:
                yield self._arrived.popleft()
            if self.final is not None:
                self.final.raise_for_result()
                return
            await self._wait()

    async def result(self) -> Completion:
        """The final completion, or raises the operation's failure."""
        while self.final is None:
            await self._wait()
        self.final.raise_for_result()
        return self.final

    async def tokens(self) -> list[int]:
        """The sampled tokens, once the operation has ended."""
        return [completion.token async for completion in self if completion.sampled]


class AsyncSequence:
    """A growing list of tokens that the daemon keeps."""

    def __init__(self, client: AsyncClient, identity: int) -> None:
        self.client = client
        self.id = identity
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(ConnectionClosedError):
            await self.close()

    async def step(
        self,
        tokens: TokenList[int] = (),
        max_tokens: int = 0,
        *,
        stop_tokens: TokenList[int] = (),
        sampling: Sampling | None = None,
        each: bool = False,
        logits: bool = False,
        priority: int = 0,
        deadline_ns: int = 0,
        user_data: int = 0,
        stop_sequences: TokenList[TokenList[int]] = (),
        top_logprobs: int = 0,
        masks: TokenList[TokenList[int]] = (),
    ) -> AsyncOperation:
        """Submits a step: append `tokens`, then sample up to `max_tokens`. Waits only for room in the ring."""
        return await self.client._place(
            lambda connection: connection.step(
                self.id,
                tokens,
                max_tokens,
                stop_tokens=stop_tokens,
                sampling=sampling,
                each=each,
                logits=logits,
                priority=priority,
                deadline_ns=deadline_ns,
                user_data=user_data,
                stop_sequences=stop_sequences,
                top_logprobs=top_logprobs,
                masks=masks,
            )
        )

    async def generate(
        self,
        tokens: TokenList[int] = (),
        max_tokens: int = 1,
        *,
        stop_tokens: TokenList[int] = (),
        sampling: Sampling | None = None,
    ) -> list[int]:
        """Appends `tokens` and returns up to `max_tokens` sampled ones."""
        return await (await self.step(tokens, max_tokens, stop_tokens=stop_tokens, sampling=sampling)).tokens()

    async def fork(self, tokens: int | None = None) -> AsyncSequence:
        """A new sequence that begins with the first `tokens` tokens of this one (None: all)."""
        child = 0

        def place(connection: Connection) -> int:
            nonlocal child
            child, operation = connection.fork(self.id, tokens)
            return operation

        await (await self.client._place(place)).result()
        return AsyncSequence(self.client, child)

    async def truncate(self, length: int) -> None:
        """Drops every token from position `length` on."""
        await (await self.client._place(lambda connection: connection.truncate(self.id, length))).result()

    async def cancel(self, operation: AsyncOperation | None = None) -> int:
        """Cancels one operation (None: all of the sequence's); returns how many were cancelled."""
        target = operation.id if operation is not None else 0
        placed = await self.client._place(lambda connection: connection.cancel(self.id, target))
        return (await placed.result()).result

    async def close(self) -> None:
        """Cancels what is outstanding and frees the sequence. Calling it again does nothing."""
        if self._closed:
            return
        self._closed = True
        await (await self.client._place(lambda connection: connection.close(self.id))).result()


class AsyncClient:
    """`async with AsyncClient() as client:` connects and disconnects. Options as iokv_connect_options."""

    def __init__(
        self,
        socket_path: str | None = None,
        *,
        name: str | None = None,
        timeout: float | None = 60.0,
        submission_entries: int = 0,
        completion_entries: int = 0,
        arena_bytes: int = 0,
        result_bytes: int = 0,
        borrow_logits: bool = False,
    ) -> None:
        self._connect: Callable[[], Connection] = lambda: Connection(
            socket_path,
            name=name,
            timeout=timeout,
            submission_entries=submission_entries,
            completion_entries=completion_entries,
            arena_bytes=arena_bytes,
            result_bytes=result_bytes,
            borrow_logits=borrow_logits,
        )
        self._connection: Connection | None = None
        self._operations: dict[int, AsyncOperation] = {}
        self._room = asyncio.Event()
        self._lost: Error | None = None

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def connect(self) -> None:
        """Connects, in a thread so that the loop runs on while the daemon loads."""
        connection = await asyncio.to_thread(self._connect)
        self._connection = connection
        asyncio.get_running_loop().add_reader(connection.fileno(), self._drain)
        self._drain()

    def close(self) -> None:
        """Ends the connection: what is outstanding is cancelled, every sequence closed."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        asyncio.get_running_loop().remove_reader(connection.fileno())
        connection.disconnect()
        self._lose_all(ConnectionClosedError("the client was closed"))

    @property
    def connection(self) -> Connection:
        if self._connection is None:
            raise ConnectionClosedError("not connected: use `async with` or call connect first")
        return self._connection

    @property
    def info(self) -> Info:
        return self.connection.info

    def counters(self) -> dict[str, Counter]:
        """The daemon's counters by name."""
        return {counter.name: counter for counter in self.connection.counters()}

    async def open(
        self, sampling: Sampling | None = None, *, priority: int = 0, model: int = 0, adapter: int = 0
    ) -> AsyncSequence:
        """Opens an empty sequence; `sampling` (None: greedy) holds for its steps unless they say otherwise."""
        sequence = 0

        def place(connection: Connection) -> int:
            nonlocal sequence
            sequence, operation = connection.open(sampling, priority=priority, model=model, adapter=adapter)
            return operation

        await (await self._place(place)).result()
        return AsyncSequence(self, sequence)

    async def nop(self) -> None:
        """A round trip through the daemon that does nothing."""
        await (await self._place(lambda connection: connection.nop())).result()

    def _lose_all(self, error: Error) -> None:
        self._lost = error
        for operation in self._operations.values():
            operation._lose(error)
        self._operations.clear()
        self._room.set()

    def _drain(self) -> None:
        connection = self._connection
        if connection is None:
            return
        count = _REAP
        while count == _REAP:
            try:
                completions = connection.reap(_REAP, timeout=0)
            except ConnectionClosedError:
                asyncio.get_running_loop().remove_reader(connection.fileno())
                self._lose_all(ConnectionClosedError(connection.end_reason()[1]))
                return
            count = len(completions)
            self._deliver(completions)
        self._room.set()

    def _deliver(self, completions: list[Completion]) -> None:
        # This loop is a part of what a token costs: flags are looked at without the properties that name them.
        operations = self._operations
        for completion in completions:
            operation = operations.get(completion.operation)
            if operation is None:
                continue
            flags = completion.flags
            if flags & _WITH_TOKEN:
                operation._arrived.append(completion)
            if not flags & MORE:
                del operations[completion.operation]
                operation.final = completion
            if operation._waiters:
                operation._tell()

    async def _place(self, place: Callable[[Connection], int]) -> AsyncOperation:
        while True:
            if self._lost is not None:
                raise self._lost
            try:
                identity = place(self.connection)
                break
            except TryAgainError:
                self._room.clear()
                self.connection.submit()
                await self._room.wait()
        operation = AsyncOperation(identity)
        self._operations[identity] = operation
        self.connection.submit()
        return operation
