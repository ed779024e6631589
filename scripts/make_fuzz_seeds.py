#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the fuzz targets' seeds (tests/fuzz/seeds): small valid inputs, so that mutation starts behind the magic numbers.

usage: make_fuzz_seeds.py DIRECTORY     needs numpy, gguf, safetensors; the result does not depend on their versions
"""

import struct
import sys
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file


def write_gguf(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("seed")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(32)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(16)
    writer.add_vocab_size(8)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(["<s>", "</s>", "a", "b", "ab", "Ġ", "Ġa", "c"])
    writer.add_token_types([3, 3, 1, 1, 1, 1, 1, 1])
    writer.add_token_merges(["a b", "Ġ a"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    ones = lambda *shape: np.ones(shape, dtype=np.float32)
    for name, shape in {
        "token_embd.weight": (8, 32),
        "output_norm.weight": (32,),
        "blk.0.attn_norm.weight": (32,),
        "blk.0.ffn_norm.weight": (32,),
        "blk.0.attn_q.weight": (32, 32),
        "blk.0.attn_k.weight": (16, 32),
        "blk.0.attn_v.weight": (16, 32),
        "blk.0.attn_output.weight": (32, 32),
        "blk.0.ffn_gate.weight": (32, 32),
        "blk.0.ffn_up.weight": (32, 32),
        "blk.0.ffn_down.weight": (32, 32),
    }.items():
        if len(shape) == 2 and name != "token_embd.weight":
            kind = gguf.GGMLQuantizationType.Q4_0
            writer.add_tensor(name, gguf.quants.quantize(ones(*shape), kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, ones(*shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def submission(opcode: int, operation: int, sequence: int, offset: int = 0, size: int = 0, n: int = 0, m: int = 0) -> bytes:
    return struct.pack("<BBHhHQQQQIIIIII", opcode, 0, 0, 0, 0, operation, 1, sequence, 0, offset, size, n, m, 0, 0)


def write_submissions(path: Path) -> None:
    sequence = 1 << 32
    payload = struct.pack("<IIIffIQ", 32, 1, 1, 0.5, 0.9, 10, 7) + struct.pack("<4i", 1, 2, 3, 9)
    entries = [
        submission(1, 1, 0),
        submission(2, 2, sequence),
        submission(3, 3, sequence, 0, len(payload), 3, 5),
        submission(5, 4, sequence, n=2),
        submission(6, 5, sequence),
        submission(7, 6, sequence),
    ]
    ring = b"".join(entries).ljust(16 * 64, b"\0")
    path.write_bytes(struct.pack("<QII", 1, 3, len(entries)) + ring + payload)


def write_messages(directory: Path) -> None:
    magic = 0x766B6F69
    hello = struct.pack("<IHHHHIQIIII32s", magic, 1, 72, 1, 1, 0, 0, 16, 64, 4096, 0, b"seed")
    (directory / "hello").write_bytes(hello)
    (directory / "fetch").write_bytes(struct.pack("<IHHII", magic, 5, 16, 2, 0))


def main() -> None:
    root = Path(sys.argv[1])
    for name in ("gguf", "safetensors", "submission_ring", "control_messages"):
        (root / name).mkdir(parents=True, exist_ok=True)
    write_gguf(root / "gguf" / "llama")
    tensors = {"a": np.ones((2, 3), np.float32), "b": np.zeros(5, np.float16), "c": np.zeros((), np.int64)}
    save_file(tensors, root / "safetensors" / "three", metadata={"format": "np"})
    write_submissions(root / "submission_ring" / "lifecycle")
    write_messages(root / "control_messages")


if __name__ == "__main__":
    main()
