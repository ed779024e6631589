# SPDX-License-Identifier: Apache-2.0
"""Models that cannot be served: each is refused with one line that names the file and the fault."""

import os
import unittest
from pathlib import Path
from typing import Any

from iokvd import ModelCopy, refusal


class ModelInput(unittest.TestCase):
    def assert_refused(self, model: Path | str, *words: str) -> None:
        status, output = refusal(model=model)
        self.assertGreater(status, 0, f"died of a signal: {output}")
        errors = [line for line in output.splitlines() if line.strip()]
        for word in words:
            self.assertIn(word.lower(), errors[-1].lower())

    def test_a_missing_path(self) -> None:
        self.assert_refused("/nonexistent-iokv/model", "/nonexistent-iokv/model")

    def test_a_directory_without_a_config(self) -> None:
        with ModelCopy() as model:
            (model.path / "config.json").unlink()
            self.assert_refused(model.path, "config.json")

    def test_a_config_that_is_not_json(self) -> None:
        with ModelCopy() as model:
            (model.path / "config.json").write_text("{ not json")
            self.assert_refused(model.path, "config.json")

    def test_a_directory_without_weights(self) -> None:
        with ModelCopy() as model:
            model.weights.unlink()
            self.assert_refused(model.path, "safetensors")

    def test_truncated_weights(self) -> None:
        with ModelCopy() as model:
            size = model.weights.stat().st_size
            for kept in (0, 4, 100, size // 2, size - 1):
                with self.subTest(kept=kept):
                    os.truncate(model.weights, kept)
                    self.assert_refused(model.path, "safetensors")

    def test_a_header_that_claims_more_than_the_file(self) -> None:
        with ModelCopy() as model:
            data = bytearray(model.weights.read_bytes())
            data[:8] = (1 << 62).to_bytes(8, "little")
            model.weights.write_bytes(data)
            self.assert_refused(model.path, "safetensors")

    def test_an_unknown_architecture(self) -> None:
        with ModelCopy() as model:
            model.edit_config(architectures=["MambaForCausalLM"], model_type="mamba")
            self.assert_refused(model.path, "mamba")

    def test_shapes_that_disagree_with_the_config(self) -> None:
        with ModelCopy() as model:
            model.edit_config(intermediate_size=24)
            self.assert_refused(model.path, "mlp")

    def test_absurd_sizes_in_the_config(self) -> None:
        for key in ("num_hidden_layers", "hidden_size", "vocab_size", "num_attention_heads"):
            for value in (-1, 0, 1 << 40, "many"):
                with self.subTest(key=key, value=value), ModelCopy() as model:
                    model.edit_config(**{key: value})
                    self.assert_refused(model.path)

    def test_a_missing_tensor(self) -> None:
        def rename(header: dict[str, Any]) -> None:
            header["spare.weight"] = header.pop("model.layers.1.self_attn.k_proj.weight")

        with ModelCopy() as model:
            model.edit_header(rename)
            self.assert_refused(model.path, "model.layers.1.self_attn.k_proj.weight")

    def test_bytes_that_belong_to_no_tensor(self) -> None:
        with ModelCopy() as model:
            model.edit_header(lambda header: header.pop("model.layers.1.self_attn.k_proj.weight"))
            self.assert_refused(model.path, "model.safetensors", "gap")

    def test_a_tensor_beyond_the_file(self) -> None:
        def move(header: dict[str, Any]) -> None:
            header["model.norm.weight"]["data_offsets"] = [1 << 40, (1 << 40) + 256]

        with ModelCopy() as model:
            model.edit_header(move)
            self.assert_refused(model.path, "model.norm.weight")

    def test_an_unknown_dtype(self) -> None:
        def change(header: dict[str, Any]) -> None:
            header["model.norm.weight"]["dtype"] = "F4"

        with ModelCopy() as model:
            model.edit_header(change)
            self.assert_refused(model.path, "F4")

    def test_a_file_that_is_no_model(self) -> None:
        with ModelCopy() as model:
            path = model.path / "model.gguf"
            for content in (b"", b"GGUF", b"GGUF" + b"\xff" * 64, b"hello, world" * 100):
                with self.subTest(content=content[:12]):
                    path.write_bytes(content)
                    self.assert_refused(path, "model.gguf")


if __name__ == "__main__":
    unittest.main()
