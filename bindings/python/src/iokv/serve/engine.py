# SPDX-License-Identifier: Apache-2.0
"""Text in, pieces of text out, over one AsyncClient. One event loop.

Invariants
 1. Whoever stops iterating over a Generation, or is cancelled, has its sequences closed, and with them the steps.
 2. A piece's text never ends within a character, nor with what may be the beginning of a stop string.
 3. The samples of one prompt share its cache: they are forks of the sequence that holds it.
"""

from __future__ import annotations

import asyncio
import codecs
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from iokv.aio import AsyncClient, AsyncSequence
from iokv.connection import Sampling, TokenLogprob
from iokv.errors import (
    ConnectionClosedError,
    ContextFullError,
    Error,
    InvalidArgumentError,
    LimitError,
    PoolTooSmallError,
    UnsupportedError,
)
from iokv.serve.api import ApiError, ChatRequest, CompletionRequest, Request
from iokv.text import Text


@dataclass(slots=True)
class Drawn:
    """A token that was drawn, with its text's bytes and, where they were asked for, the most probable ones."""

    token: int
    logprob: float
    text: bytes
    top: tuple[TokenLogprob, ...]


@dataclass(slots=True)
class Piece:
    """What has become of choice `index` since its last piece."""

    index: int
    text: str
    drawn: list[Drawn] = field(default_factory=list)
    finish_reason: str | None = None


@dataclass(slots=True)
class Usage:
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def as_dict(self) -> dict[str, int]:
        total = self.prompt_tokens + self.completion_tokens
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens, "total_tokens": total}


