# SPDX-License-Identifier: Apache-2.0
"""Connection: the C ABI call for call, typed, errors as exceptions. Client and AsyncClient stand on it; use it directly
for full control of when entries are submitted and completions reaped.

Invariants
 1. A method raises what the C call returned and then has had no effect.
 2. Logits are copied out and released when their completion is reaped; nothing points into shared memory afterwards,
    unless the connection was made with borrow_logits (logits.py).
 3. Threads as in iokv.h: one submitting and one reaping at a time, another one gets BusyError; `wake`, `outstanding` and
    `disconnect` from any.
"""

from __future__ import annotations

import ctypes
import functools
import os
import struct
import threading
from array import array
from collections.abc import Callable
from collections.abc import Sequence as TokenList
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from iokv import abi
from iokv.errors import error_for
from iokv.logits import BorrowedLogits

_library: ctypes.CDLL | None = None


def library() -> ctypes.CDLL:
    """libiokv, loaded on first use."""
    global _library
    if _library is None:
        _library = abi.load()
    return _library


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn; temperature 0 takes the most probable one. The same seed gives the same text."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_from: int = 0
    frequency_from: int = 0
    logit_bias: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One of the most probable tokens; `logprob` is natural, of the unmodified distribution."""

    token: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Info:
    """Facts about the model and limits of this client, constant for the life of a connection."""

    protocol_version: int
    daemon_instance: int
    client_id: int
    vocabulary: int
    max_context: int
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    begin_token: int | None
    end_tokens: tuple[int, ...]
    max_sequences: int
    max_operations: int
    max_step_tokens: int
    max_stop_tokens: int
    submission_entries: int
    completion_entries: int
    pool_tokens: int
    model_digest: bytes
    tokenizer_digest: bytes
    model_name: str
    daemon_version: str
    features: int = 0


@dataclass(frozen=True, slots=True)
class Times:
    """What the time of a completion's step went to; see iokv_times in iokv.h."""

    queued_ns: int
    link_ns: int
    recompute_ns: int
    dense_ns: int


class _Results(NamedTuple):
    """What came in the FIFO of results beside a completion."""

    logits: memoryview[float] | None
    borrowed: BorrowedLogits | None
    top: tuple[TokenLogprob, ...]


class Completion(NamedTuple):
    """One completion."""

    # As in iokv_completion, so that a reaped buffer is unpacked in one go.
    user_data: int
    operation: int
    sequence: int
    result: int
    flags: int
    token: int
    logprob: float
    index: int  # type: ignore[assignment]  # hides a method of tuples that nobody needs here
    length: int
    view: bytes
    packed_times: int
    results: _Results | bytes

    @property
    def logits(self) -> memoryview[float] | None:
        """A private copy of the model's logits there, as floats (numpy.asarray takes it without another copy), if the step
        asked for them."""
        return self.results.logits if isinstance(self.results, _Results) else None

    @property
    def borrowed(self) -> BorrowedLogits | None:
        """The same in shared memory, where the connection was made with borrow_logits."""
        return self.results.borrowed if isinstance(self.results, _Results) else None

    @property
    def top(self) -> tuple[TokenLogprob, ...]:
        """The most probable tokens, the most probable first, as many as the step asked for."""
        return self.results.top if isinstance(self.results, _Results) else ()

    @property
    def final(self) -> bool:
        """The operation has ended with this."""
        return not self.flags & abi.MORE

    @property
    def sampled(self) -> bool:
        """`token` was drawn and appended."""
        return bool(self.flags & abi.TOKEN)

    @property
    def predicted(self) -> bool:
        """`token` is what would follow appended token `index`; it was not appended."""
        return bool(self.flags & abi.PREDICTED)

    @property
    def stopped(self) -> bool:
        """`token` is one of the step's stop tokens, or ends one of its stop sequences."""
        return bool(self.flags & abi.STOPPED)

    @property
    def times(self) -> Times | None:
        """What the time of its step went to; None when it comes from no step, or the daemon does not say."""
        if self.packed_times == 0:
            return None
        raw, times = abi.Completion(times=self.packed_times), abi.sized(abi.Times)
        _check(library().iokv_completion_times(ctypes.byref(raw), ctypes.byref(times)))
        return Times(times.queued_ns, times.link_ns, times.recompute_ns, times.dense_ns)

    def raise_for_result(self) -> None:
        """Raises the operation's failure, if it is one."""
        if self.result < 0:
            raise error_for(self.result, strerror(self.result))


