# SPDX-License-Identifier: Apache-2.0
"""One client of bench/gpu.py's serving row: pauses, sends a prompt, takes its answer token by token, closes the sequence,
and again until the end. Pauses are exponential, contexts log-uniform, lengths of answers geometric.

usage: gpu_client.py SOCKET SEED PAUSE LEAST MOST MEAN, PAUSE in seconds on average, prompts of LEAST to MOST tokens, MEAN
tokens of answer. Prints "ready" once connected, and begins at a line of standard input that says by CLOCK_MONOTONIC when
the end is; then prints one JSON array: of each request when it was submitted, the prompt's tokens, and when each token
came.
"""

from __future__ import annotations

import json
import math
import random
import sys
import time
from typing import Any

import iokv


def answer_length(numbers: random.Random, mean: float) -> int:
    return 1 + int(math.log(1 - numbers.random()) / math.log(1 - 1 / mean))


def prompt_of(numbers: random.Random, least: int, most: int, vocabulary: int) -> list[int]:
    length = round(math.exp(numbers.uniform(math.log(least), math.log(most))))
    return [numbers.randrange(vocabulary) for _ in range(length)]


def main() -> None:
    socket, seed = sys.argv[1], int(sys.argv[2])
    pause, least, most, mean = float(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]), float(sys.argv[6])
    numbers = random.Random(seed)
    requests: list[dict[str, Any]] = []
    with iokv.Client(socket, name=f"serving {seed}") as client:
        print("ready", flush=True)
        end = float(sys.stdin.readline())
        while True:
            tokens = prompt_of(numbers, least, most, client.info.vocabulary)
            begin = time.monotonic() + numbers.expovariate(1 / pause)
            if begin >= end:
                break
            time.sleep(max(0.0, begin - time.monotonic()))
            with client.open() as sequence:
                request: dict[str, Any] = {"submitted": time.monotonic(), "prompt": len(tokens), "tokens": []}
                requests.append(request)
                for _ in sequence.step(tokens, answer_length(numbers, mean)):
                    now = time.monotonic()
                    request["tokens"].append(now)
                    if now >= end:
                        break
            if time.monotonic() >= end:
                break
    print(json.dumps(requests), flush=True)


if __name__ == "__main__":
    main()
