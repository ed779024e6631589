#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes what tests/golden compares with, from transformers: the committed files came from this script.

    pip install torch transformers accelerate gguf
    scripts/make_golden.py                    # tests/golden/{opt,llama_mha,llama_gqa}: model, prompts and logits
    scripts/make_golden.py --smollm2 FILE     # tests/golden/smollm2.json: greedy tokens of that GGUF in fp32

A small model at transformers' default initialisation hardly depends on its attention: with K = 0 its logits change by
2e-3. These weights are scaled until attention scores spread by a standard deviation of 2 or more within a row (what
softmax sees) and logits by 1 or more, so that a wrong K, position or layer changes the logits by tens of per cent.
"""

import argparse
import json
import pathlib

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, OPTConfig, set_seed
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden"

VOCABULARY = 128
PROMPT_LENGTHS = (150, 131)  # more than two blocks of 64 tokens, and neither a multiple of anything
LLAMA = dict(
    vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=1024,
    bos_token_id=1, eos_token_id=2, tie_word_embeddings=False,
    rms_norm_eps=1e-4,  # as large as makes a reader's own default show, with inputs of unit variance
)
CONFIGS = {
    "opt": OPTConfig(
        vocab_size=VOCABULARY, hidden_size=64, word_embed_proj_dim=64, num_hidden_layers=3, num_attention_heads=4,
        ffn_dim=128, max_position_embeddings=192, activation_function="relu", bos_token_id=1, eos_token_id=2,
        pad_token_id=1,
    ),
    "llama_mha": LlamaConfig(intermediate_size=96, **LLAMA),
    # heads x head_dim is not hidden_size, and the shortest context makes each branch of llama3 scaling matter: of 12
    # wavelengths (6, 14, 29, 63, ... 30,000 tokens) the first stays, two are blended and the others are stretched.
    "llama_gqa": LlamaConfig(
        intermediate_size=80, num_key_value_heads=2, head_dim=24,
        rope_parameters=dict(
            rope_type="llama3", rope_theta=10000.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
            original_max_position_embeddings=32,
        ), **LLAMA,
    ),
}  # fmt: skip
SCORE_DEVIATION = 2.6  # aimed at; asserted >= 2

SMOLLM2_PROMPTS = (
    "The capital of France is",
    "<|im_start|>user\nExplain in two sentences why the sky is blue.<|im_end|>\n<|im_start|>assistant\n",
    "def fibonacci(n):\n",
)
SMOLLM2_TOKENS = 64


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smollm2", type=pathlib.Path, metavar="FILE", help="SmolLM2-135M-Instruct as .gguf")
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    if arguments.smollm2:
        make_smollm2(arguments.smollm2)
        return
    for name, config in CONFIGS.items():
        make_small_model(name, config)


def make_small_model(name, config):
    set_seed(20261)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    spread_weights(model)
    prompts = [torch.randint(3, VOCABULARY, (length,)).tolist() for length in PROMPT_LENGTHS]

    score_deviation = measure_scores(model, prompts)
    logits = [model(torch.tensor([prompt])).logits[0] for prompt in prompts]
    logit_deviation = torch.cat(logits).std().item()
    assert score_deviation >= 2 and logit_deviation >= 1, (name, score_deviation, logit_deviation)

    directory = GOLDEN / name
    model.save_pretrained(directory)
    (directory / "generation_config.json").unlink(missing_ok=True)
    (directory / "model.safetensors").chmod(0o644)
    (directory / "prompts.json").write_text(json.dumps(prompts) + "\n")
    # In double, so that a difference is ours. [tokens of all prompts, vocabulary], little-endian f32.
    exact = [model.double()(torch.tensor([prompt])).logits[0] for prompt in prompts]
    torch.cat(exact).float().numpy().astype("<f4").tofile(directory / "logits.f32")

    own_error = ((torch.cat(logits) - torch.cat(exact)).norm() / torch.cat(exact).norm()).item()
    print(
        f"{name}: scores deviate by {score_deviation:.2f}, logits by {logit_deviation:.2f}; transformers' fp32 is "
        f"{own_error:.1e} from its double; {sum(p.numel() for p in model.parameters())} parameters"
    )


def spread_weights(model):
    """Weights of unit gain, queries and keys a little more: x of unit size gives q·k/sqrt(d) the deviation aimed at."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.normal_(0, 0.2)
        elif "norm" in name:
            parameter.normal_(1, 0.1)
        elif "embed" in name:
            # A tied table is the head too: h rows of unit variance would drown what the layers add.
            parameter.normal_(0, 0.3 if model.config.tie_word_embeddings else 1)
        else:
            gain = SCORE_DEVIATION**0.5 if "q_proj" in name or "k_proj" in name else 1.0
            parameter.normal_(0, gain / parameter.shape[1] ** 0.5)
        # As published checkpoints are: exact in bf16, so that an error in bf16 is the arithmetic's.
        parameter.copy_(parameter.bfloat16().float())


