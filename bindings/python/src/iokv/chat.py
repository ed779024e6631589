# SPDX-License-Identifier: Apache-2.0
"""iokv-chat: talk to the model of a running iokvd, or (--prompt) ask it once. The conversation stays in the daemon as
one sequence: a turn sends only the tokens that are new, after rolling back what the template renders differently.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass

from iokv.client import Client, Sequence
from iokv.connection import Sampling
from iokv.errors import Error, UnsupportedError
from iokv.text import Message, Text

_COLUMNS = 96


class PlainOutput:
    """Text as it comes."""

    def write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    def end(self) -> None:
        self.write("\n")


class LabelledOutput:
    """Whole lines behind a label, one write each, so that several processes can share a terminal. Breaks at words."""

    def __init__(self, label: str, color: int | None) -> None:
        self._prefix = f"{label} │ "
        if color is not None and sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
            self._prefix = f"\x1b[3{color % 8}m{self._prefix}\x1b[0m"
        self._line = ""

    def write(self, text: str) -> None:
        *finished, self._line = (self._line + text).split("\n")
        for line in finished:
            self._emit_wrapped(line)
        if len(self._line) > _COLUMNS and " " in self._line[:_COLUMNS]:
            space = self._line[:_COLUMNS].rindex(" ")
            self._emit(self._line[:space])
            self._line = self._line[space + 1 :]

    def end(self) -> None:
        if self._line:
            self._emit_wrapped(self._line)
        self._line = ""

    def _emit_wrapped(self, line: str) -> None:
        for part in textwrap.wrap(line, _COLUMNS) or [""]:
            self._emit(part)

    def _emit(self, line: str) -> None:
        sys.stdout.write(f"{self._prefix}{line}\n")
        sys.stdout.flush()


@dataclass
class Statistics:
    """What one turn took, as a client sees it."""

    prompt_tokens: int = 0
    tokens: int = 0
    first_token_s: float = 0.0
    seconds: float = 0.0

    def as_dict(self) -> dict[str, float]:
        after_first = self.seconds - self.first_token_s
        rate = (self.tokens - 1) / after_first if self.tokens > 1 and after_first > 0 else 0.0
        return {
            "prompt_tokens": self.prompt_tokens,
            "tokens": self.tokens,
            "first_token_s": round(self.first_token_s, 4),
            "seconds": round(self.seconds, 4),
            "tokens_per_s": round(rate, 2),
        }


class Numbers:
    """Stands in for a tokenizer where the model came without one: bytes are the prompt, numbers the answer."""

    def __init__(self, client: Client) -> None:
        self._vocabulary = client.info.vocabulary

    def render(self, messages: list[Message]) -> str:
        return "\n".join(message["content"] for message in messages)

    def encode(self, text: str) -> list[int]:
        return [byte % self._vocabulary for byte in text.encode()]

    def decoder(self) -> Numbers:
        return self

    def add(self, token: int) -> str:
        return f"{token} "

    def end(self) -> str:
        return ""


class Conversation:
    """One sequence of the daemon and the messages that it holds."""

    def __init__(self, client: Client, sampling: Sampling, system: str | None) -> None:
        self._client = client
        self._sequence: Sequence = client.open(sampling)
        self._held: list[int] = []
        self._messages: list[Message] = [{"role": "system", "content": system}] if system else []
        self.statistics = Statistics()
        self._text: Text | Numbers
        try:
            self._text = Text(client.connection)
        except UnsupportedError as reason:
            print(f"iokv-chat: {reason}: tokens are shown as numbers", file=sys.stderr)
            self._text = Numbers(client)

    def _new_tokens(self, rendered: list[int]) -> list[int]:
        """Rolls the sequence back to where it agrees with `rendered`; returns what is to be appended."""
        common = 0
        # At least one token is always sent: the answer is drawn after it.
        for held, wanted in zip(self._held, rendered[:-1]):
            if held != wanted:
                break
            common += 1
        if common < len(self._held):
            self._sequence.truncate(common)
            del self._held[common:]
        return rendered[common:]

    def ask(self, prompt: str, max_tokens: int) -> Iterator[str]:
        """The answer's text, piece by piece."""
        self._messages.append({"role": "user", "content": prompt})
        new = self._new_tokens(self._text.encode(self._text.render(self._messages)))
        self.statistics = Statistics(prompt_tokens=len(new))
        decoder, answer = self._text.decoder(), ""
        started = time.monotonic()
        for completion in self._sequence.step(new, max_tokens, stop_tokens=self._client.info.end_tokens):
            self.statistics.seconds = time.monotonic() - started
            if self.statistics.tokens == 0:
                self.statistics.first_token_s = self.statistics.seconds
                self._held += new
            self.statistics.tokens += 1
            self._held.append(completion.token)
            piece = "" if completion.stopped else decoder.add(completion.token)
            answer += piece
            yield piece
        yield decoder.end()
        self._messages.append({"role": "assistant", "content": answer})


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="iokv-chat", description="Talk to the model of a running iokvd.")
    parser.add_argument("--socket", help="the daemon's socket (default: where libiokv looks)")
    parser.add_argument("--prompt", help="ask this, print the answer and end")
    parser.add_argument("--system", help="system message")
    parser.add_argument("--max-tokens", type=int, default=512, help="longest answer (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the most probable token (default)")
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--top-k", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same text")
    parser.add_argument("--label", help="print whole lines behind this label")
    parser.add_argument("--color", type=int, help="colour of the label, 0 to 7")
    parser.add_argument("--stats", metavar="FILE", help="write tokens, tokens/s and time to first token as JSON lines")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds to wait for the daemon's model")
    return parser.parse_args(argv)


def _turn(conversation: Conversation, prompt: str, arguments: argparse.Namespace) -> None:
    output = LabelledOutput(arguments.label, arguments.color) if arguments.label else PlainOutput()
    try:
        for piece in conversation.ask(prompt, arguments.max_tokens):
            output.write(piece)
    finally:
        output.end()
    if arguments.stats:
        with open(arguments.stats, "a", encoding="utf-8") as file:
            file.write(json.dumps(conversation.statistics.as_dict()) + "\n")


def _chat(arguments: argparse.Namespace) -> None:
    sampling = Sampling(arguments.temperature, arguments.top_p, arguments.top_k, arguments.seed)
    name = arguments.label or "iokv-chat"
    with Client(arguments.socket, name=name, timeout=arguments.timeout) as client:
        conversation = Conversation(client, sampling, arguments.system)
        if arguments.prompt is not None:
            _turn(conversation, arguments.prompt, arguments)
            return
        print(f"{client.info.model_name}; an empty line or Ctrl-D ends", file=sys.stderr)
        while line := input("> "):
            _turn(conversation, line, arguments)


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0, 1 after an error of the daemon or the library, 130 after Ctrl-C."""
    arguments = _arguments(argv)
    try:
        _chat(arguments)
    except (Error, OSError, ValueError) as failure:
        print(f"iokv-chat: {failure}", file=sys.stderr)
        return 1
    except EOFError:
        print(file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