@dataclass(frozen=True, slots=True)
class Counter:
    """One of the daemon's counters."""

    name: str
    unit: str
    meaning: str
    value: int


_REAP_AT_ONCE = 256

# iokv_completion, in the order of the fields of Completion; of the last one, which it does not have, no bytes.
_COMPLETION = struct.Struct("QQQiIifII8sQ0s")
assert _COMPLETION.size == ctypes.sizeof(abi.Completion)
# Completion._make without its check of the length, which takes as long as the rest.
_completion: Callable[[tuple[Any, ...]], Completion] = functools.partial(tuple.__new__, Completion)
_NO_LOGITS = (None,)


class _Role:
    """`with role:` where a second thread must not be; BusyError at once where one is."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._owner = 0

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise error_for(-10, f"another thread is in a {self._name} call of this connection")
        self._owner = threading.get_ident()

    def __exit__(self, *_: object) -> None:
        self._owner = 0
        self._lock.release()

    def await_nobody(self) -> None:
        """Waits until nobody is in it. BusyError from a signal handler that has interrupted whoever is."""
        if self._owner == threading.get_ident():
            raise error_for(-10, f"this thread is in a {self._name} call of this connection")
        with self._lock:
            pass


def strerror(code: int) -> str:
    """The library's sentence for a code."""
    return str(library().iokv_strerror(code).decode())


def _check(result: int, detail: str = "") -> int:
    if result < 0:
        raise error_for(result, detail or strerror(result))
    return result


