#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes tests/golden/families, a small random model of each family: what the committed files came from.

    pip install torch transformers accelerate gguf
    scripts/make_golden_families.py           # config.json, model.safetensors, model.gguf, prompts.json, logits.f32
    scripts/make_golden_families.py --rope    # tests/model/rope.json: frequencies of every kind of scaling

Weights are exact in bf16 and kept so, and spread as make_golden.py spreads its own. model.gguf holds the same numbers
under the names and in the order of llama.cpp's converter: names by the package gguf, orders as written down here.
"""

import argparse
import json

import gguf
import torch
from make_golden import GOLDEN, SCORE_DEVIATION, measure_scores
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OlmoConfig,
    Phi3Config,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
    set_seed,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

VOCABULARY = 64
PROMPT_LENGTHS = (100, 75)  # more than a block of 64 tokens, and more than the windows
COMMON = dict(vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2, pad_token_id=None)
SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=256, **COMMON)
GQA = dict(intermediate_size=48, num_key_value_heads=2, tie_word_embeddings=False, **SIZES)


def rope(rope_type="default", **more):
    return dict(rope_type=rope_type, rope_theta=1000.0, **more)


CONFIGS = {
    "mistral": MistralConfig(head_dim=16, sliding_window=40, rope_parameters=rope(), **GQA),
    "qwen2": Qwen2Config(
        rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=64), rms_norm_eps=1e-4, **GQA
    ),
    "qwen3": Qwen3Config(head_dim=16, rope_parameters=rope("linear", factor=2.0), **GQA),
    "phi3": Phi3Config(
        head_dim=8, sliding_window=70, original_max_position_embeddings=128,
        rope_parameters=rope(
            "longrope", short_factor=[1.0, 1.5, 2.0, 3.0], long_factor=[2.0, 4.0, 6.0, 8.0],
            original_max_position_embeddings=128, factor=2.0,
        ),
        **GQA,
    ),
    "olmo": OlmoConfig(rope_parameters=rope("dynamic", factor=2.0), **GQA),
    "gemma2": Gemma2Config(
        **GQA | dict(tie_word_embeddings=True, num_hidden_layers=3), head_dim=16, query_pre_attn_scalar=10,
        sliding_window=33, attn_logit_softcapping=5.0, final_logit_softcapping=4.0, rope_parameters=rope(),
    ),
    "gpt2": GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=128, **COMMON),
    "gpt_neox": GPTNeoXConfig(
        intermediate_size=64, rope_parameters=rope(partial_rotary_factor=0.5), tie_word_embeddings=False, **SIZES
    ),
    "phi": PhiConfig(
        intermediate_size=64, num_key_value_heads=4, rope_parameters=rope(partial_rotary_factor=0.5),
        tie_word_embeddings=False, **SIZES,
    ),
}  # fmt: skip

# GGUF's name of the architecture. Its "llama" is Mistral too, but has no window.
ARCHITECTURES = {
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "phi3": gguf.MODEL_ARCH.PHI3,
    "olmo": gguf.MODEL_ARCH.OLMO,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gpt2": gguf.MODEL_ARCH.GPT2,
    "gpt_neox": gguf.MODEL_ARCH.GPTNEOX,
    "phi": gguf.MODEL_ARCH.PHI2,
}
FUSED = ("query_key_value", "qkv_proj", "c_attn")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rope", action="store_true", help="make tests/model/rope.json")
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    if arguments.rope:
        make_rope()
        return
    for name, config in CONFIGS.items():
        make_model(name, config)


def make_model(name, config):
    set_seed(20262)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    spread_weights(model, name)
    prompts = [torch.randint(3, VOCABULARY, (length,)).tolist() for length in PROMPT_LENGTHS]
    score_deviation = measure_scores(model, prompts)
    directory = GOLDEN / "families" / name
    directory.mkdir(parents=True, exist_ok=True)
    write_gguf(name, model, directory / "model.gguf")
    model.bfloat16().save_pretrained(directory)
    (directory / "generation_config.json").unlink(missing_ok=True)
    (directory / "model.safetensors").chmod(0o644)
    (directory / "prompts.json").write_text(json.dumps(prompts) + "\n")
    exact_model = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager", dtype=torch.float64).eval()
    exact = torch.cat([exact_model(torch.tensor([prompt])).logits[0] for prompt in prompts])
    exact.float().numpy().astype("<f4").tofile(directory / "logits.f32")
    deviation = exact.std().item()
    assert score_deviation >= 2 and deviation >= 1, (name, score_deviation, deviation)
    print(f"{name}: scores deviate by {score_deviation:.2f}, logits by {deviation:.2f}")


def spread_weights(model, family):
    tied = model.config.tie_word_embeddings
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.normal_(0, 0.2)
        elif "q_norm" in name or "k_norm" in name:
            parameter.normal_(SCORE_DEVIATION**0.5, 0.2)
        elif "norm" in name or ".ln_" in name:
            parameter.normal_(0 if family == "gemma2" else 1, 0.1)  # Gemma adds 1
        elif "embed_out" in name:
            parameter.normal_(0, 1.25 * parameter.shape[1] ** -0.5)
        elif "embed" in name or ".wte" in name or ".wpe" in name:
            parameter.normal_(0, 0.3 if tied else 1)
        else:
            inputs = parameter.shape[0 if family == "gpt2" and "lm_head" not in name else 1]
            sharp = any(part in name for part in ("q_proj", "k_proj", *FUSED))
            gain = SCORE_DEVIATION**0.5 if sharp else 1.25 if "lm_head" in name else 1.0
            parameter.normal_(0, gain / inputs**0.5)
        parameter.copy_(parameter.bfloat16().float())


# ---- GGUF -----------------------------------------------------------------------------------------------------------


def write_gguf(family, model, path):
    path.unlink(missing_ok=True)
    if family not in ARCHITECTURES:
        return
    config, arch = model.config, ARCHITECTURES[family]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    writer.add_name(family)
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(getattr(config, "num_key_value_heads", heads))
    if head_dim * heads != config.hidden_size:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    writer.add_vocab_size(config.vocab_size)
    if hasattr(config, "rms_norm_eps"):
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    else:
        epsilon = getattr(config, "layer_norm_eps", None) or getattr(config, "layer_norm_epsilon", 1e-5)
        writer.add_layer_norm_eps(epsilon)
    if family == "gpt_neox":
        writer.add_parallel_residual(config.use_parallel_residual)
    if family in ("gemma2", "phi3"):
        writer.add_sliding_window(config.sliding_window)
    if family == "gemma2":
        writer.add_float32("gemma2.attention.scale", config.query_pre_attn_scalar**-0.5)
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    scaling = getattr(config, "rope_parameters", None)
    if scaling:
        write_gguf_rope(writer, scaling, head_dim, config)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    for name, tensor in gguf_tensors(family, model, head_dim, heads):
        new = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert new is not None, name
        if tensor.dim() == 1:
            writer.add_tensor(new, tensor.float().numpy())
        else:
            bits = tensor.bfloat16().contiguous().view(torch.uint16).numpy()
            writer.add_tensor(new, bits.view("uint8"), raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_gguf_rope(writer, scaling, head_dim, config):
    writer.add_rope_freq_base(scaling["rope_theta"])
    writer.add_rope_dimension_count(int(head_dim * scaling.get("partial_rotary_factor", 1)))
    if scaling["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling["factor"])
    elif scaling["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(scaling["factor"])
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
    elif scaling["rope_type"] == "longrope":
        _, attention_factor = ROPE_INIT_FUNCTIONS["longrope"](config, "cpu", seq_len=1)
        writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
        writer.add_rope_scaling_attn_factors(attention_factor)
        writer.add_tensor("rope_factors_short.weight", torch.tensor(scaling["short_factor"]).numpy())
        writer.add_tensor("rope_factors_long.weight", torch.tensor(scaling["long_factor"]).numpy())


def gguf_tensors(family, model, head_dim, heads):
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        if family == "gemma2" and "norm" in name:
            tensor = tensor + 1
        if family == "gpt2" and tensor.dim() == 2 and ".h." in name:
            tensor = tensor.T
        if family == "gpt_neox" and "query_key_value" in name:  # of each head q, k and v: all heads of each
            tensor = tensor.view(heads, 3, head_dim, *tensor.shape[1:]).transpose(0, 1).reshape(tensor.shape)
        if family == "olmo" and ("q_proj" in name or "k_proj" in name):  # pairs that rotate become neighbours
            tensor = tensor.view(-1, 2, head_dim // 2, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
        if family == "gpt2" and not name.startswith("lm_head"):
            name = name.removeprefix("transformer.")
        yield name, tensor


# ---- rotary frequencies ---------------------------------------------------------------------------------------------


def make_rope():
    scalings = [
        rope(),
        rope(partial_rotary_factor=0.25),
        rope("linear", factor=3.0),
        rope("dynamic", factor=2.0),
        rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=512),
        rope("yarn", factor=4.0, original_max_position_embeddings=512),
        rope("yarn", factor=1.5, original_max_position_embeddings=512, beta_fast=16.0, beta_slow=2.0),
        rope("yarn", factor=8.0, original_max_position_embeddings=512, attention_factor=1.25),
        rope("yarn", factor=8.0, original_max_position_embeddings=512, mscale=0.7, mscale_all_dim=0.4),
        rope("yarn", factor=8.0, original_max_position_embeddings=512, truncate=False),
        rope("yarn", factor=40.0, original_max_position_embeddings=512, partial_rotary_factor=0.5),
        rope(
            "longrope",
            factor=4.0,
            original_max_position_embeddings=512,
            short_factor=[1 + i / 8 for i in range(16)],
            long_factor=[1 + i for i in range(16)],
        ),
    ]
    cases = []
    for scaling in scalings:
        config = LlamaConfig(head_dim=32, max_position_embeddings=2048, rope_parameters=dict(scaling))
        if scaling["rope_type"] == "default":
            dim = int(32 * scaling.get("partial_rotary_factor", 1))
            frequencies, factor = 1 / 1000.0 ** (torch.arange(0, dim, 2) / dim), 1.0
        else:
            frequencies, factor = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](config, "cpu", seq_len=1)
        cases.append(dict(rope_parameters=scaling, inverse_frequency=frequencies.tolist(), attention_factor=factor))
    text = ",\n".join("  " + json.dumps(case) for case in cases)
    (GOLDEN.parent / "model" / "rope.json").write_text(f"[\n{text}\n]\n")


if __name__ == "__main__":
    main()
