# SPDX-License-Identifier: Apache-2.0
"""The routes: /v1/models, /v1/completions, /v1/chat/completions, and /health. A worker is one process, one event loop and one
client of the daemon.

Invariants
 1. Nothing of a request but its path is ever logged.
 2. A client that hangs up has its steps cancelled, streaming or not.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from iokv.aio import AsyncClient
from iokv.errors import ConnectionClosedError, Error
from iokv.serve.answers import ChatForm, CompletionForm, Form, events, whole
from iokv.serve.api import ApiError, ChatRequest, CompletionRequest, error_of
from iokv.serve.engine import Engine, Generation, api_error

# Of one request's body: 8 MiB of JSON are some million tokens.
_MAX_BODY_BYTES = 8 << 20

# How main.py tells its workers, which are new processes.
ENVIRONMENT = ("IOKV_SERVE_SOCKET", "IOKV_SERVE_MODEL", "IOKV_SERVE_TIMEOUT")

Parsed = TypeVar("Parsed", CompletionRequest, ChatRequest)
Done = TypeVar("Done")


async def _body(request: Request) -> Any:
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > _MAX_BODY_BYTES:
            raise ApiError(413, f"the body has more than {_MAX_BODY_BYTES} bytes")
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is not JSON") from None


async def _parse(request: Request, kind: type[Parsed], engine: Engine) -> Parsed:
    given = await _body(request)
    try:
        parsed = kind.model_validate(given)
    except ValidationError as invalid:
        raise error_of(invalid) from None
    if parsed.model != engine.model:
        raise ApiError(404, f"there is no such model: {engine.model} is served", param="model", code="model_not_found")
    return parsed


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Done]) -> Done | None:
    """The result; None when the client has hung up, and `work` was cancelled."""

    async def hung_up() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(hung_up())
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _answer(request: Request, form: Form, generation: Generation, echoed: list[str]) -> Response:
    if generation.request.stream:
        pieces = await generation.start()
        return StreamingResponse(events(form, generation, pieces, echoed), media_type="text/event-stream",
                                 headers={"cache-control": "no-cache"})  # fmt: skip

    async def all_of_it() -> Any:
        return await whole(form, generation, await generation.start(), echoed)

    body = await _unless_gone(request, all_of_it())
    return JSONResponse(body) if body is not None else Response(status_code=499)


def _told(failure: ApiError) -> JSONResponse:
    return JSONResponse(failure.body(), status_code=failure.status)


def create() -> FastAPI:
    """The application of one worker; its settings are in the environment (ENVIRONMENT)."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        client = AsyncClient(
            os.environ.get("IOKV_SERVE_SOCKET") or None,
            name="iokv-serve",
            timeout=float(os.environ.get("IOKV_SERVE_TIMEOUT", "600")),
            submission_entries=1024,
            completion_entries=8192,
        )
        await client.connect()
        app.state.engine = Engine(client, os.environ.get("IOKV_SERVE_MODEL") or None)
        try:
            yield
        finally:
            client.close()

    # No pages that describe the interface, which would be another place to say what api.py says.
    app = FastAPI(title="iokv-serve", lifespan=lifespan, openapi_url=None)

    def engine() -> Engine:
        found: Engine = app.state.engine
        return found

    @app.exception_handler(ApiError)
    async def refused(_: Request, failure: ApiError) -> JSONResponse:
        return _told(failure)

    @app.exception_handler(Error)
    async def failed(_: Request, failure: Error) -> JSONResponse:
        return _told(api_error(failure))

    @app.exception_handler(HTTPException)
    async def not_there(request: Request, failure: HTTPException) -> JSONResponse:
        return _told(ApiError(failure.status_code, f"{request.method} {request.url.path}: {failure.detail}"))

    @app.get("/health")
    async def health() -> dict[str, str]:
        try:
            await engine().client.nop()
        except ConnectionClosedError as failure:
            raise api_error(failure) from None
        return {"status": "ok"}

    def model_card() -> dict[str, Any]:
        return {"id": engine().model, "object": "model", "created": 0, "owned_by": "iokv",
                "max_model_len": engine().client.info.max_context}  # fmt: skip

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model_card()]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        if name != engine().model:
            raise ApiError(404, f"there is no such model: {engine().model} is served", param="model", code="model_not_found")
        return model_card()

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        said = await _parse(request, CompletionRequest, engine())
        generation = engine().completion(said)
        echoed = [engine().shown(prompt) for prompt in generation.prompts] if said.echo else []
        return await _answer(request, CompletionForm(engine(), generation), generation, echoed)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        said = await _parse(request, ChatRequest, engine())
        generation = engine().chat(said)
        return await _answer(request, ChatForm(engine(), generation), generation, [])

    return app
