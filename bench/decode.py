# SPDX-License-Identifier: Apache-2.0
"""Decoding at batch 1, 8 and 32 beside transformers with the same weights on the same cores, in turn and in one run.

transformers gets the GGUF dequantised, whatever is fastest of bf16 and fp32 with its dynamic and its static cache at
each batch (measured first), and a loop of forward passes with argmax, which is less than its generate() does.
The floor is the time to read the model's stored bytes once at the bandwidth measured in the same run.

$IOKV_TRANSFORMERS names a Python that has torch, transformers and gguf; scripts/bench sets it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from measure import Load, arguments, median, output_of, report, run_together, start_daemon

BATCHES = (1, 8, 32)
PROMPT = 64


class Transformers:
    """The other side, in a process of its own: one JSON request a line, one JSON answer a line."""

    def __init__(self, python: str, model: str) -> None:
        worker = Path(__file__).with_name("transformers_worker.py")
        self.process = subprocess.Popen(
            [python, "-B", str(worker), model], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def tokens_per_s(self, **request: object) -> float:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit("bench decode: transformers ended; see above")
        answer: dict[str, Any] = json.loads(line)
        return float(answer["tokens_per_s"])

    def best_way(self, batch: int, tokens: int) -> dict[str, str]:
        ways = [{"dtype": dtype, "cache": cache} for dtype in ("bfloat16", "float32") for cache in ("dynamic", "static")]
        return max(ways, key=lambda way: self.tokens_per_s(batch=batch, prompt=PROMPT, tokens=tokens, **way))


def main() -> None:
    given = arguments(__doc__)
    rounds, tokens, trial = (1, 8, 4) if given.quick else (5, 64, 8)
    figures: dict[str, Any] = {
        name: {} for name in ("tokens_per_s", "transformers_tokens_per_s", "ratio_vs_transformers", "ratio_to_floor")
    }
    figures["transformers_way"] = {}
    with start_daemon(given.model) as daemon, Transformers(os.environ["IOKV_TRANSFORMERS"], given.model) as other:
        bandwidth = float(output_of("read_bandwidth"))
        floor_s = daemon.status()["model_file_bytes"] / bandwidth
        for batch in BATCHES:
            way = other.best_way(batch, trial)
            ours, theirs = [], []
            with Load(daemon, batch, PROMPT, tokens) as load:
                load.await_ready()
                run_together([load])
                for _ in range(rounds):
                    ours.append(run_together([load])[0])
                    theirs.append(other.tokens_per_s(batch=batch, prompt=PROMPT, tokens=tokens, **way))
            name = str(batch)
            figures["tokens_per_s"][name] = round(median(ours), 1)
            figures["transformers_tokens_per_s"][name] = round(median(theirs), 1)
            figures["ratio_vs_transformers"][name] = round(median(ours) / median(theirs), 3)
            figures["ratio_to_floor"][name] = round(batch / median(ours) / floor_s, 3)
            figures["transformers_way"][name] = f"{way['dtype']}, {way['cache']} cache"
        figures["read_bandwidth_bytes_per_s"] = bandwidth
        figures["model_file_bytes"] = daemon.status()["model_file_bytes"]
    rows = [
        [str(batch)]
        + [f"{figures[name][str(batch)]:.1f}" for name in ("tokens_per_s", "transformers_tokens_per_s")]
        + [figures["transformers_way"][str(batch)]]
        + [f"{figures[name][str(batch)]:.2f}" for name in ("ratio_vs_transformers", "ratio_to_floor")]
        for batch in BATCHES
    ]
    head = ["batch", "iokv tokens/s", "transformers tokens/s", "its best way", "ratio", "step / floor"]
    report(f"decoding {Path(given.model).name}", head, rows, figures, given.json)
    print(f"\nread bandwidth {bandwidth / 1e9:.1f} GB/s; floor {floor_s * 1e3:.2f} ms a step")


if __name__ == "__main__":
    main()
