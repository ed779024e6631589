# SPDX-License-Identifier: Apache-2.0
"""Decodes with transformers on a GPU, for bench/gpu.py: a model of the same shape with random fp16 weights that are made
there. Needs torch and transformers.

usage: transformers_worker.py SHAPE, a JSON object of model_shape.Shape's fields; then one JSON object a line: kind, batch,
context, steps; each is answered by one: prefill_ms, step_ms (medians), and what was done.

    offloaded   the cache in host memory, DynamicCache(offloading=True), which brings a layer ahead of its use
    resident    DynamicCache, the cache on the GPU
    graphs      a static cache, and its decode step compiled with CUDA graphs, by generate()

The loops of the first two are less than what generate() does.
"""

import json
import os
import statistics
import sys
import time
import traceback

os.environ["TQDM_DISABLE"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig, OPTConfig


def config_of(shape):
    if shape["family"] == "opt":
        return OPTConfig(
            num_hidden_layers=shape["layers"], hidden_size=shape["hidden"], word_embed_proj_dim=shape["hidden"],
            num_attention_heads=shape["heads"], ffn_dim=shape["ffn"], vocab_size=shape["vocab"],
            max_position_embeddings=shape["positions"],
        )
    return LlamaConfig(
        num_hidden_layers=shape["layers"], hidden_size=shape["hidden"], num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"], intermediate_size=shape["ffn"], vocab_size=shape["vocab"],
        max_position_embeddings=shape["positions"],
        rope_parameters={"rope_type": "default", "rope_theta": shape["rope_theta"]},
    )


def model_of(shape):
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config_of(shape), dtype=torch.float16, attn_implementation="sdpa")
    for weights in model.parameters():
        if weights.dim() > 1:
            weights.data.normal_(0, weights.shape[-1] ** -0.5)
    return model.eval()


def now():
    torch.cuda.synchronize()
    return time.perf_counter()


def by_forward(model, rows, steps, offloaded):
    """Milliseconds of the prompt and of each step."""
    past = DynamicCache(config=model.config, offloading=True) if offloaded else DynamicCache(config=model.config)
    times = [now()]
    step = model(rows, past_key_values=past, use_cache=True, logits_to_keep=1)
    times.append(now())
    for _ in range(steps):
        rows = step.logits[:, -1].argmax(-1, keepdim=True)
        step = model(rows, past_key_values=past, use_cache=True, logits_to_keep=1)
        times.append(now())
    found = [1e3 * (end - begin) for begin, end in zip(times, times[1:])]
    return found[0], found[1:]


class Clock:
    """A streamer: when the prompt came by, then each step's tokens."""

    def __init__(self):
        self.times = []

    def put(self, value):
        self.times.append(time.perf_counter())

    def end(self):
        pass


def by_generate(model, rows, steps):
    clock = Clock()
    model.generate(
        rows, attention_mask=torch.ones_like(rows), max_new_tokens=steps, min_new_tokens=steps, do_sample=False,
        cache_implementation="static", streamer=clock, pad_token_id=1,
    )
    found = [1e3 * (end - begin) for begin, end in zip(clock.times, clock.times[1:])]
    return found[0], found[1:]


def answer(model, kind, batch, context, steps):
    rows = torch.randint(2, model.config.vocab_size, (batch, context), device="cuda")
    if kind == "graphs":
        by_generate(model, rows, steps)  # compiles
        prefill, found = by_generate(model, rows, steps)
    else:
        by_forward(model, rows[:, :64], 2, kind == "offloaded")
        if kind == "resident":
            by_forward(model, rows, 1, offloaded=False)
        prefill, found = by_forward(model, rows, steps, kind == "offloaded")
    warm = found[2:] if len(found) > 4 else found
    return {"prefill_ms": prefill, "step_ms": statistics.median(warm), "least_ms": min(warm), "most_ms": max(warm),
            "steps": len(warm), "transformers": transformers.__version__, "torch": torch.__version__,
            "peak_bytes": torch.cuda.max_memory_allocated()}


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the libraries print is no answer
    transformers.logging.set_verbosity_error()
    model = None
    with torch.inference_mode():
        for line in sys.stdin:
            try:
                if model is None:
                    model = model_of(json.loads(sys.argv[1]))
                found = answer(model, **json.loads(line))
            except Exception as failure:  # told to the bench, which goes on
                traceback.print_exc()
                found = {"failed": f"{type(failure).__name__}: {failure}".splitlines()[0][:300]}
            print(json.dumps(found), file=answers, flush=True)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    main()
