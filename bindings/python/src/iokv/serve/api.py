# SPDX-License-Identifier: Apache-2.0
"""What a request may say, checked: /v1/completions and /v1/chat/completions, and errors in OpenAI's form.

Invariants
 1. A field that is not supported is an error that names it; none is ignored, but for those that are null or ask for what is
    done anyway.
 2. No error repeats a prompt, a message or any other text of the request.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

# OpenAI's own limits.
_MAX_CHOICES = 128
_MAX_STOPS = 4
_MAX_TOP_LOGPROBS = 20


class ApiError(Exception):
    """Answered as {"error": {...}} with `status`."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 and self.status != 429 else "server_error"
        if self.status == 429:
            kind = "rate_limit_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def error_of(invalid: ValidationError) -> ApiError:
    """The first thing that is wrong, by its name and range, without what was given."""
    first = invalid.errors(include_url=False, include_context=False, include_input=False)[0]
    name = ".".join(str(part) for part in first["loc"]) or None
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"{name} is not supported", param=name, code="unsupported_parameter")
    if first["type"] == "unsupported":
        return ApiError(400, first["msg"], param=first["msg"].split()[0], code="unsupported_parameter")
    return ApiError(400, f"{name}: {first['msg']}" if name else first["msg"], param=name, code="invalid_value")


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False


class Request(BaseModel):
    """What both kinds have. min_p, top_k, typical_p, repetition_penalty and ignore_eos are additions to OpenAI's (`extra_body`)."""

    model_config = ConfigDict(extra="forbid", strict=False)

    model: str
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, ge=0, le=1)
    top_k: int = Field(0, ge=0)
    min_p: float = Field(0.0, ge=0, le=1)
    typical_p: float = Field(1.0, ge=0, le=1)
    repetition_penalty: float = Field(1.0, ge=0.01, le=100)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    logit_bias: dict[int, Annotated[float, Field(ge=-100, le=100)]] = Field(default_factory=dict)
    n: int = Field(1, ge=1, le=_MAX_CHOICES)
    seed: int | None = None
    stop: list[str] = Field(default_factory=list, max_length=_MAX_STOPS)
    ignore_eos: bool = False
    stream: bool = False
    stream_options: StreamOptions = Field(default_factory=StreamOptions)
    user: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        """null is what was not said; a stop string is a list of one."""
        if not isinstance(given, dict):
            return given
        said = {name: value for name, value in given.items() if value is not None}
        if isinstance(said.get("stop"), str):
            said["stop"] = [said["stop"]]
        return said

    @property
    def top_logprobs_wanted(self) -> int | None:
        """How many most probable tokens, or None: no log-probabilities at all."""
        raise NotImplementedError


class CompletionRequest(Request):
    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: int = Field(16, ge=0)
    logprobs: int | None = Field(None, ge=0, le=_MAX_TOP_LOGPROBS)
    echo: bool = False
    best_of: int | None = None

    @property
    def top_logprobs_wanted(self) -> int | None:
        return self.logprobs

    @model_validator(mode="after")
    def _possible(self) -> CompletionRequest:
        if self.best_of is not None and self.best_of != self.n:
            raise ApiError(400, "best_of is not supported", param="best_of", code="unsupported_parameter")
        if self.echo and self.logprobs is not None:
            raise ApiError(400, "echo with logprobs is not supported", param="echo", code="unsupported_parameter")
        return self

    def prompts(self) -> list[str] | list[list[int]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]
        return self.prompt  # type: ignore[return-value]


class TextPart(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    def as_template(self) -> dict[str, str]:
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        said = {"role": "system" if self.role == "developer" else self.role, "content": text}
        return said if self.name is None else {**said, "name": self.name}


class ResponseFormat(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]


class ChatRequest(Request):
    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=_MAX_TOP_LOGPROBS)
    response_format: ResponseFormat | None = None

    @property
    def top_logprobs_wanted(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @model_validator(mode="after")
    def _possible(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs true", param="top_logprobs", code="invalid_value")
        return self
