# SPDX-License-Identifier: Apache-2.0
"""What is sent back: whole bodies, and server-sent events of the same shape. Objects are OpenAI's `text_completion`,
`chat.completion` and `chat.completion.chunk`.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from iokv.errors import Error
from iokv.serve.api import ApiError
from iokv.serve.engine import Drawn, Engine, Generation, Piece, api_error

JSON = dict[str, Any]


def _shown(data: bytes) -> str:
    return data.decode(errors="replace")


class CompletionForm:
    """text_completion; chunks have the same form."""

    def __init__(self, engine: Engine, generation: Generation) -> None:
        self._engine, self._generation = engine, generation
        self._offsets: dict[int, int] = {}
        self.head = {"id": f"cmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": engine.model}
        self.kind = self.chunk_kind = "text_completion"

    def first_chunks(self) -> list[JSON]:
        return []

    def _logprobs(self, index: int, drawn: list[Drawn]) -> JSON | None:
        if self._generation.request.top_logprobs_wanted is None:
            return None
        offset, offsets = self._offsets.get(index, 0), []
        for one in drawn:
            offsets.append(offset)
            offset += len(_shown(one.text))
        self._offsets[index] = offset
        tops = [{_shown(self._engine.token_bytes(top.token)): top.logprob for top in one.top} for one in drawn]
        return {
            "tokens": [_shown(one.text) for one in drawn],
            "token_logprobs": [one.logprob for one in drawn],
            "top_logprobs": tops if any(tops) else None,
            "text_offset": offsets,
        }

    def chunk(self, piece: Piece) -> JSON:
        return {
            "index": piece.index,
            "text": piece.text,
            "logprobs": self._logprobs(piece.index, piece.drawn) if piece.drawn else None,
            "finish_reason": piece.finish_reason,
        }

    def choice(self, index: int, text: str, drawn: list[Drawn], reason: str) -> JSON:
        return {"index": index, "text": text, "logprobs": self._logprobs(index, drawn), "finish_reason": reason}


class ChatForm:
    """chat.completion and chat.completion.chunk."""

    def __init__(self, engine: Engine, generation: Generation) -> None:
        self._engine, self._generation = engine, generation
        self.head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": engine.model}
        self.kind, self.chunk_kind = "chat.completion", "chat.completion.chunk"

    def first_chunks(self) -> list[JSON]:
        role = {"role": "assistant", "content": ""}
        return [
            {"index": i, "delta": role, "logprobs": None, "finish_reason": None}
            for i in range(self._generation.request.n)
        ]

    def _one(self, token: int, logprob: float) -> JSON:
        data = self._engine.token_bytes(token)
        return {"token": _shown(data), "logprob": logprob, "bytes": list(data)}

    def _logprobs(self, drawn: list[Drawn]) -> JSON | None:
        if self._generation.request.top_logprobs_wanted is None:
            return None
        content = [
            {**self._one(one.token, one.logprob), "top_logprobs": [self._one(top.token, top.logprob) for top in one.top]}
            for one in drawn
        ]
        return {"content": content, "refusal": None}

    def chunk(self, piece: Piece) -> JSON:
        return {
            "index": piece.index,
            "delta": {"content": piece.text} if piece.text or piece.finish_reason is None else {},
            "logprobs": self._logprobs(piece.drawn) if piece.drawn else None,
            "finish_reason": piece.finish_reason,
        }

    def choice(self, index: int, text: str, drawn: list[Drawn], reason: str) -> JSON:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message, "logprobs": self._logprobs(drawn), "finish_reason": reason}


Form = CompletionForm | ChatForm


async def whole(form: Form, generation: Generation, pieces: AsyncIterator[Piece], echoed: list[str]) -> JSON:
    """The body that has every choice; `echoed` is what each prompt's text begins with."""
    count, n = len(generation.prompts) * generation.request.n, generation.request.n
    texts = [[echoed[i // n]] if echoed else [] for i in range(count)]
    drawn: list[list[Drawn]] = [[] for _ in range(count)]
    reasons = [""] * count
    async for piece in pieces:
        texts[piece.index].append(piece.text)
        drawn[piece.index] += piece.drawn
        reasons[piece.index] = piece.finish_reason or reasons[piece.index]
    choices = [form.choice(i, "".join(texts[i]), drawn[i], reasons[i]) for i in range(count)]
    return {"object": form.kind, **form.head, "choices": choices, "usage": generation.usage.as_dict()}


async def events(form: Form, generation: Generation, pieces: AsyncIterator[Piece], echoed: list[str]) -> AsyncIterator[bytes]:
    """The same as server-sent events. A failure on the way is an event in OpenAI's form, then the end."""
    n = generation.request.n
    wants_usage = generation.request.stream_options.include_usage
    head = json.dumps({"object": form.chunk_kind, **form.head})[:-1]
    tail = ', "usage": null}\n\n' if wants_usage else "}\n\n"

    def event(choice: JSON) -> bytes:
        return f'data: {head}, "choices": [{json.dumps(choice)}]{tail}'.encode()

    try:
        for choice in form.first_chunks():
            yield event(choice)
        for i, text in enumerate(echoed):
            for k in range(n):
                yield event(form.chunk(Piece(i * n + k, text)))
        async for piece in pieces:
            yield event(form.chunk(piece))
        if wants_usage:
            yield f'data: {head}, "choices": [], "usage": {json.dumps(generation.usage.as_dict())}}}\n\n'.encode()
    except (ApiError, Error) as failure:
        told = failure if isinstance(failure, ApiError) else api_error(failure)
        yield f"data: {json.dumps(told.body())}\n\n".encode()
    finally:
        await pieces.aclose()  # type: ignore[attr-defined]
    yield b"data: [DONE]\n\n"