class Stops:
    """Finds the first stop string in text that comes in pieces."""

    def __init__(self, stops: list[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""

    def add(self, text: str) -> tuple[str, bool]:
        """The text that can be shown, and whether a stop string has come (it and what is behind it are not shown)."""
        if not self._stops:
            return text, False
        self._held += text
        found = [at for at in (self._held.find(stop) for stop in self._stops) if at >= 0]
        if found:
            return self._held[: min(found)], True
        keep = self._beginning()
        shown = self._held[: len(self._held) - keep]
        self._held = self._held[len(self._held) - keep :]
        return shown, False

    def end(self) -> str:
        held, self._held = self._held, ""
        return held

    def _beginning(self) -> int:
        """Characters at the end that may be the beginning of a stop string."""
        longest = min(len(self._held), max(map(len, self._stops)) - 1)
        for length in range(longest, 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0


class Engine:
    """One client of the daemon, and the model's text side. `model` is the id by which requests name it."""

    def __init__(self, client: AsyncClient, model: str | None = None) -> None:
        self.client = client
        self.model = model or client.info.model_name
        self._bytes: dict[int, bytes] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._text: Text | None = None
        self._no_text = ""
        try:
            self._text = Text(client.connection)
        except UnsupportedError as reason:
            self._no_text = str(reason)

    @property
    def text(self) -> Text:
        if self._text is None:
            raise ApiError(400, f"{self._no_text}: prompts must be lists of tokens", param="prompt")
        return self._text

    def token_bytes(self, token: int) -> bytes:
        found = self._bytes.get(token)
        if found is None:
            try:
                found = self.client.connection.token_bytes(token)
            except UnsupportedError:
                found = f"{token} ".encode()  # the model came without a vocabulary
            self._bytes[token] = found
        return found

    def shown(self, tokens: list[int]) -> str:
        """Their text."""
        return b"".join(map(self.token_bytes, tokens)).decode(errors="replace")

    def completion(self, request: CompletionRequest) -> Generation:
        prompts: list[list[int]] = []
        for prompt in request.prompts():
            prompts.append(self.text.encode_prompt(prompt) if isinstance(prompt, str) else list(prompt))
        if not prompts or not all(prompts):
            raise ApiError(400, "prompt is empty: give one token at least", param="prompt", code="invalid_value")
        return Generation(self, request, prompts, request.max_tokens)

    def chat(self, request: ChatRequest) -> Generation:
        try:
            rendered = self.text.render([message.as_template() for message in request.messages])
        except Exception as failure:  # a template may raise anything; what it says is about roles and their order
            raise ApiError(400, f"messages: {type(failure).__name__}: the chat template refuses them", param="messages",
                           code="invalid_value") from None  # fmt: skip
        prompt = self.text.encode(rendered)
        most = request.max_completion_tokens or request.max_tokens
        if most is None:
            most = max(1, self.client.info.max_context - len(prompt))
        return Generation(self, request, [prompt], most)

    def close_later(self, sequence: AsyncSequence) -> None:
        """Closes it whatever becomes of the caller's task."""

        async def close() -> None:
            try:
                await sequence.close()
            except Error:
                pass  # the daemon has gone, and the sequence with it

        task = asyncio.get_running_loop().create_task(close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


class Generation:
    """The choices of one request. `async for` gives their pieces as they come; `usage` counts."""

    def __init__(self, engine: Engine, request: Request, prompts: list[list[int]], max_tokens: int) -> None:
        self.engine, self.request, self.prompts, self.max_tokens = engine, request, prompts, max_tokens
        self.usage = Usage(prompt_tokens=sum(map(len, prompts)))
        self._seed = secrets.randbits(63) if request.seed is None else request.seed
        self._check()

    def _check(self) -> None:
        info = self.engine.client.info
        for prompt in self.prompts:
            if len(prompt) + self.max_tokens > info.max_context:
                raise ApiError(
                    400,
                    f"this model's context is {info.max_context} tokens: the prompt has {len(prompt)}, and "
                    f"{self.max_tokens} more were asked for",
                    param="messages" if isinstance(self.request, ChatRequest) else "prompt",
                    code="context_length_exceeded",
                )
            if any(not 0 <= token < info.vocabulary for token in prompt):
                raise ApiError(400, f"prompt: a token is not 0 to {info.vocabulary - 1}", param="prompt")
        for token in self.request.logit_bias:
            if not 0 <= token < info.vocabulary:
                raise ApiError(400, f"logit_bias: token {token} is not 0 to {info.vocabulary - 1}", param="logit_bias")

    def sampling(self, prompt: list[int], choice: int) -> Sampling:
        request = self.request
        return Sampling(
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            seed=self._seed + choice,
            min_p=request.min_p,
            typical_p=request.typical_p,
            repetition_penalty=request.repetition_penalty,
            presence_penalty=request.presence_penalty,
            frequency_penalty=request.frequency_penalty,
            frequency_from=len(prompt),
            logit_bias=tuple(request.logit_bias.items()),
        )

    async def start(self) -> AsyncIterator[Piece]:
        """The pieces, once the first one is there: what is refused at once raises here, before anything was answered."""
        pieces = self._pieces()
        try:
            first = await anext(pieces)
        except StopAsyncIteration:
            return _again([], pieces)
        except Error as failure:
            raise api_error(failure) from None
        return _again([first], pieces)

    async def _pieces(self) -> AsyncIterator[Piece]:
        n = self.request.n
        if len(self.prompts) == 1 and n == 1:
            sequence = await self.engine.client.open()
            try:
                async for piece in self._choice(sequence, self.prompts[0], self.prompts[0], 0):
                    yield piece
            finally:
                self.engine.close_later(sequence)
            return
        sequences: list[AsyncSequence] = []
        arrived: asyncio.Queue[Piece | BaseException | None] = asyncio.Queue()
        tasks: list[asyncio.Task[None]] = []

        async def run(sequence: AsyncSequence, prompt: list[int], new: list[int], index: int) -> None:
            try:
                async for piece in self._choice(sequence, prompt, new, index):
                    arrived.put_nowait(piece)
                arrived.put_nowait(None)
            except BaseException as failure:
                arrived.put_nowait(failure)
                raise

        try:
            for number, prompt in enumerate(self.prompts):
                parent = await self.engine.client.open()
                sequences.append(parent)
                children = [parent]
                if n > 1:
                    await (await parent.step(prompt)).result()
                for _ in range(n - 1):
                    children.append(await parent.fork())
                    sequences.append(children[-1])
                for choice, sequence in enumerate(children):
                    new = prompt if n == 1 else []
                    tasks.append(asyncio.create_task(run(sequence, prompt, new, number * n + choice)))
            running = len(tasks)
            while running:
                one = await arrived.get()
                if isinstance(one, Piece):
                    yield one
                elif one is None:
                    running -= 1
                else:
                    raise one
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for sequence in sequences:
                self.engine.close_later(sequence)

    async def _choice(
        self, sequence: AsyncSequence, prompt: list[int], new: list[int], index: int
    ) -> AsyncIterator[Piece]:
        """Appends `new` to the sequence, which then holds the prompt, and draws."""
        engine, request = self.engine, self.request
        if self.max_tokens == 0:
            await (await sequence.step(new)).result()
            yield Piece(index, "", finish_reason="length")
            return
        utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        stops = Stops(request.stop)
        wanted = request.top_logprobs_wanted
        operation = await sequence.step(
            new,
            self.max_tokens,
            stop_tokens=() if request.ignore_eos else engine.client.info.end_tokens,
            sampling=self.sampling(prompt, index % request.n),
            top_logprobs=wanted or 0,
        )
        async for completion in operation:
            self.usage.completion_tokens += 1
            drawn: list[Drawn] = []
            text, stopped = "", completion.stopped
            if not completion.stopped:
                data = engine.token_bytes(completion.token)
                if wanted is not None:
                    drawn.append(Drawn(completion.token, completion.logprob, data, completion.top))
                text, stopped = stops.add(utf8.decode(data))
            if stopped and not completion.stopped:
                yield Piece(index, text, drawn, "stop")
                return  # the sequence is closed, and with it the step
            if completion.final:
                rest, stopped_by_rest = stops.add(utf8.decode(b"", final=True))
                text += rest if stopped_by_rest else rest + stops.end()
                stop = completion.stopped or stopped_by_rest
                yield Piece(index, text, drawn, "stop" if stop else "length")
                return
            if text or drawn:
                yield Piece(index, text, drawn)


async def _again(first: list[Piece], rest: AsyncIterator[Piece]) -> AsyncIterator[Piece]:
    try:
        for piece in first:
            yield piece
        async for piece in rest:
            yield piece
    finally:
        await rest.aclose()  # type: ignore[attr-defined]


def api_error(failure: Error) -> ApiError:
    """A failure of the daemon or of libiokv, as the HTTP client is told."""
    message = str(failure)
    if isinstance(failure, ContextFullError):
        return ApiError(400, message, code="context_length_exceeded")
    if isinstance(failure, PoolTooSmallError):
        return ApiError(400, message, code="context_length_exceeded")
    if isinstance(failure, LimitError):
        return ApiError(429, f"{message}: too many requests at once", code="rate_limit_exceeded")
    if isinstance(failure, InvalidArgumentError):
        return ApiError(400, message, code="invalid_value")
    if isinstance(failure, ConnectionClosedError):
        return ApiError(503, f"the daemon is gone: {message}", code="daemon_gone")
    return ApiError(500, message, code=failure.name.lower() or None)



