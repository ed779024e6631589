# SPDX-License-Identifier: Apache-2.0
"""scripts/bench gpu without a GPU: its floors beside figures worked out by hand, its checkpoints as the daemon reads
them, and a rehearsal of every row."""

from __future__ import annotations

import dataclasses
import json
import math
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

from iokvd import ROOT, Daemon

BENCH = ROOT / "bench"
sys.path.insert(0, str(BENCH))

import big_model  # noqa: E402
import gpu_workers  # noqa: E402
import iokv  # noqa: E402
from big_model import SHAPES, Shape  # noqa: E402
from gpu_floor import Rates, Work, cache_bytes, prefill_floor, step_floor  # noqa: E402
from gpu_workers import Peers, Request  # noqa: E402

H200 = Rates(link=55.5e9, memory=4.3e12, product=730e12)
OPT = SHAPES["opt-6.7b"]


def floor_ms(model: str, batch: int, context: int, recompute: str = "auto", budget_bytes: float = 0) -> float:
    shape = SHAPES[model]
    return 1e3 * step_floor(shape, Work.decode(shape, batch, context), recompute, budget_bytes, H200).seconds


class Floors(unittest.TestCase):
    def test_an_h200_needs_what_its_link_and_memory_say(self) -> None:
        # 1024 x 32 tokens of 32 layers: 8.59 GB of X, 17.18 GB of K,V.
        self.assertAlmostEqual(floor_ms("opt-6.7b", 32, 1024), 154.8, delta=0.1)
        self.assertAlmostEqual(floor_ms("opt-6.7b", 32, 1024, "never"), 309.6, delta=0.1)
        self.assertAlmostEqual(floor_ms("opt-6.7b", 1, 1024), 4.84, delta=0.01)
        # 13.3 GB of weights and 17.2 GB of K,V from the memory.
        self.assertAlmostEqual(floor_ms("opt-6.7b", 32, 1024, budget_bytes=cache_bytes(OPT, 32 * 1024)), 7.09, delta=0.05)

    def test_grouped_queries_send_keys_and_values(self) -> None:
        shape = SHAPES["llama-3-8b"]
        floor = step_floor(shape, Work.decode(shape, 32, 4096), "auto", 0, H200)
        self.assertAlmostEqual(1e3 * floor.seconds, 309.6, delta=0.1)
        self.assertEqual(floor.x_share, 0)

    def test_prompts_are_bound_by_products(self) -> None:
        floor = prefill_floor(OPT, 32, 1024, H200)
        self.assertAlmostEqual(floor.seconds, 0.59, delta=0.01)
        self.assertEqual(floor.bound, "product")

    def test_no_placement_on_a_grid_is_faster_than_the_floor(self) -> None:
        """Brute force over the shares of all four places."""
        work, total = Work.decode(OPT, 32, 1024), 32 * 1024 * OPT.layers
        x, kv = 2 * OPT.hidden, 4 * OPT.hidden
        for budget_share in (0.0, 0.1, 0.25, 0.5, 0.9):
            for product in (730e12, 100e12, 20e12):
                rates = dataclasses.replace(H200, product=product)
                budget = budget_share * cache_bytes(OPT, 32 * 1024)
                best = math.inf
                for i in range(101):
                    x_device = i / 100
                    kv_device = min(1 - x_device, (budget / total - x_device * x) / kv)
                    if kv_device < -1e-9:
                        break
                    host = 1 - x_device - kv_device
                    for j in range(101):
                        x_host = host * j / 100
                        link_s = total * (x_host * x + (host - x_host) * kv) / rates.link
                        recompute_s = total * (x_device + x_host) * 4 * OPT.hidden**2 / product
                        memory_s = (work.memory_bytes + total * kv) / rates.memory
                        best = min(best, max(link_s, memory_s, recompute_s + work.operations / product))
                found = step_floor(OPT, work, "auto", budget, rates).seconds
                self.assertLessEqual(found, best * (1 + 1e-9))
                self.assertGreater(found, best * 0.97)


