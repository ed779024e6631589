#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes blocks of every quantised type and what the Python package gguf makes of them, for tests/model.

usage: make_quantised.py FILE     needs numpy and gguf
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np

TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL")
BLOCKS = 3
# Scales and minima are f16 somewhere in the block, behind its other bytes in some types.
SCALE_FROM_END = {"Q2_K": 4, "Q3_K": 2, "Q6_K": 2}
MINIMUM_BEHIND_SCALE = ("Q4_1", "Q5_1", "Q2_K", "Q4_K", "Q5_K")


def main() -> None:
    random = np.random.default_rng(20260101)
    cases = {}
    for name in TYPES:
        kind = gguf.GGMLQuantizationType[name]
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        data = random.integers(0, 256, (1, BLOCKS * size), dtype=np.uint8)
        # Keep the scales finite and ordinary.
        for block in range(BLOCKS):
            at = block * size + (size - SCALE_FROM_END[name] if name in SCALE_FROM_END else 0)
            data[0, at : at + 2] = np.frombuffer(np.float16(random.uniform(0.001, 0.1)).tobytes(), np.uint8)
            if name in MINIMUM_BEHIND_SCALE:
                data[0, at + 2 : at + 4] = np.frombuffer(np.float16(random.uniform(-0.5, 0.5)).tobytes(), np.uint8)
        values = gguf.quants.dequantize(data, kind).astype("<f4").reshape(-1)
        assert values.size == BLOCKS * elements and np.isfinite(values).all()
        cases[name] = {"bytes": data.tobytes().hex(), "f32": values.tobytes().hex()}
    Path(sys.argv[1]).write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    main()
