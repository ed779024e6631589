# SPDX-License-Identifier: Apache-2.0
"""A Llama with as many KV heads as heads and random bf16 weights, for measuring what needs no sense: every weight is
plus or minus 2^e times 1 to 2. Made in seconds, the same bytes for the same seed."""

from __future__ import annotations

import argparse
import json
import math
import random
from pathlib import Path

VOCABULARY = 4096


def bf16(count: int, deviation: float, numbers: random.Random) -> bytes:
    exponent = 127 + math.floor(math.log2(deviation / 1.53))  # 1.53: root mean square of 1 to 2
    low = bytes((exponent & 1) << 7 | i & 0x7F for i in range(256))
    high = bytes(i & 0x80 | exponent >> 1 for i in range(256))
    data = bytearray(2 * count)
    data[0::2] = numbers.randbytes(count).translate(low)
    data[1::2] = numbers.randbytes(count).translate(high)
    return bytes(data)


def make(directory: Path, layers: int, hidden: int, heads: int, ffn: int, seed: int = 1) -> None:
    """Writes config.json and model.safetensors."""
    numbers = random.Random(seed)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "intermediate_size": ffn,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": heads,
        "vocab_size": VOCABULARY, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "hidden_act": "silu", "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2,
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, hidden)}
    for i in range(layers):
        layer = f"model.layers.{i}."
        for name in "qkvo":
            shapes[f"{layer}self_attn.{name}_proj.weight"] = (hidden, hidden)
        shapes[f"{layer}mlp.gate_proj.weight"] = shapes[f"{layer}mlp.up_proj.weight"] = (ffn, hidden)
        shapes[f"{layer}mlp.down_proj.weight"] = (hidden, ffn)
        shapes[f"{layer}input_layernorm.weight"] = shapes[f"{layer}post_attention_layernorm.weight"] = (hidden,)
    shapes["model.norm.weight"] = (hidden,)

    header: dict[str, object] = {}
    parts: list[bytes] = []
    end = 0
    for name, shape in shapes.items():
        count = math.prod(shape)
        norm = len(shape) == 1
        data = b"\x80\x3f" * count if norm else bf16(count, shape[1] ** -0.5, numbers)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + len(data)]}
        end += len(data)
        parts.append(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(parts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--ffn", type=int, default=2048)
    values = parser.parse_args()
    make(values.directory, values.layers, values.hidden, values.heads, values.ffn)
