# SPDX-License-Identifier: Apache-2.0
"""The conformance driver of the Python binding: requests on standard input, answers on standard output, as
bindings/conformance/README.md has them; `driver.py load ...` decodes for scripts/bench as bench/load.cpp does.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import struct
import sys
import time
from typing import Any

import iokv
from iokv import Connection, Sampling, declarations

Words = dict[str, str]


def layout() -> list[str]:
    lines = []
    for name, structure in declarations.STRUCTURES.items():
        lines.append(f"size {name} {ctypes.sizeof(structure)}")
        for entry in structure._fields_:
            descriptor = getattr(structure, entry[0])
            lines.append(f"field {name}.{entry[0]} {descriptor.offset} {descriptor.size}")
    return lines + [f"constant {name} {value}" for name, value in declarations.CONSTANTS.items()]


def hexed(data: bytes) -> str:
    return data.hex() or "-"


def numbers(words: Words, *names: str) -> dict[str, int]:
    return {name: int(words[name]) for name in names if name in words}


def tokens(words: Words, name: str) -> list[int]:
    return [int(token) for token in words.get(name, "").split(",") if token]


def lists(words: Words, name: str) -> list[list[str]]:
    return [part.split(",") for part in words.get(name, "").split(";") if part]


def sampling(words: Words) -> Sampling | None:
    reals = ("temperature", "top_p", "min_p", "typical_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
    values: dict[str, Any] = {name: float(words[name]) for name in reals if name in words}
    values |= numbers(words, "top_k", "seed", "repetition_from", "frequency_from")
    if "logit_bias" in words:
        values["logit_bias"] = tuple((int(token), float(bias)) for token, bias in lists(words, "logit_bias"))
    return Sampling(**values) if values else None


def step_options(words: Words) -> dict[str, Any]:
    return {
        "stop_tokens": tokens(words, "stop_tokens"),
        "stop_sequences": [list(map(int, stop)) for stop in lists(words, "stop_sequences")],
        "sampling": sampling(words),
        "masks": [list(map(int, mask)) for mask in lists(words, "masks")],
        "each": words.get("each") == "1",
        "logits": words.get("logits") == "1",
        **numbers(words, "priority", "deadline_ns", "top_logprobs"),
    }


class Driver:
    def __init__(self) -> None:
        self.clients: dict[str, Connection] = {}

    def answer(self, verb: str, positional: list[str], words: Words) -> dict[str, object]:
        """Prints data lines; returns the words of `ok`."""
        if verb == "layout":
            print("\n".join(layout()))
            return {}
        name = positional[0]
        if verb == "connect":
            sizes = numbers(words, "submission_entries", "completion_entries", "arena_bytes", "result_bytes")
            timeout = int(words["timeout_ns"]) / 1e9
            self.clients[name] = Connection(words["socket"], name=words.get("name"), timeout=timeout, **sizes)
            return {}
        answered: dict[str, object] = getattr(self, "do_" + verb)(self.clients[name], words)
        return answered

    def do_disconnect(self, client: Connection, _: Words) -> dict[str, object]:
        client.disconnect()
        return {}

    def do_info(self, client: Connection, _: Words) -> dict[str, object]:
        info = client.info
        shown: dict[str, object] = {name: getattr(info, name) for name in iokv.Info.__dataclass_fields__}
        shown["begin_token"] = -1 if info.begin_token is None else info.begin_token
        shown["end_token_count"] = len(shown.pop("end_tokens"))  # type: ignore[arg-type]
        shown["model_digest"] = hexed(info.model_digest)
        shown["tokenizer_digest"] = hexed(info.tokenizer_digest)
        shown["model_name"] = hexed(info.model_name.encode())
        del shown["daemon_version"]
        return shown

    def do_open(self, client: Connection, words: Words) -> dict[str, object]:
        options = numbers(words, "priority", "model", "adapter", "user_data")
        sequence, operation = client.open(sampling(words), **options)
        return {"sequence": sequence, "operation": operation}

    def do_step(self, client: Connection, words: Words) -> dict[str, object]:
        operation = client.step(
            int(words["sequence"]), tokens(words, "tokens"), int(words["max_tokens"]),
            user_data=int(words["user_data"]), **step_options(words),
        )  # fmt: skip
        return {"operation": operation}

    def do_fork(self, client: Connection, words: Words) -> dict[str, object]:
        count = int(words["tokens"]) if "tokens" in words else None
        child, operation = client.fork(int(words["sequence"]), count, user_data=int(words["user_data"]))
        return {"sequence": child, "operation": operation}

    def do_truncate(self, client: Connection, words: Words) -> dict[str, object]:
        length = int(words["length"])
        return {"operation": client.truncate(int(words["sequence"]), length, user_data=int(words["user_data"]))}

    def do_cancel(self, client: Connection, words: Words) -> dict[str, object]:
        target = int(words.get("target", 0))
        return {"operation": client.cancel(int(words["sequence"]), target, user_data=int(words["user_data"]))}

    def do_close(self, client: Connection, words: Words) -> dict[str, object]:
        return {"operation": client.close(int(words["sequence"]), user_data=int(words["user_data"]))}

    def do_nop(self, client: Connection, words: Words) -> dict[str, object]:
        return {"operation": client.nop(user_data=int(words["user_data"]))}

    def do_submit(self, client: Connection, _: Words) -> dict[str, object]:
        return {"count": client.submit()}

    def do_outstanding(self, client: Connection, _: Words) -> dict[str, object]:
        return {"count": client.outstanding()}

    def do_wake(self, client: Connection, _: Words) -> dict[str, object]:
        client.wake()
        return {}

    def do_reap(self, client: Connection, words: Words) -> dict[str, object]:
        for completion in client.reap(int(words["capacity"]), timeout=int(words["timeout_ns"]) / 1e9):
            times = completion.times
            print(
                "completion",
                *(
                    f"{name}={getattr(completion, name)}"
                    for name in ("user_data", "operation", "sequence", "result", "flags", "token", "index", "length")
                ),
                f"logprob={completion.logprob!r}",
                f"dense_ns={times.dense_ns if times is not None else 0}",
                f"logits={hexed(bytes(completion.logits)) if completion.logits is not None else '-'}",
                f"top={hexed(b''.join(struct.pack('if', one.token, one.logprob) for one in completion.top))}",
            )
        return {}

    def do_generate(self, client: Connection, words: Words) -> dict[str, object]:
        sampled = client.generate(
            int(words["sequence"]), tokens(words, "tokens"), int(words["max_tokens"]), **step_options(words)
        )
        return {"tokens": ",".join(map(str, sampled))}

    def do_end_reason(self, client: Connection, _: Words) -> dict[str, object]:
        code, line = client.end_reason()
        return {"code": code, "line": hexed(line.encode())}

    def do_token_bytes(self, client: Connection, words: Words) -> dict[str, object]:
        return {"bytes": hexed(client.token_bytes(int(words["token"])))}

    def do_text(self, client: Connection, words: Words) -> dict[str, object]:
        if int(words["file"]) == declarations.TEXT_TOKENIZER:
            return {"bytes": hexed(client.tokenizer_file())}
        return {"bytes": hexed(client.chat_template().encode())}

    def do_counters(self, client: Connection, _: Words) -> dict[str, object]:
        return {counter.name: counter.value for counter in client.counters()}


def serve() -> None:
    driver = Driver()
    for line in sys.stdin:
        verb, *rest = line.split()
        named = dict(word.split("=", 1) for word in rest if "=" in word)
        try:
            answered = driver.answer(verb, [word for word in rest if "=" not in word], named)
            print("ok", *(f"{name}={value}" for name, value in answered.items()), flush=True)
        except iokv.Error as error:
            print("error", error.code, error, flush=True)


def load(socket: str, count: int, prompt_tokens: int, most: int, seed: int) -> None:
    """What bench/load.cpp does, by Client, with a loop over the operations."""
    with iokv.Client(socket, timeout=None) as client:
        vocabulary = client.info.vocabulary
        sequences = [client.open() for _ in range(count)]
        for s, sequence in enumerate(sequences):
            sequence.generate([((seed + s) * 7919 + i * 104729 + i * i) % vocabulary for i in range(prompt_tokens)], 1)
        print("ready", flush=True)
        while sys.stdin.readline():
            start_ns = time.monotonic_ns()
            with client.batch():
                operations = [sequence.step((), most) for sequence in sequences]
            drawn = sum(1 for operation in operations for _ in operation)
            end_ns = time.monotonic_ns()
            print(json.dumps({"tokens": drawn, "start_ns": start_ns, "end_ns": end_ns}), flush=True)
            for sequence in sequences:
                sequence.truncate(prompt_tokens + 1)


async def load_asyncio(socket: str, count: int, prompt_tokens: int, most: int, seed: int) -> None:
    """What bench/load.cpp does, by AsyncClient, with a task for each sequence."""
    async with iokv.AsyncClient(socket, timeout=None) as client:
        vocabulary = client.info.vocabulary
        sequences = [await client.open() for _ in range(count)]
        for s, sequence in enumerate(sequences):
            await sequence.generate([((seed + s) * 7919 + i * 104729 + i * i) % vocabulary for i in range(prompt_tokens)], 1)

        async def stream(sequence: iokv.AsyncSequence) -> int:
            drawn = 0
            async for _ in await sequence.step((), most):
                drawn += 1
            return drawn

        print("ready", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            start_ns = time.monotonic_ns()
            drawn = sum(await asyncio.gather(*map(stream, sequences)))
            end_ns = time.monotonic_ns()
            print(json.dumps({"tokens": drawn, "start_ns": start_ns, "end_ns": end_ns}), flush=True)
            for sequence in sequences:
                await sequence.truncate(prompt_tokens + 1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["load"]:
        load(sys.argv[2], *map(int, sys.argv[3:7]))
    elif sys.argv[1:2] == ["load_asyncio"]:
        asyncio.run(load_asyncio(sys.argv[2], *map(int, sys.argv[3:7])))
    else:
        serve()
