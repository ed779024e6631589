# SPDX-License-Identifier: Apache-2.0
"""Text to tokens and back, from what the daemon hands out: HF `tokenizers` for encoding, jinja2 for the chat template,
the daemon's table of token bytes for decoding. The daemon itself only ever sees tokens.
"""

from __future__ import annotations

import codecs
import datetime
import json
from typing import NoReturn

from iokv.connection import Connection
from iokv.errors import UnsupportedError

Message = dict[str, str]


class Decoder:
    """Turns a stream of tokens into text, holding back the bytes of an unfinished character."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token: int) -> str:
        return self._utf8.decode(self._connection.token_bytes(token))

    def end(self) -> str:
        return self._utf8.decode(b"", final=True)


class Text:
    """A model's text side. Raises UnsupportedError when the model came without a tokenizer."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        definition = connection.tokenizer_file()
        if not definition:
            raise UnsupportedError("the model came without a tokenizer")
        try:
            import jinja2.sandbox
            from tokenizers import Tokenizer
        except ImportError as missing:
            raise UnsupportedError(f"the package {missing.name} is not installed") from missing
        self._tokenizer = Tokenizer.from_str(definition.decode())
        source = connection.chat_template()
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        # As transformers has it: not HTML-escaped, unlike jinja2's own.
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
        self._template = environment.from_string(source) if source else None

    def _special(self, token: int | None) -> str:
        return "" if token is None else self._connection.token_bytes(token).decode(errors="replace")

    def render(self, messages: list[Message]) -> str:
        """The conversation as the model was trained to see it, ending where the assistant speaks next."""
        info = self._connection.info
        if self._template is None:
            return self._special(info.begin_token) + "\n".join(message["content"] for message in messages)
        return self._template.render(
            messages=messages,
            tools=None,
            documents=None,
            add_generation_prompt=True,
            bos_token=self._special(info.begin_token),
            eos_token=self._special(info.end_tokens[0] if info.end_tokens else None),
        )

    def encode(self, text: str) -> list[int]:
        """Tokens of a text in which special tokens are spelled out."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_prompt(self, text: str) -> list[int]:
        """Tokens of a plain text, with those that the model's tokenizer puts around it."""
        return list(self._tokenizer.encode(text, add_special_tokens=True).ids)

    def decoder(self) -> Decoder:
        return Decoder(self._connection)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    raise ValueError(f"the chat template refuses the conversation: {message}")
