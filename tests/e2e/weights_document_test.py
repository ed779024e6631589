# SPDX-License-Identifier: Apache-2.0
"""docs/weights.md says what `iokv plan` prints, and its trace shows what it says. A failure of a table shows what the
document should say."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from iokvd import LIMIT_S, ROOT
from kvpr_document_test import commands, iokv, matches, plan, row

DOCUMENT = Path(ROOT, "docs", "weights.md")
TRACE, PICTURE = Path(ROOT, "docs", "trace-weights.json.gz"), Path(ROOT, "docs", "trace-weights.svg")
# A name, what `iokv plan` calls it, and what is left of its memory for weights and cached tokens.
GPUS = [("24 GiB (RTX 4090)", "rtx4090-pcie4", 22), ("40 GiB (A100)", "a100-pcie4", 38), ("80 GiB (H100)", "h100", 78)]
GIB = 1 << 30


def prediction_rows() -> Iterator[str]:
    for model in ("opt-30b", "opt-66b"):
        for name, hardware, gib in GPUS:
            for batch in (1, 32, 256):
                answer = plan(hardware, model, batch, 512, 32, "--device-memory", f"{gib}GiB")
                on_host = plan(hardware, model, batch, 512, 32, "--weights", "host")["streaming"]["auto"]
                auto = answer["streaming"]["auto"]
                host = answer["streamed_weight_bytes"] + answer["last_kv_bytes"] * (1 - auto["split_tokens"] / answer["context"] / 2)
                yield row(
                    *(model, name, batch, answer["streamed_layers"], f"{answer['streamed_weight_bytes'] / GIB:.1f}"),
                    *(f"{host / GIB:.0f}", f"{auto['total_s'] / 32:.3f}", f"{auto['tokens_per_s']:.2f}", auto["binds"]),
                    f"{on_host['tokens_per_s']:.2f}",
                )


class Document(unittest.TestCase):
    def setUp(self) -> None:
        self.text = DOCUMENT.read_text()

    def test_predictions_are_the_tools(self) -> None:
        lines = self.text.splitlines()
        missing = [line for line in prediction_rows() if line not in lines]
        self.assertEqual(missing, [], f"{DOCUMENT} should have these rows:\n" + "\n".join(missing))

    def test_commands_print_what_is_shown_under_them(self) -> None:
        shown = list(commands(self.text))
        self.assertGreater(len(shown), 0)
        for arguments, lines in shown:
            printed = iokv(*arguments)
            self.assertTrue(matches(lines, printed), f"iokv {arguments} prints\n{printed}")

    def test_the_picture_is_drawn_from_the_trace(self) -> None:
        self.assertIn(f"]({PICTURE.name})", self.text)
        self.assertIn(f"]({TRACE.name})", self.text)
        with tempfile.TemporaryDirectory() as directory:
            trace, picture = Path(directory, "trace.json"), Path(directory, "trace.svg")
            trace.write_bytes(gzip.decompress(TRACE.read_bytes()))
            script = Path(ROOT, "bench", "trace_picture.py")
            subprocess.run([sys.executable, "-B", script, trace, picture, "--layers", "2-4"], check=True, timeout=LIMIT_S)
            self.assertEqual(picture.read_text(), PICTURE.read_text())

    def test_recomputation_begins_while_a_layer_s_other_weights_are_on_the_wire(self) -> None:
        layers = operations_of(json.loads(gzip.decompress(TRACE.read_bytes())))
        self.assertGreater(len(layers), 10)
        for where, operations in layers.items():
            kv_weights, rest = (only(operations, name) for name in ("fetch W_K, W_V", "fetch weights"))
            recompute = min((event for event in operations if event["name"] == "recompute"), key=lambda event: event["ts"])
            project = only(operations, "project")
            self.assertLessEqual(kv_weights["ts"] + kv_weights["dur"], rest["ts"], where)
            self.assertLess(recompute["ts"], rest["ts"] + rest["dur"], where)
            self.assertGreaterEqual(recompute["ts"], kv_weights["ts"] + kv_weights["dur"], where)
            self.assertGreaterEqual(project["ts"], rest["ts"] + rest["dur"], where)


def operations_of(trace: dict[str, Any]) -> dict[tuple[int, int], list[dict[str, Any]]]:
    """By step and layer."""
    found: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for event in trace["traceEvents"]:
        if event["ph"] == "X" and "layer" in event["args"]:
            found.setdefault((event["args"]["step"], event["args"]["layer"]), []).append(event)
    return found


def only(events: list[dict[str, Any]], name: str) -> dict[str, Any]:
    (event,) = [event for event in events if event["name"] == name]
    return event


if __name__ == "__main__":
    unittest.main()