# ctypes cuts a number off at its field's bits, and says nothing: 2**32 + 5 would be token 5.
def _within(name: str, value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise error_for(-1, f"{name} is {value}: it must be {least} to {most}")
    return value


def _u32(name: str, value: int) -> int:
    return _within(name, value, 0, 2**32 - 1)


def _u64(name: str, value: int) -> int:
    return _within(name, value, 0, 2**64 - 1)


def _i32(name: str, value: int) -> int:
    return _within(name, value, -(2**31), 2**31 - 1)


def _tokens(tokens: TokenList[int]) -> ctypes.Array[ctypes.c_int32] | None:
    if not len(tokens):
        return None
    try:
        values = array("i", iter(tokens))
    except OverflowError:
        raise error_for(-18, "a token is negative or not below the vocabulary") from None
    return (ctypes.c_int32 * len(values)).from_buffer(values)


def _sampling(sampling: Sampling | None) -> ctypes._Pointer[abi.Sampling] | None:
    if sampling is None:
        return None
    value = abi.sized(abi.Sampling)
    value.temperature = sampling.temperature
    value.top_p = sampling.top_p
    value.top_k = _u32("top_k", sampling.top_k)
    value.seed = sampling.seed & 0xFFFFFFFFFFFFFFFF
    value.min_p = sampling.min_p
    value.typical_p = sampling.typical_p
    value.repetition_penalty = 0.0 if sampling.repetition_penalty == 1.0 else sampling.repetition_penalty
    value.presence_penalty = sampling.presence_penalty
    value.frequency_penalty = sampling.frequency_penalty
    value.repetition_from = _u32("repetition_from", sampling.repetition_from)
    value.frequency_from = _u32("frequency_from", sampling.frequency_from)
    # What says nothing is left at zero, which every daemon takes.
    if value.typical_p == 1.0:
        value.typical_p = 0.0
    if sampling.logit_bias:
        value.logit_bias = (abi.LogitBias * len(sampling.logit_bias))(
            *(abi.LogitBias(_i32("a token of logit_bias", token), bias) for token, bias in sampling.logit_bias)
        )
        value.logit_bias_count = len(sampling.logit_bias)
    return ctypes.pointer(value)


def timeout_ns(seconds: float | None) -> int:
    """Seconds as the C ABI takes them; None is no limit."""
    return -1 if seconds is None else max(0, int(seconds * 1e9))


class Connection:
    """A connection to a daemon. Ends with `disconnect` or the end of a `with` block."""

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
        self._borrows = borrow_logits
        self._handle: ctypes.c_void_p | None = None
        self._library = library()
        self._process = os.getpid()
        self._submitting, self._reaping = _Role("submitting"), _Role("reaping")
        self._life = threading.Lock()  # whoever is in a call for any thread, or takes the handle away
        self._has_texts = False
        self._asked_for_results = False
        options = abi.sized(abi.ConnectOptions)
        options.socket_path = socket_path.encode() if socket_path is not None else None
        options.name = name.encode()[:31] if name is not None else None
        options.timeout_ns = timeout_ns(timeout) or 1
        options.spin_ns = spin_ns
        options.submission_entries = submission_entries
        options.completion_entries = completion_entries
        options.arena_bytes = arena_bytes
        options.result_bytes = result_bytes
        detail = abi.sized(abi.ErrorDetail)
        handle = ctypes.c_void_p()
        code = self._library.iokv_connect(ctypes.byref(options), ctypes.byref(handle), ctypes.byref(detail))
        _check(code, detail.message.decode(errors="replace"))
        self._handle = handle
        self._buffer = (abi.Completion * _REAP_AT_ONCE)()
        self._bytes = memoryview(self._buffer).cast("B")
        self.info = self._read_info()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.disconnect()

    def __del__(self) -> None:
        self.disconnect()

    def disconnect(self) -> None:
        """Cancels everything outstanding and closes every sequence; a wait of another thread ends with
        ConnectionClosedError. Calling it again does nothing."""
        # Whoever comes into a call from here on finds no handle.
        with self._life:
            handle, self._handle = self._handle, None
            if handle is None:
                return
            if os.getpid() == self._process:
                self._library.iokv_wake(handle)
        # iokv_disconnect must be alone. In a forked child nobody else is there, whatever the locks say.
        if os.getpid() == self._process:
            self._submitting.await_nobody()
            self._reaping.await_nobody()
        self._library.iokv_disconnect(handle)

    @property
    def handle(self) -> ctypes.c_void_p:
        """For calls of the C ABI that this class does not make."""
        handle = self._handle
        if handle is None:
            raise error_for(-8, "the connection was ended by disconnect")
        return handle

    def _read_info(self) -> Info:
        info = abi.sized(abi.Info)
        _check(self._library.iokv_get_info(self.handle, ctypes.byref(info)))
        values = {name: getattr(info, name) for name in Info.__dataclass_fields__}
        values["begin_token"] = info.begin_token if info.begin_token >= 0 else None
        values["end_tokens"] = tuple(info.end_tokens[: info.end_token_count])
        values["model_digest"] = bytes(info.model_digest)
        values["tokenizer_digest"] = bytes(info.tokenizer_digest)
        values["model_name"] = info.model_name.decode(errors="replace")
        values["daemon_version"] = info.daemon_version.decode(errors="replace")
        return Info(**values)

    def end_reason(self) -> tuple[int, str]:
        """(code, line) that says why the connection ended, once a call has raised ConnectionClosedError."""
        detail = abi.sized(abi.ErrorDetail)
        with self._life:
            _check(self._library.iokv_end_reason(self.handle, ctypes.byref(detail)))
        return int(detail.code), detail.message.decode(errors="replace")

    def open(
        self,
        sampling: Sampling | None = None,
        *,
        priority: int = 0,
        model: int = 0,
        adapter: int = 0,
        user_data: int = 0,
    ) -> tuple[int, int]:
        """Places OPEN; returns (sequence, operation)."""
        options = abi.sized(abi.OpenOptions)
        options.user_data = _u64("user_data", user_data)
        options.sampling = _sampling(sampling)
        options.model = _u32("model", model)
        options.adapter = _u32("adapter", adapter)
        options.priority = _i32("priority", priority)
        sequence, operation = ctypes.c_uint64(), ctypes.c_uint64()
        with self._submitting:
            code = self._library.iokv_open(
                self.handle, ctypes.byref(options), ctypes.byref(sequence), ctypes.byref(operation)
            )
            self._check_placed(code)
        return sequence.value, operation.value

    def _step_options(
        self,
        tokens: TokenList[int],
        max_tokens: int,
        stop_tokens: TokenList[int],
        sampling: Sampling | None,
        each: bool,
        logits: bool,
        priority: int,
        deadline_ns: int,
        user_data: int,
        stop_sequences: TokenList[TokenList[int]] = (),
        top_logprobs: int = 0,
        masks: TokenList[TokenList[int]] = (),
    ) -> abi.StepOptions:
        options = abi.sized(abi.StepOptions)
        options.flags = (abi.STEP_EACH if each else 0) | (abi.STEP_LOGITS if logits else 0)
        options.user_data = _u64("user_data", user_data)
        options.tokens = _tokens(tokens)
        options.token_count = len(tokens)
        options.max_tokens = _u32("max_tokens", max_tokens)
        options.stop_tokens = _tokens(stop_tokens)
        options.stop_token_count = len(stop_tokens)
        options.priority = _i32("priority", priority)
        options.sampling = _sampling(sampling)
        options.deadline_ns = _u64("deadline_ns", deadline_ns)
        options.top_logprobs = _u32("top_logprobs", top_logprobs)
        if stop_sequences:
            options.stop_sequences = _tokens([token for stop in stop_sequences for token in stop])
            options.stop_sequence_lengths = (ctypes.c_uint32 * len(stop_sequences))(*map(len, stop_sequences))
            options.stop_sequence_count = len(stop_sequences)
        if masks:
            options.mask_words = len(masks[0])
            if any(len(mask) != len(masks[0]) for mask in masks):
                raise error_for(-24, "the masks of a step have different lengths")
            try:
                words = array("I", (word for mask in masks for word in mask))
            except OverflowError:
                raise error_for(-24, "a word of a mask is no unsigned 32-bit number") from None
            options.masks = (ctypes.c_uint32 * len(words)).from_buffer(words)
            options.mask_count = len(masks)
        return options

    def _check_placed(self, result: int) -> None:
        """Raises what an open or step returned, with the argument and its range."""
        if result < 0:
            detail = abi.sized(abi.ErrorDetail)
            self._library.iokv_last_failure(self.handle, ctypes.byref(detail))
            _check(result, detail.message.decode(errors="replace"))

    def step(
        self,
        sequence: int,
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
    ) -> int:
        """Places STEP: append `tokens`, then sample up to `max_tokens`; returns the operation. A mask is a list of
        (vocabulary + 31) // 32 words: token t may be drawn where bit t % 32 of word t // 32 is set."""
        options = self._step_options(
            tokens,
            max_tokens,
            stop_tokens,
            sampling,
            each,
            logits,
            priority,
            deadline_ns,
            user_data,
            stop_sequences,
            top_logprobs,
            masks,
        )
        operation = ctypes.c_uint64()
        self._asked_for_results |= logits or top_logprobs != 0
        with self._submitting:
            code = self._library.iokv_step(self.handle, sequence, ctypes.byref(options), ctypes.byref(operation))
            self._check_placed(code)
        return operation.value

    def fork(self, parent: int, tokens: int | None = None, *, user_data: int = 0) -> tuple[int, int]:
        """Places FORK of the parent's first `tokens` tokens (None: all); returns (child, operation)."""
        child, operation = ctypes.c_uint64(), ctypes.c_uint64()
        count = abi.WHOLE_SEQUENCE if tokens is None else _u32("tokens", tokens)
        with self._submitting:
            code = self._library.iokv_fork(
                self.handle, parent, count, user_data, ctypes.byref(child), ctypes.byref(operation)
            )
        _check(code)
        return child.value, operation.value

    def truncate(self, sequence: int, length: int, *, user_data: int = 0) -> int:
        """Places TRUNCATE: drop every token from position `length` on; returns the operation."""
        operation = ctypes.c_uint64()
        with self._submitting:
            code = self._library.iokv_truncate(self.handle, sequence, _u32("length", length), user_data, ctypes.byref(operation))
        _check(code)
        return operation.value

    def cancel(self, sequence: int, target: int = 0, *, user_data: int = 0) -> int:
        """Places CANCEL of one operation (0: all of the sequence's); returns the CANCEL's own operation."""
        operation = ctypes.c_uint64()
        with self._submitting:
            code = self._library.iokv_cancel(self.handle, sequence, target, user_data, ctypes.byref(operation))
        _check(code)
        return operation.value

    def close(self, sequence: int, *, user_data: int = 0) -> int:
        """Places CLOSE; returns the operation."""
        operation = ctypes.c_uint64()
        with self._submitting:
            code = self._library.iokv_close(self.handle, sequence, user_data, ctypes.byref(operation))
        _check(code)
        return operation.value

    def nop(self, *, user_data: int = 0) -> int:
        """Places NOP; returns the operation."""
        operation = ctypes.c_uint64()
        with self._submitting:
            code = self._library.iokv_nop(self.handle, user_data, ctypes.byref(operation))
        _check(code)
        return operation.value

    def submit(self) -> int:
        """Makes placed entries visible to the daemon; returns how many."""
        with self._submitting:
            code = self._library.iokv_submit(self.handle)
        return _check(code)

    def reap(self, capacity: int = 256, timeout: float | None = None) -> list[Completion]:
        """Up to `capacity` (at most 256) completions; waits up to `timeout` seconds (None: no limit) for the first."""
        capacity = min(capacity, _REAP_AT_ONCE)
        with self._reaping:
            count = self._library.iokv_reap(self.handle, self._buffer, capacity, timeout_ns(timeout))
            if count < 0:
                if self._handle is None:  # the wake was that of disconnect
                    raise error_for(-8, "the connection was ended by disconnect")
                raise error_for(count, strerror(count))
            completions = list(map(_completion, _COMPLETION.iter_unpack(self._bytes[: count * _COMPLETION.size])))
            if self._asked_for_results:
                for i, completion in enumerate(completions):
                    if completion.flags & (abi.LOGITS | abi.TOP):
                        completions[i] = completion._replace(results=self._take_results(self._buffer[i]))
            return completions

    def _take_results(self, raw: abi.Completion) -> _Results:
        top = self._take_top(raw) if raw.flags & abi.TOP else ()
        if raw.flags & abi.LOGITS and self._borrows:
            return _Results(None, self._borrow_logits(raw), top)
        logits = self._copy_logits(raw) if raw.flags & abi.LOGITS else None
        _check(self._library.iokv_release(self.handle, ctypes.byref(raw)))
        return _Results(logits, None, top)

    def _logits_view(self, raw: abi.Completion) -> abi.LogitsView:
        view = abi.sized(abi.LogitsView)
        _check(self._library.iokv_logits(self.handle, ctypes.byref(raw), ctypes.byref(view)))
        if view.dtype != abi.F32:
            raise error_for(-23, f"logits of dtype {view.dtype}: this package reads float32")
        return view

    def _copy_logits(self, raw: abi.Completion) -> memoryview[float]:
        view = self._logits_view(raw)
        return memoryview(ctypes.string_at(view.data, 4 * view.count)).cast("f")

    def _borrow_logits(self, raw: abi.Completion) -> BorrowedLogits:
        view = self._logits_view(raw)
        return BorrowedLogits(self, abi.Completion.from_buffer_copy(raw), view.data, view.count)

    def _take_top(self, raw: abi.Completion) -> tuple[TokenLogprob, ...]:
        entries, count = ctypes.POINTER(abi.TokenLogprob)(), ctypes.c_uint32()
        _check(
            self._library.iokv_top_logprobs(
                self.handle, ctypes.byref(raw), ctypes.byref(entries), ctypes.byref(count)
            )
        )
        return tuple(TokenLogprob(entry.token, entry.logprob) for entry in entries[: count.value])

    def release(self, raw: abi.Completion) -> None:
        """Gives borrowed logits back; after the connection's end there is nothing to give back. Reaping thread."""
        with self._reaping:
            if self._handle is not None:
                _check(self._library.iokv_release(self._handle, ctypes.byref(raw)))

    def fileno(self) -> int:
        """The descriptor to poll; readable when completions may have come or the daemon has gone."""
        with self._life:
            return _check(self._library.iokv_fd(self.handle))

    def wake(self) -> None:
        """Ends a present or the next blocking reap with WokenError. Any thread."""
        with self._life:
            _check(self._library.iokv_wake(self.handle))

    def outstanding(self) -> int:
        """Operations whose final completion has not been reaped."""
        with self._life:
            return int(self._library.iokv_outstanding(self.handle))

    def generate(
        self,
        sequence: int,
        tokens: TokenList[int],
        max_tokens: int,
        *,
        stop_tokens: TokenList[int] = (),
        sampling: Sampling | None = None,
        each: bool = False,
        logits: bool = False,
        priority: int = 0,
        deadline_ns: int = 0,
        stop_sequences: TokenList[TokenList[int]] = (),
        top_logprobs: int = 0,
        masks: TokenList[TokenList[int]] = (),
    ) -> list[int]:
        """iokv_generate: one blocking step with nothing else outstanding; returns the sampled tokens. `each`, `logits` and
        `top_logprobs`, whose completions nobody would see, are an InvalidArgumentError."""
        options = self._step_options(
            tokens,
            max_tokens,
            stop_tokens,
            sampling,
            each,
            logits,
            priority,
            deadline_ns,
            0,
            stop_sequences,
            top_logprobs,
            masks,
        )
        sampled, count = (ctypes.c_int32 * max(1, max_tokens))(), ctypes.c_uint32()
        with self._submitting, self._reaping:
            code = self._library.iokv_generate(
                self.handle, sequence, ctypes.byref(options), sampled, max_tokens, ctypes.byref(count)
            )
        _check(code)
        return list(sampled[: count.value])

    def token_bytes(self, token: int) -> bytes:
        """The bytes of a token's text, possibly part of a UTF-8 character."""
        if not self._has_texts:  # the first call fetches them
            with self._submitting, self._reaping:
                _check(self._token_bytes(0)[0])
            self._has_texts = True
        with self._life:
            code, data = self._token_bytes(token)
        _check(code)
        return data

    def _token_bytes(self, token: int) -> tuple[int, bytes]:
        data, size = ctypes.c_void_p(), ctypes.c_uint32()
        code = self._library.iokv_token_bytes(self.handle, token, ctypes.byref(data), ctypes.byref(size))
        return code, ctypes.string_at(data, size.value) if code == 0 and size.value else b""

    def _text(self, file: int) -> bytes:
        data, size = ctypes.c_void_p(), ctypes.c_uint64()
        with self._submitting, self._reaping:
            _check(self._library.iokv_text(self.handle, file, ctypes.byref(data), ctypes.byref(size)))
            return ctypes.string_at(data, size.value) if size.value else b""

    def tokenizer_file(self) -> bytes:
        """tokenizer.json as HF `tokenizers` reads it; empty when the model came without it."""
        return self._text(abi.TEXT_TOKENIZER)

    def chat_template(self) -> str:
        """The model's Jinja chat template; empty when it came without one."""
        return self._text(abi.TEXT_CHAT_TEMPLATE).decode(errors="replace")

    def counters(self) -> list[Counter]:
        """The daemon's counters, read from memory that it shares."""
        found: list[Counter] = []
        counter = abi.Counter()
        with self._submitting, self._reaping:
            while True:
                code = self._library.iokv_get_counter(self.handle, len(found), ctypes.byref(counter))
                if code == -1 and found:
                    return found
                _check(code)
                found.append(
                    Counter(counter.name.decode(), counter.unit.decode(), counter.meaning.decode(), counter.value)
                )
