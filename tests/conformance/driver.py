# SPDX-License-Identifier: Apache-2.0
"""A binding's conformance driver as a process: one request a line, answers until `ok` or `error`. The protocol is in
bindings/conformance/README.md.

Invariants
 1. An answer comes within LIMIT_S, or the driver is ended and the case has failed.
 2. Numbers and bytes come back as what they are; nothing here decides whether they are right.
"""

from __future__ import annotations

import math
import queue
import struct
import subprocess
import threading
from dataclasses import dataclass
from typing import Self

from iokv.errors import BY_CODE

LIMIT_S = 60.0
# What reap waits; the driver's answer must not come later than LIMIT_S.
REAP_NS = int(45e9)
MORE, TOKEN, PREDICTED, LOGITS, STOPPED, TOP = 1, 2, 4, 8, 16, 32
Words = dict[str, str]


class Failed(Exception):
    """The case does not hold."""


class CallFailed(Exception):
    """A call of the binding failed with a code of iokv.h."""

    def __init__(self, code: int, message: str) -> None:
        self.code = code
        self.name = BY_CODE[code].name if code in BY_CODE else str(code)
        super().__init__(f"{self.name}: {message}")


@dataclass(frozen=True)
class Completion:
    user_data: int
    operation: int
    sequence: int
    result: int
    flags: int
    token: int
    logprob: float
    index: int
    length: int
    dense_ns: int
    logits: memoryview[float] | None
    top: list[tuple[int, float]] | None  # token, logprob

    @property
    def final(self) -> bool:
        return not self.flags & MORE

    @property
    def sampled(self) -> bool:
        return bool(self.flags & TOKEN)

    @property
    def predicted(self) -> bool:
        return bool(self.flags & PREDICTED)

    @property
    def stopped(self) -> bool:
        return bool(self.flags & STOPPED)


def words_of(line: str) -> Words:
    return dict(word.split("=", 1) for word in line.split() if "=" in word)


def bytes_of(text: str) -> bytes:
    return b"" if text == "-" else bytes.fromhex(text)


def completion_of(words: Words) -> Completion:
    integers = {
        name: int(words[name])
        for name in ("user_data", "operation", "sequence", "result", "flags", "token", "index", "length", "dense_ns")
    }
    logprob = struct.unpack("f", struct.pack("f", float(words["logprob"])))[0]  # as the single that it is
    if math.isnan(logprob):
        raise Failed(f"a logprob that is no number: {words}")
    logits = memoryview(bytes_of(words["logits"])).cast("f") if words["logits"] != "-" else None
    top = list(struct.iter_unpack("if", bytes_of(words["top"]))) if words["top"] != "-" else None
    return Completion(logprob=logprob, logits=logits, top=top, **integers)


class Driver:
    """Ends with its `with` block."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join()
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def ask(self, verb: str, *positional: str, **named: object) -> tuple[list[str], Words]:
        """The data lines and the words of `ok`. CallFailed, Failed."""
        values = [f"{name}={value}" for name, value in named.items() if value is not None]
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(" ".join([verb, *positional, *values]) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Failed(f"the driver has ended with status {self.process.wait(LIMIT_S)}") from None
        data = []
        while True:
            try:
                line = self._lines.get(timeout=LIMIT_S)
            except queue.Empty:
                self.process.kill()
                raise Failed(f"the driver did not answer {verb} within {LIMIT_S:g} s") from None
            if line is None:
                raise Failed(f"the driver ended at {verb} with status {self.process.wait(LIMIT_S)}")
            if line == "ok" or line.startswith("ok "):
                return data, words_of(line)
            if line.startswith("error "):
                _, code, message = (line + " ").split(" ", 2)
                raise CallFailed(int(code), message.strip())
            data.append(line)


class Client:
    """One connection of a driver, by name; each method is a request."""

    def __init__(self, driver: Driver, name: str, **options: object) -> None:
        self._driver = driver
        self.name = name
        driver.ask("connect", name, timeout_ns=int(LIMIT_S * 5e8), **options)
        self.info = self.ask("info")

    def ask(self, verb: str, **named: object) -> Words:
        return self._driver.ask(verb, self.name, **named)[1]

    def number(self, field: str) -> int:
        return int(self.info[field])

    def disconnect(self) -> None:
        self.ask("disconnect")

    def place(self, verb: str, **named: object) -> tuple[int, int]:
        """Places an operation; (sequence, operation), sequence 0 where none is made."""
        words = self.ask(verb, **named)
        return int(words.get("sequence", 0)), int(words["operation"])

    def submit(self) -> int:
        return int(self.ask("submit")["count"])

    def outstanding(self) -> int:
        return int(self.ask("outstanding")["count"])

    def reap(self, capacity: int = 256, timeout_ns: int = REAP_NS) -> list[Completion]:
        lines, _ = self._driver.ask("reap", self.name, capacity=capacity, timeout_ns=timeout_ns)
        return [completion_of(words_of(line)) for line in lines]