class BigModel(unittest.TestCase):
    def test_weights_are_as_wide_as_they_should_be_and_never_zero(self) -> None:
        shape = Shape("test", "llama", 2, 256, 4, 2, 512, 300, 512)
        with tempfile.TemporaryDirectory() as directory:
            written = big_model.make(Path(directory), shape)
            index = json.loads(Path(directory, "model.safetensors.index.json").read_text())
            self.assertEqual(index["metadata"]["total_size"], written)
            rows: dict[str, list[float]] = {}
            for name, file in index["weight_map"].items():
                rows[name] = read_tensor(Path(directory, file), name)
        for name, deviation in (("model.layers.0.mlp.down_proj", 512**-0.5), ("model.layers.1.self_attn.q_proj", 1.5 / 16),
                                ("lm_head", 1.5 / 16)):
            values = rows[f"{name}.weight"]
            found = math.sqrt(sum(value * value for value in values) / len(values))
            self.assertAlmostEqual(found / deviation, 1, delta=0.02, msg=name)
        self.assertNotIn(0.0, [value for values in rows.values() for value in values])
        q = rows["model.layers.0.self_attn.q_proj.weight"]
        self.assertEqual(len({tuple(q[i : i + 256]) for i in range(0, len(q), 256)}), 256)
        self.assertNotEqual(q[:256], rows["model.layers.1.self_attn.q_proj.weight"][:256])

    def test_both_families_decode_to_finite_probabilities(self) -> None:
        for family, kv_heads in (("opt", 4), ("llama", 2)):
            with self.subTest(family), tempfile.TemporaryDirectory() as directory:
                shape = Shape("test", family, 3, 256, 4, kv_heads, 1024, 400, 512)
                big_model.make(Path(directory), shape)
                with Daemon("--dtype", "f32", model=directory) as daemon, iokv.Client(daemon.socket) as client:
                    with client.open() as sequence:
                        drawn = list(sequence.step(list(range(40)), 8))
                self.assertEqual(len(drawn), 8)
                for completion in drawn:
                    self.assertTrue(-20 < completion.logprob < -1e-3, completion.logprob)


def read_tensor(path: Path, name: str) -> list[float]:
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    entry = json.loads(data[8 : 8 + size])[name]
    begin, end = (8 + size + offset for offset in entry["data_offsets"])
    return list(struct.unpack(f"<{(end - begin) // 2}e", data[begin:end]))


FAKE_WORKER = """
import json, os, sys, time
for line in sys.stdin:
    batch = json.loads(line)["batch"]
    if batch == 2: time.sleep(1000)
    if batch == 3: os._exit(7)
    print(json.dumps({"failed": "no"} if batch == 4 else {"step_ms": batch, "prefill_ms": os.getpid()}), flush=True)
"""


class PeersThatFail(unittest.TestCase):
    def test_hang_die_or_refuse_and_the_others_are_asked(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "fake_worker.py").write_text(FAKE_WORKER)
            with mock.patch.object(gpu_workers, "WORKERS", Path(directory)), \
                    mock.patch.dict(gpu_workers.PEERS, {"fake": ("fake_worker.py", {}, 1.0)}):
                requests = [Request("fake", OPT, batch, 64) for batch in (1, 5, 2, 3, 4, 6)]
                found = dict(Peers(sys.executable, None, Path(directory), 1).ask([*requests, requests[0]]))
        answers = [found[request] for request in requests]
        self.assertEqual([answer.get("step_ms") for answer in answers], [1, 5, None, None, None, 6])
        self.assertEqual(answers[0]["prefill_ms"], answers[1]["prefill_ms"], "one process answers until it fails")
        self.assertIn("no answer within", answers[2]["failed"])
        self.assertIn("status 7", answers[3]["failed"])
        self.assertEqual(answers[4]["failed"], "no")


class Rehearsal(unittest.TestCase):
    def test_every_row_is_measured(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "figures.json")
            done = subprocess.run([sys.executable, "-B", str(BENCH / "gpu.py"), "--rehearse", "--json", str(path)],
                                  capture_output=True, text=True, timeout=240, check=False)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            subprocess.run([sys.executable, "-B", str(BENCH / "gpu.py"), "--rehearse", "--add", "--rows", "offload_1x1024",
                            "--rounds", "1", "--json", str(path)], capture_output=True, timeout=240, check=True)
            rows: dict[str, dict[str, Any]] = {row["case"]: row for row in json.loads(path.read_text())["rows"]}
            self.assertIn("</svg>", path.with_suffix(".svg").read_text())
        self.assertEqual(set(rows), {
            "offload_32x1024", "offload_32x1024_never", "offload_64x512", "offload_1x1024", "resident_32x1024",
            "prefill_32x1024", "llama2_7b_4x8192", "llama3_8b_32x4096", "llama3_8b_1x65536", "half_resident_32x1024",
            "fragmented_32x1024", "serving_64", "processes_8x4"})
        for case, row in rows.items():
            for name in ("floor_ms", "measured_ms", "ratio", "predicted_ms"):
                self.assertGreater(row[name], 0, f"{name} of {case}")
            self.assertEqual(row["link_bytes"], row["planned_link_bytes"], case)
        # A link is no faster than it is; its rate here is exact.
        self.assertGreater(rows["offload_32x1024_never"]["ratio"], 0.9)


if __name__ == "__main__":
    unittest.main()
