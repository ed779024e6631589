# SPDX-License-Identifier: Apache-2.0
"""Decodes with transformers on request, for bench/decode.py. Needs torch, transformers and gguf.

usage: transformers_worker.py MODEL, then one JSON object a line: batch, prompt, tokens, dtype, cache; each is answered
by {"tokens_per_s": ...} of the decoding alone, the prompt's pass not counted. {"product_rate": true} is answered by
{"flop_per_s": ..., "layer_parameters": ...}: of torch's bf16 products at their best, and how many numbers the matrices
of all layers have.
"""

import json
import os
import pathlib
import sys
import time

os.environ["TQDM_DISABLE"] = "1"

import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache, StaticCache


def load(path, dtype):
    path = pathlib.Path(path)
    source = {"gguf_file": path.name} if path.is_file() else {}
    directory = path.parent if path.is_file() else path
    return AutoModelForCausalLM.from_pretrained(str(directory), dtype=dtype, **source).eval()


def decode(model, batch, prompt, tokens, cache):
    """Greedy; returns the seconds that `tokens` forward passes of `batch` rows took after the prompt's."""
    if cache == "static":
        past = StaticCache(config=model.config, max_cache_len=prompt + tokens + 1)
    else:
        past = DynamicCache(config=model.config)
    rows = torch.randint(0, model.config.vocab_size, (batch, prompt), generator=torch.Generator().manual_seed(1))
    step = model(rows, past_key_values=past, use_cache=True, logits_to_keep=1)
    started = time.perf_counter()
    for _ in range(tokens):
        rows = step.logits[:, -1].argmax(-1, keepdim=True)
        step = model(rows, past_key_values=past, use_cache=True, logits_to_keep=1)
    return time.perf_counter() - started


def product_rate(model):
    """The best of some products that are large and fit the caches' sizes, as prompts' do."""
    best = 0.0
    for rows, columns, inputs in ((256, 3072, 576), (512, 4096, 1024), (1024, 2048, 2048)):
        x, weight = (torch.randn(size, inputs, dtype=torch.bfloat16) for size in (rows, columns))
        for _ in range(20):
            started = time.perf_counter()
            torch.nn.functional.linear(x, weight)
            best = max(best, 2 * rows * columns * inputs / (time.perf_counter() - started))
    parameters = sum(p.numel() for name, p in model.named_parameters() if ".layers." in name and p.dim() == 2)
    return {"flop_per_s": best, "layer_parameters": parameters}


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the libraries print is no answer
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    models = {}
    with torch.inference_mode():
        for line in sys.stdin:
            request = json.loads(line)
            dtype = request.pop("dtype", "bfloat16")
            if dtype not in models:
                models[dtype] = load(sys.argv[1], getattr(torch, dtype))
                decode(models[dtype], 1, 8, 4, "dynamic")
            if request.pop("product_rate", False):
                print(json.dumps(product_rate(models[dtype])), file=answers, flush=True)
                continue
            seconds = decode(models[dtype], **request)
            print(json.dumps({"tokens_per_s": request["batch"] * request["tokens"] / seconds}), file=answers, flush=True)


if __name__ == "__main__":
    main()