def measure_scores(model, prompts):
    """Smallest layer's root mean square of attention scores around their row's mean, over what a row attends to."""
    deviations = []

    def eager_and_measure(module, query, key, value, attention_mask, scaling=None, softcap=None, **_):
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
        scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        if softcap:
            scores = softcap * (scores / softcap).tanh()
        visible = attention_mask[0, 0] == 0
        counts = visible.sum(-1, keepdim=True)
        means = scores.masked_fill(~visible, 0).sum(-1, keepdim=True) / counts
        squares = ((scores - means) ** 2).masked_fill(~visible, 0).sum((-1, -2))
        deviations.append((squares.mean() / counts.sum()).sqrt().item())
        weights = scores.masked_fill(~visible, float("-inf")).softmax(-1)
        return (weights @ value).transpose(1, 2).contiguous(), weights

    ALL_ATTENTION_FUNCTIONS.register("eager_and_measure", eager_and_measure)
    ALL_MASK_ATTENTION_FUNCTIONS.register("eager_and_measure", ALL_MASK_ATTENTION_FUNCTIONS["eager"])
    expected = model(torch.tensor([prompts[0]])).logits
    model.set_attn_implementation("eager_and_measure")
    for prompt in prompts:
        logits = model(torch.tensor([prompt])).logits
        if prompt is prompts[0]:
            assert torch.allclose(logits, expected, rtol=1e-3, atol=1e-3)
    model.set_attn_implementation("eager")
    return min(deviations)


def make_smollm2(path):
    """For each prompt: its ids, the greedy tokens, and the largest logit's lead over the second at each of them."""
    load = dict(pretrained_model_name_or_path=str(path.parent), gguf_file=path.name)
    tokenizer = AutoTokenizer.from_pretrained(**load)
    model = AutoModelForCausalLM.from_pretrained(dtype=torch.float32, attn_implementation="eager", **load).eval()
    cases = []
    for text in SMOLLM2_PROMPTS:
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        tokens, gaps = greedy(model, prompt)
        cases.append(dict(text=text, prompt=prompt, tokens=tokens, gaps=[round(gap, 5) for gap in gaps]))
        print(f"{text!r}: smallest gap {min(gaps):.4f}\n  {tokenizer.decode(tokens)!r}")
    lines = ",\n".join("  " + json.dumps(case) for case in cases)
    (GOLDEN / "smollm2.json").write_text(f"[\n{lines}\n]\n")


def greedy(model, prompt):
    tokens, gaps = [], []
    step = model(torch.tensor([prompt]), use_cache=True)
    while True:
        best, second = step.logits[0, -1].topk(2).values.tolist()
        tokens.append(int(step.logits[0, -1].argmax()))
        gaps.append(best - second)
        if len(tokens) == SMOLLM2_TOKENS:
            return tokens, gaps
        step = model(torch.tensor([tokens[-1:]]), past_key_values=step.past_key_values, use_cache=True)


if __name__ == "__main__":
    main()
