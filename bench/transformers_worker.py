# SPDX-License-Identifier: Apache-2.0
"""Decodes with transformers on request, for bench/decode.py. Needs torch, transformers and gguf.

usage: transformers_worker.py MODEL, then one JSON object a line: batch, prompt, tokens, dtype, cache; each is answered
by {"tokens_per_s": ...} of the decoding alone, the prompt's pass not counted.
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


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the libraries print is no answer
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    models = {}
    with torch.inference_mode():
        for line in sys.stdin:
            request = json.loads(line)
            dtype = request.pop("dtype")
            if dtype not in models:
                models[dtype] = load(sys.argv[1], getattr(torch, dtype))
                decode(models[dtype], 1, 8, 4, "dynamic")
            seconds = decode(models[dtype], **request)
            print(json.dumps({"tokens_per_s": request["batch"] * request["tokens"] / seconds}), file=answers, flush=True)


if __name__ == "__main__":
    main()
