# SPDX-License-Identifier: Apache-2.0
"""Sizes of models: what they are called, the bytes of their weights, and config.json for `iokvd --random-weights`, which needs
no other file. Pure but for `write_config`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Shape:
    name: str
    family: str  # "opt" or "llama"
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    positions: int = 4096  # the longest context
    rope_theta: float = 10000.0

    def __post_init__(self) -> None:
        if self.family not in ("opt", "llama") or self.hidden % self.heads or self.heads % self.kv_heads:
            raise ValueError(f"no such shape: {self}")
        if self.family == "opt" and self.kv_heads != self.heads:
            raise ValueError("OPT has as many KV heads as heads")

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def layer_weights(self) -> int:
        """Numbers in the matrices of a layer."""
        attention = 2 * self.hidden * (self.hidden + self.kv_width)
        return attention + (3 if self.family == "llama" else 2) * self.hidden * self.ffn

    @property
    def head_weights(self) -> int:
        return self.vocab * self.hidden

    @property
    def weights_read(self) -> int:
        """Numbers in the matrices that every step reads whole."""
        return self.layers * self.layer_weights + self.head_weights

    @property
    def layer_bytes(self) -> int:
        """Of a layer's matrices, 2 an element: what a layer that streams has on the link."""
        return 2 * self.layer_weights

    @property
    def fixed_bytes(self) -> int:
        """Of what is on the device whatever streams, as daemon/model/weights.cpp counts it: tables of 2 bytes an element, norms
        and biases of 4, biases whether or not the family has them."""
        opt = self.family == "opt"
        tables = self.head_weights * (1 if opt else 2) + ((self.positions + 2) * self.hidden if opt else 0)
        outputs = self.hidden + 2 * self.kv_width + 2 * self.hidden + self.ffn * (1 if opt else 2)
        return 2 * tables + 4 * (self.layers * (4 * self.hidden + outputs) + 2 * self.hidden)

    def config(self) -> dict[str, object]:
        """config.json."""
        if self.family == "opt":
            return {
                "architectures": ["OPTForCausalLM"], "model_type": "opt", "num_hidden_layers": self.layers,
                "hidden_size": self.hidden, "word_embed_proj_dim": self.hidden, "num_attention_heads": self.heads,
                "ffn_dim": self.ffn, "vocab_size": self.vocab, "max_position_embeddings": self.positions,
                "activation_function": "relu", "do_layer_norm_before": True, "tie_word_embeddings": True,
                "torch_dtype": "float16", "bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1,
            }
        return {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": self.layers,
            "hidden_size": self.hidden, "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads,
            "intermediate_size": self.ffn, "vocab_size": self.vocab, "max_position_embeddings": self.positions,
            "rms_norm_eps": 1e-5, "rope_theta": self.rope_theta, "hidden_act": "silu", "tie_word_embeddings": False,
            "torch_dtype": "float16", "bos_token_id": 1, "eos_token_id": 2,
        }


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("opt-6.7b", "opt", 32, 4096, 32, 32, 16384, 50272),
        Shape("opt-13b", "opt", 40, 5120, 40, 40, 20480, 50272),
        Shape("opt-30b", "opt", 48, 7168, 56, 56, 28672, 50272),
        Shape("llama-2-7b", "llama", 32, 4096, 32, 32, 11008, 32000, 32768),
        Shape("llama-3-8b", "llama", 32, 4096, 32, 8, 14336, 128256, 131072, 500000.0),
    )
}


def write_config(directory: Path, shape: Shape) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(shape.config(), indent=2) + "\n")


def parse_shape(text: str, family: str, positions: int, rope_theta: float = 10000.0) -> Shape:
    """layers,hidden,heads,kv_heads,ffn,vocab."""
    numbers = [int(number) for number in text.split(",")]
    if len(numbers) != 6:
        raise ValueError("a shape is layers,hidden,heads,kv_heads,ffn,vocab")
    layers, hidden, heads, kv_heads, ffn, vocab = numbers
    return Shape("custom", family, layers, hidden, heads, kv_heads, ffn, vocab, positions, rope_theta)
