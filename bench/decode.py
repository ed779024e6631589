# SPDX-License-Identifier: Apache-2.0
"""Decoding at batch 1, 8 and 32, and prompts, beside llama.cpp and transformers with the same weights on the same cores,
in turn and in one run.

llama.cpp reads the same GGUF. transformers gets it dequantised, whatever is fastest of bf16 and fp32 with its dynamic
and its static cache at each batch (measured first), and a loop of forward passes with argmax, which is less than its
generate() does. The floor of a step is the time to read the model's stored bytes once at the bandwidth measured in the
same run; prompts are held to the rate of torch's bf16 products.

$IOKV_TRANSFORMERS names a Python that has torch, transformers and gguf, $IOKV_LLAMA_CPP one that has llama-cpp-python;
scripts/bench sets them. Without the latter, or of a model that is no GGUF, its columns stay empty.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from iokvd import Daemon
from measure import Load, arguments, median, output_of, report, run_together, start_daemon

BATCHES = (1, 8, 32)
PROMPT = 64
LONG_PROMPT = 1024


class Worker:
    """Another engine, in a process of its own: one JSON request a line, one JSON answer a line."""

    def __init__(self, python: str, script: str, model: str) -> None:
        self.name = script
        worker = Path(__file__).with_name(script)
        self.process = subprocess.Popen(
            [python, "-B", str(worker), model], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def ask(self, **request: object) -> dict[str, float]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"bench decode: {self.name} ended; see above")
        answer: dict[str, float] = json.loads(line)
        return answer


def best_way(transformers: Worker, batch: int, tokens: int) -> dict[str, str]:
    ways = [{"dtype": dtype, "cache": cache} for dtype in ("bfloat16", "float32") for cache in ("dynamic", "static")]
    return max(ways, key=lambda way: transformers.ask(batch=batch, prompt=PROMPT, tokens=tokens, **way)["tokens_per_s"])


def ratio(ours: float, theirs: float | None) -> float | None:
    return None if theirs is None else round(ours / theirs, 3)


def shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def main() -> None:
    given = arguments(__doc__)
    rounds, tokens, trial = (1, 8, 4) if given.quick else (5, 64, 8)
    figures: dict[str, Any] = {}
    for name in ("tokens_per_s", "transformers_tokens_per_s", "llama_cpp_tokens_per_s", "ratio_vs_transformers"):
        figures[name] = {}
    for name in ("ratio_vs_llama_cpp", "ratio_to_floor", "transformers_way"):
        figures[name] = {}
    with ExitStack() as stack:
        daemon = stack.enter_context(start_daemon(given.model))
        transformers = stack.enter_context(
            Worker(os.environ["IOKV_TRANSFORMERS"], "transformers_worker.py", given.model)
        )
        llama_cpp = None
        if os.environ.get("IOKV_LLAMA_CPP") and given.model.endswith(".gguf"):
            llama_cpp = stack.enter_context(Worker(os.environ["IOKV_LLAMA_CPP"], "llama_cpp_worker.py", given.model))
        bandwidth = float(output_of("read_bandwidth"))
        stored = daemon.status()["model_file_bytes"]
        for batch in BATCHES:
            name = str(batch)
            way = best_way(transformers, batch, trial)
            ours, theirs, llamas = [], [], []
            with Load(daemon, batch, PROMPT, tokens) as load:
                load.await_ready()
                run_together([load])
                for _ in range(rounds):
                    ours.append(run_together([load])[0])
                    theirs.append(transformers.ask(batch=batch, prompt=PROMPT, tokens=tokens, **way)["tokens_per_s"])
                    if llama_cpp is not None:
                        llamas.append(llama_cpp.ask(batch=batch, prompt=PROMPT, tokens=tokens)["tokens_per_s"])
                    bandwidth = max(bandwidth, float(output_of("read_bandwidth")))
            llama = round(median(llamas), 1) if llamas else None
            figures["tokens_per_s"][name] = round(median(ours), 1)
            figures["transformers_tokens_per_s"][name] = round(median(theirs), 1)
            figures["llama_cpp_tokens_per_s"][name] = llama
            figures["ratio_vs_transformers"][name] = ratio(median(ours), median(theirs))
            figures["ratio_vs_llama_cpp"][name] = ratio(median(ours), llama)
            figures["ratio_to_floor"][name] = batch / median(ours)  # seconds until the bandwidth is known
            figures["transformers_way"][name] = f"{way['dtype']}, {way['cache']} cache"
        floor_s = stored / bandwidth
        figures["ratio_to_floor"] = {key: round(s / floor_s, 3) for key, s in figures["ratio_to_floor"].items()}
        figures |= prompts(daemon, transformers, llama_cpp, rounds)
        figures["read_bandwidth_bytes_per_s"] = bandwidth
        figures["model_file_bytes"] = stored
        figures["weights_bytes"] = daemon.status()["weights_bytes"]
    rows = [
        [name]
        + [shown(figures[of + "tokens_per_s"][name], 1) for of in ("", "llama_cpp_", "transformers_")]
        + [figures["transformers_way"][name]]
        + [shown(figures[of][name], 2) for of in ("ratio_vs_llama_cpp", "ratio_vs_transformers", "ratio_to_floor")]
        for name in map(str, BATCHES)
    ]
    head = ["batch", "iokv tokens/s", "llama.cpp", "transformers", "its best way"]
    head += ["x llama.cpp", "x transformers", "step / floor"]
    report(f"decoding {Path(given.model).name}", head, rows, figures, given.json)
    print(f"\nread bandwidth {bandwidth / 1e9:.1f} GB/s; floor {floor_s * 1e3:.2f} ms a step")
    print(
        f"prompts of {LONG_PROMPT} tokens: {figures['prompt_tokens_per_s']:.0f} tokens/s, "
        f"{shown(figures['prompt_ratio_vs_llama_cpp'], 2)} x llama.cpp, {figures['prompt_share_of_product_rate']:.0%} of "
        f"the {figures['product_flop_per_s'] / 1e9:.0f} Gflop/s of torch's bf16 products"
    )


def prompts(daemon: Daemon, transformers: Worker, llama_cpp: Worker | None, rounds: int) -> dict[str, Any]:
    """What a prompt's pass reaches, of what its products would take at torch's rate."""
    ours, llamas, rates, parameters = [], [], [], 0.0
    for seed in range(rounds):
        with Load(daemon, 1, LONG_PROMPT, 1, seed=100 + seed) as load:
            load.await_ready()
            ours.append(LONG_PROMPT / run_together([load])[1][0]["prompt_ns"] * 1e9)
        answer = transformers.ask(product_rate=True)
        rates.append(answer["flop_per_s"])
        parameters = answer["layer_parameters"]
        if llama_cpp is not None:
            llamas.append(llama_cpp.ask(batch=1, prompt=LONG_PROMPT, tokens=1)["prompt_tokens_per_s"])
    return {
        "prompt_tokens_per_s": round(median(ours), 1),
        "prompt_llama_cpp_tokens_per_s": round(median(llamas), 1) if llamas else None,
        "prompt_ratio_vs_llama_cpp": ratio(median(ours), median(llamas) if llamas else None),
        "product_flop_per_s": max(rates),
        "prompt_share_of_product_rate": round(median(ours) * 2 * parameters / max(rates), 3),
    }


if __name__ == "__main__":
    main()
