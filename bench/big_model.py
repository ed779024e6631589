# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of any shape with random fp16 weights, for measuring what needs no sense: OPT and Llama as safetensors of
several files, 13.5 GB in seconds.

Weights are normally distributed (in 256 steps; the lowest 8 bits are uniform) with a deviation of 1/sqrt(k), k what a
row is multiplied with, so that activations stay near 1: fp16 overflows in no layer. Those of Q and K are 1.5 times, so
that attention scores have a deviation above 2; embeddings, which are the head where it is tied, 1.5 times too. Norms lie
around 1, biases around 0, with a deviation of 0.1. Nothing is zero.

Numbers repeat: all tensors of a deviation are cut from one block of 2^24 + 43 numbers, each from an offset of its own.
The block's length has no factor in common with a row's, so no two rows of a matrix are the same.

    big_model.py DIRECTORY [--shape layers,hidden,heads,kv_heads,ffn,vocab] [--name opt-6.7b] [--positions N]
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import json
import math
import os
import random
import statistics
import struct
import time
from pathlib import Path

ELEMENTS = (1 << 24) + 43  # of a block; prime
OFFSET_STEP = 9_876_541    # between the tensors' offsets: some 0.59 of the block
FILE_BYTES = 2 << 30
PIECE_BYTES = 16 << 20     # written at once by a thread


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
        Shape("llama-2-7b", "llama", 32, 4096, 32, 32, 11008, 32000, 32768),
        Shape("llama-3-8b", "llama", 32, 4096, 32, 8, 14336, 128256, 131072, 500000.0),
    )
}


@dataclasses.dataclass(frozen=True)
class Tensor:
    name: str
    shape: tuple[int, ...]
    deviation: float
    middle: float = 0.0

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def tensors_of(shape: Shape) -> list[Tensor]:
    return _opt_tensors(shape) if shape.family == "opt" else _llama_tensors(shape)


def _matrix(name: str, rows: int, columns: int, gain: float = 1.0) -> Tensor:
    return Tensor(f"{name}.weight", (rows, columns), gain * columns**-0.5)


def _norm(name: str, width: int) -> Tensor:
    return Tensor(f"{name}.weight", (width,), 0.1, 1.0)


def _bias(name: str, width: int) -> Tensor:
    return Tensor(f"{name}.bias", (width,), 0.1)


def _opt_tensors(shape: Shape) -> list[Tensor]:
    h, ffn, decoder = shape.hidden, shape.ffn, "model.decoder"
    found = [_matrix(f"{decoder}.embed_tokens", shape.vocab, h, 1.5),
             _matrix(f"{decoder}.embed_positions", shape.positions + 2, h)]
    for i in range(shape.layers):
        layer = f"{decoder}.layers.{i}"
        for part, rows, columns, gain in (("self_attn.q_proj", h, h, 1.5), ("self_attn.k_proj", h, h, 1.5),
                                          ("self_attn.v_proj", h, h, 1.0), ("self_attn.out_proj", h, h, 1.0),
                                          ("fc1", ffn, h, 1.0), ("fc2", h, ffn, 1.0)):
            found += [_matrix(f"{layer}.{part}", rows, columns, gain), _bias(f"{layer}.{part}", rows)]
        for part in ("self_attn_layer_norm", "final_layer_norm"):
            found += [_norm(f"{layer}.{part}", h), _bias(f"{layer}.{part}", h)]
    return [*found, _norm(f"{decoder}.final_layer_norm", h), _bias(f"{decoder}.final_layer_norm", h)]


def _llama_tensors(shape: Shape) -> list[Tensor]:
    h, kv, ffn = shape.hidden, shape.kv_width, shape.ffn
    found = [_matrix("model.embed_tokens", shape.vocab, h, 1.5)]
    for i in range(shape.layers):
        layer = f"model.layers.{i}"
        found += [_matrix(f"{layer}.{part}", rows, columns, gain)
                  for part, rows, columns, gain in (("self_attn.q_proj", h, h, 1.5), ("self_attn.k_proj", kv, h, 1.5),
                                                    ("self_attn.v_proj", kv, h, 1.0), ("self_attn.o_proj", h, h, 1.0),
                                                    ("mlp.gate_proj", ffn, h, 1.0), ("mlp.up_proj", ffn, h, 1.0),
                                                    ("mlp.down_proj", h, ffn, 1.0))]
        found += [_norm(f"{layer}.{part}", h) for part in ("input_layernorm", "post_attention_layernorm")]
    return [*found, _norm("model.norm", h), _matrix("lm_head", shape.vocab, h, 1.5)]


def _high_bytes(deviation: float, middle: float) -> bytes:
    """Sign, exponent and the first 2 bits of the fraction of 256 equally probable numbers. The lower 8 bits add 1/2 of
    the last of those bits on average: the square of that is taken off the deviation."""
    half = struct.Struct(">e")

    def table(size: float) -> bytes:
        normal = statistics.NormalDist(middle, size)
        return bytes(half.pack(normal.inv_cdf((i + 0.5) / 256))[0] for i in range(256))

    def moments(high: bytes) -> tuple[float, float]:
        values = [half.unpack(bytes((byte, 0x80)))[0] for byte in high]
        return statistics.fmean(values), statistics.fmean(value * value for value in values)

    mean, square = moments(table(deviation))
    found = math.sqrt(max(square - mean * mean, 1e-12))
    return table(deviation * deviation / found)


