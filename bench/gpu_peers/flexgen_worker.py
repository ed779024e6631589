# SPDX-License-Identifier: Apache-2.0
"""Decodes with FlexGen (PyPI flexgen 0.1.8) on a GPU, for bench/gpu.py: activations on the GPU, the whole cache in host memory,
copies overlapped with computing: its `--percent W 100-W 0 100 100 0`, W % of the weights on the GPU and the others in pinned
memory. It takes whole matrices of each layer: with 13 to 24 % W_O stays, 8 % of the weights; with 25 to 37 % the MLP's second
one too, 42 %.

usage: flexgen_worker.py SHAPE, a JSON object of model_shape.Shape's fields (OPT only: it knows no other family); then one
JSON object a line: batch, context, steps, compress_cache, weights_percent; each is answered by one: prefill_ms, step_ms
(medians). Batches of more than 64 are cut into ones of 32, as the paper has it: a load of a layer's weights serves them all.

The package is used as it is published. Beside it, for what it would fetch or has no setting for:
 1. its run_flexgen() asks a hub for a tokenizer: here its model, policy and generate() are called with random tokens;
 2. dummy weights are ones there, written by the host: here they are random numbers of a deviation of 1/sqrt(k), drawn on
    the GPU, so that products cost what they cost; each lies where its init_weight_list() would have it;
 3. where attrs is missing, an empty module of that name: it imports two names of it and uses neither.
"""

import json
import os
import statistics
import sys
import tempfile
import time
import traceback
import types

try:
    import attr  # noqa: F401
except ImportError:
    attr = types.ModuleType("attr")
    attr.define = attr.field = None
    setters = types.ModuleType("attr.setters")
    setters.frozen = None
    sys.modules |= {"attr": attr, "attr.setters": setters}

import numpy as np
import torch
from flexgen import flex_opt
from flexgen.compression import CompressionConfig
from flexgen.opt_config import OptConfig
from flexgen.pytorch_backend import TorchDevice, TorchDisk, TorchMixedDevice
from flexgen.timer import timers
from flexgen.utils import ExecutionEnv


def random_weights(specs, policy, env):
    """In place of flex_opt.init_weight_list."""
    percents = [policy.w_disk_percent, policy.w_cpu_percent, policy.w_gpu_percent]
    ends = np.cumsum([np.prod(shape) for shape, _, _ in specs])
    found = []
    for (shape, dtype, filename), end in zip(specs, ends):
        middle = 100 * (end - np.prod(shape) / 2) / ends[-1]
        home = flex_opt.get_choice(middle, percents, [env.disk, env.cpu, env.gpu])
        weights = home.allocate(shape, dtype, pin_memory=True)
        drawn = torch.empty(shape, dtype=weights.data.dtype, device="cuda:0")
        if len(shape) > 1:
            drawn.normal_(0, shape[-1] ** -0.5)
        elif "layer_norm.weight" in filename:
            drawn.normal_(1, 0.1)
        else:
            drawn.normal_(0, 0.1)
        weights.data.copy_(drawn)
        found.append(weights)
    return found


def config_of(shape):
    if shape["family"] != "opt" or shape["ffn"] != 4 * shape["hidden"]:
        raise ValueError("FlexGen knows OPT only, with an ffn of four times the hidden size")
    return OptConfig(
        name="random", max_seq_len=shape["positions"], num_hidden_layers=shape["layers"], n_head=shape["heads"],
        hidden_size=shape["hidden"], input_dim=shape["hidden"], ffn_embed_dim=shape["ffn"], vocab_size=shape["vocab"],
    )


def policy_of(batch, compress_cache, weights_percent):
    batches = batch // 32 if batch > 64 else 1
    return flex_opt.Policy(
        batch // batches, batches, weights_percent, 100 - weights_percent, 0, 100, 100, 0, overlap=True, sep_layer=True, pin_weight=True, cpu_cache_compute=False,
        attn_sparsity=1.0, compress_weight=False,
        comp_weight_config=CompressionConfig(num_bits=4, group_size=64, group_dim=0, symmetric=False),
        compress_cache=compress_cache,
        comp_cache_config=CompressionConfig(num_bits=4, group_size=64, group_dim=2, symmetric=False),
    )


def answer(env, config, batch, context, steps, compress_cache, weights_percent):
    model = flex_opt.OptLM(config, env, flex_opt.DUMMY_WEIGHT, policy_of(batch, compress_cache, weights_percent))
    numbers = np.random.default_rng(1)
    inputs = numbers.integers(2, config.vocab_size, (batch, context))
    model.generate(inputs[:, :32], max_new_tokens=2)
    timers("generate").reset()
    begun = time.perf_counter()
    model.generate(inputs, max_new_tokens=steps + 1)
    took = time.perf_counter() - begun
    prefill, *found = (1e3 * cost for cost in timers("generate").costs)
    warm = found[2:] if len(found) > 4 else found
    return {"prefill_ms": prefill, "step_ms": statistics.median(warm), "least_ms": min(warm), "most_ms": max(warm),
            "steps": len(warm), "took_s": took, "torch": torch.__version__,
            "peak_bytes": torch.cuda.max_memory_allocated()}


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library prints is no answer
    flex_opt.init_weight_list = random_weights
    with tempfile.TemporaryDirectory(prefix="iokv-flexgen-") as directory:
        gpu, cpu, disk = TorchDevice("cuda:0"), TorchDevice("cpu"), TorchDisk(directory)
        env = ExecutionEnv(gpu=gpu, cpu=cpu, disk=disk, mixed=TorchMixedDevice([gpu, cpu, disk]))
        try:
            for line in sys.stdin:
                try:
                    found = answer(env, config_of(json.loads(sys.argv[1])), **json.loads(line))
                except Exception as failure:  # told to the bench, which goes on
                    traceback.print_exc()
                    found = {"failed": f"{type(failure).__name__}: {failure}".splitlines()[0][:300]}
                print(json.dumps(found), file=answers, flush=True)
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
        finally:
            env.close_copy_threads()


if __name__ == "__main__":
    main()
