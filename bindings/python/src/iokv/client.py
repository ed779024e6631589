# SPDX-License-Identifier: Apache-2.0
"""The blocking client: Client, Sequence, Operation.

Invariants
 1. Every call that places an entry also submits it, unless it is inside `with client.batch():`.
 2. A completion goes to its Operation when it is reaped, whoever waits; so operations may be awaited in any order.
 3. One thread uses a Client at a time; only `wake` may come from another.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from collections.abc import Sequence as TokenList
from typing import Self

from iokv.abi import MORE, PREDICTED, TOKEN
from iokv.connection import Completion, Connection, Counter, Info, Sampling
from iokv.errors import ConnectionClosedError, TryAgainError, WaitTimeoutError, error_for


_WITH_TOKEN = TOKEN | PREDICTED


class Operation:
    """A submitted operation. Iterate over it for its tokens as they come, or call `result` for its end."""

    def __init__(self, client: Client, identity: int) -> None:
        self._client = client
        self._arrived: deque[Completion] = deque()
        self.id = identity
        self.final: Completion | None = None

    def __iter__(self) -> Iterator[Completion]:
        """Each completion that carries a token, as it arrives; then raises the operation's failure, if it failed."""
        while True:
            while self._arrived:
                yield self._arrived.popleft()
            if self.final is not None:
                self.final.raise_for_result()
                return
            self._client.wait(self, until_final=False)

    def result(self, timeout: float | None = None) -> Completion:
        """Waits for the end; returns the final completion or raises the operation's failure."""
        self._client.wait(self, timeout)
        assert self.final is not None
        self.final.raise_for_result()
        return self.final

    def tokens(self) -> list[int]:
        """Waits for the end; returns the sampled tokens."""
        return [completion.token for completion in self if completion.sampled]


class Sequence:
    """A growing list of tokens that the daemon keeps. Closed by `close` or at the end of a `with` block."""

    def __init__(self, client: Client, identity: int) -> None:
        self.client = client
        self.id = identity
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ConnectionClosedError):
            self.close()

    def step(
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
    ) -> Operation:
        """Appends `tokens`, then samples up to `max_tokens`; does not wait. Options as iokv_step_options."""
        return self.client._place(
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

    def append(self, tokens: TokenList[int]) -> int:
        """Appends without sampling; returns the new length."""
        return self.step(tokens).result().length

    def generate(
        self,
        tokens: TokenList[int] = (),
        max_tokens: int = 1,
        *,
        stop_tokens: TokenList[int] = (),
        sampling: Sampling | None = None,
    ) -> list[int]:
        """Appends `tokens` and returns up to `max_tokens` sampled ones."""
        return self.step(tokens, max_tokens, stop_tokens=stop_tokens, sampling=sampling).tokens()

    def fork(self, tokens: int | None = None) -> Sequence:
        """A new sequence that begins with the first `tokens` tokens of this one (None: all)."""
        child = 0

        def place(connection: Connection) -> int:
            nonlocal child
            child, operation = connection.fork(self.id, tokens)
            return operation

        operation = self.client._place(place)
        operation.result()
        return Sequence(self.client, child)

    def truncate(self, length: int) -> None:
        """Drops every token from position `length` on."""
        self.client._place(lambda connection: connection.truncate(self.id, length)).result()

    def cancel(self, operation: Operation | None = None) -> int:
        """Cancels one operation (None: all of the sequence's); returns how many were cancelled."""
        target = operation.id if operation is not None else 0
        return self.client._place(lambda connection: connection.cancel(self.id, target)).result().result

    def close(self) -> None:
        """Cancels what is outstanding and frees the sequence. Calling it again does nothing."""
        if self._closed:
            return
        self._closed = True
        self.client._place(lambda connection: connection.close(self.id)).result()


class Client:
    """A connection whose calls block. Options as iokv_connect_options; ends with `close` or its `with` block."""

    def __init__(
        self,
        socket_path: str | None = None,
        *,
        name: str | None = None,
        timeout: float | None = 60.0,
        spin_ns: int = 0,
        submission_entries: int = 0,
        completion_entries: int = 0,
        arena_bytes: int = 0,
        result_bytes: int = 0,
        borrow_logits: bool = False,
    ) -> None:
        self.connection = Connection(
            socket_path,
            name=name,
            timeout=timeout,
            spin_ns=spin_ns,
            submission_entries=submission_entries,
            completion_entries=completion_entries,
            arena_bytes=arena_bytes,
            result_bytes=result_bytes,
            borrow_logits=borrow_logits,
        )
        self._operations: dict[int, Operation] = {}
        self._batching = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection: what is outstanding is cancelled, every sequence closed."""
        self.connection.disconnect()

    @property
    def info(self) -> Info:
        return self.connection.info

    def counters(self) -> dict[str, Counter]:
        """The daemon's counters by name."""
        return {counter.name: counter for counter in self.connection.counters()}

    def open(
        self, sampling: Sampling | None = None, *, priority: int = 0, model: int = 0, adapter: int = 0
    ) -> Sequence:
        """Opens an empty sequence; `sampling` (None: greedy) holds for its steps unless they say otherwise."""
        sequence = 0

        def place(connection: Connection) -> int:
            nonlocal sequence
            sequence, operation = connection.open(sampling, priority=priority, model=model, adapter=adapter)
            return operation

        self._place(place).result()
        return Sequence(self, sequence)

    def nop(self) -> None:
        """A round trip through the daemon that does nothing."""
        self._place(lambda connection: connection.nop()).result()

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Inside, placed operations become visible to the daemon together, at the end or at the first wait."""
        self._batching += 1
        try:
            yield
        finally:
            self._batching -= 1
            self.connection.submit()

    def wait(self, operation: Operation, timeout: float | None = None, *, until_final: bool = True) -> None:
        """Reaps until `operation` has ended (or, with until_final False, has anything new). WaitTimeoutError."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while operation.final is None and (until_final or not operation._arrived):
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise WaitTimeoutError(f"operation {operation.id} has not ended")
            self._reap(left)

    def _reap(self, timeout: float | None) -> None:
        self.connection.submit()
        try:
            completions = self.connection.reap(timeout=timeout)
        except ConnectionClosedError:
            self._operations.clear()
            code, reason = self.connection.end_reason()
            raise ConnectionClosedError(reason) from (error_for(code, reason) if code != -8 else None)
        # This loop is what a token costs: flags are looked at without the properties that name them.
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

    def _place(self, place: Callable[[Connection], int]) -> Operation:
        while True:
            try:
                identity = place(self.connection)
                break
            except TryAgainError:
                self._reap(None)
        operation = Operation(self, identity)
        self._operations[identity] = operation
        if not self._batching:
            self.connection.submit()
        return operation