class Blocks:
    """The random numbers of each deviation, made when first asked for."""

    def __init__(self, seed: int) -> None:
        numbers = random.Random(seed)
        self._low, self._high = numbers.randbytes(ELEMENTS), numbers.randbytes(ELEMENTS)
        self._made: dict[tuple[float, float], memoryview] = {}

    def block(self, deviation: float, middle: float) -> memoryview:
        if (deviation, middle) not in self._made:
            data = bytearray(2 * ELEMENTS)
            data[0::2] = self._low
            data[1::2] = self._high.translate(_high_bytes(deviation, middle))
            self._made[deviation, middle] = memoryview(data).toreadonly()
        return self._made[deviation, middle]


@dataclasses.dataclass
class Piece:
    """Some bytes of a file: where they go, and where in a block they come from."""

    descriptor: int
    at: int
    block: memoryview
    start: int
    length: int

    def write(self) -> None:
        while self.length > 0:
            length = min(self.length, len(self.block) - self.start)
            written = os.pwrite(self.descriptor, self.block[self.start : self.start + length], self.at)
            self.at, self.length = self.at + written, self.length - written
            self.start = (self.start + written) % len(self.block)


def _grouped(tensors: list[Tensor]) -> list[list[tuple[int, Tensor]]]:
    """Each with its number, in files of about FILE_BYTES."""
    files: list[list[tuple[int, Tensor]]] = [[]]
    size = 0
    for number, tensor in enumerate(tensors):
        if size >= FILE_BYTES:
            files.append([])
            size = 0
        files[-1].append((number, tensor))
        size += 2 * tensor.elements
    return files


def _open_file(path: Path, tensors: list[tuple[int, Tensor]], blocks: Blocks) -> list[Piece]:
    """Writes the header; returns what is still to be written."""
    header: dict[str, object] = {}
    end = 0
    for _, tensor in tensors:
        header[tensor.name] = {"dtype": "F16", "shape": tensor.shape, "data_offsets": [end, end + 2 * tensor.elements]}
        end += 2 * tensor.elements
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    descriptor = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644)
    os.write(descriptor, len(text).to_bytes(8, "little") + text)
    at = 8 + len(text)
    os.ftruncate(descriptor, at + end)
    pieces = []
    for number, tensor in tensors:
        block = blocks.block(tensor.deviation, tensor.middle)
        first = number * OFFSET_STEP % ELEMENTS * 2
        for begin in range(0, 2 * tensor.elements, PIECE_BYTES):
            length = min(PIECE_BYTES, 2 * tensor.elements - begin)
            pieces.append(Piece(descriptor, at + begin, block, (first + begin) % len(block), length))
        at += 2 * tensor.elements
    return pieces


def make(directory: Path, shape: Shape, seed: int = 1) -> int:
    """Writes config.json and the files of the weights; returns the bytes of the weights. OSError where they do not
    fit."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(shape.config(), indent=2) + "\n")
    files = _grouped(tensors_of(shape))
    blocks = Blocks(seed)
    pieces: list[Piece] = []
    weight_map: dict[str, str] = {}
    for i, tensors in enumerate(files):
        name = f"model-{i + 1:05}-of-{len(files):05}.safetensors"
        pieces += _open_file(directory / name, tensors, blocks)
        weight_map |= {tensor.name: name for _, tensor in tensors}
    try:
        with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
            list(threads.map(Piece.write, pieces))  # os.pwrite lets other threads run
    finally:
        for descriptor in {piece.descriptor for piece in pieces}:
            os.close(descriptor)
    total = sum(2 * tensor.elements for tensors in files for _, tensor in tensors)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def parse_shape(text: str, family: str, positions: int, rope_theta: float = 10000.0) -> Shape:
    """layers,hidden,heads,kv_heads,ffn,vocab."""
    numbers = [int(number) for number in text.split(",")]
    if len(numbers) != 6:
        raise ValueError("a shape is layers,hidden,heads,kv_heads,ffn,vocab")
    layers, hidden, heads, kv_heads, ffn, vocab = numbers
    return Shape("custom", family, layers, hidden, heads, kv_heads, ffn, vocab, positions, rope_theta)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--name", choices=SHAPES, default="opt-6.7b")
    parser.add_argument("--shape", help="layers,hidden,heads,kv_heads,ffn,vocab, instead of --name")
    parser.add_argument("--family", choices=("opt", "llama"), default="llama", help="of --shape (llama)")
    parser.add_argument("--positions", type=int, default=0, help="the longest context")
    values = parser.parse_args()
    shape = parse_shape(values.shape, values.family, 8192) if values.shape else SHAPES[values.name]
    if values.positions:
        shape = dataclasses.replace(shape, positions=values.positions)
    begun = time.monotonic()
    written = make(values.directory, shape)
    took = time.monotonic() - begun
    print(f"{values.directory}: {written / 1e9:.2f} GB in {took:.1f} s")


if __name__ == "__main__":
    main()
