# SPDX-License-Identifier: Apache-2.0
"""scripts/bench gpu without a GPU: its floors beside figures worked out by hand, its models as the daemon makes them, and a
rehearsal of every row."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

from iokvd import IOKVD, ROOT, Daemon

BENCH = ROOT / "bench"
sys.path.insert(0, str(BENCH))

import gpu_workers  # noqa: E402
import iokv  # noqa: E402
from gpu_floor import Rates, Work, best_division, cache_bytes, host_floor, prefill_floor, step_floor  # noqa: E402
from gpu_report import beside_off  # noqa: E402
from gpu_workers import Peers, Request  # noqa: E402
from model_shape import SHAPES, Shape, write_config  # noqa: E402

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

    def test_weights_on_the_link_add_their_bytes(self) -> None:
        """As the paper's second half has it: 12.9 GB of weights, 34.4 GB of X or 68.7 GB of K,V."""
        work = Work.decode(OPT, 256, 512, streamed_layers=32)
        self.assertAlmostEqual(step_floor(OPT, work, "auto", 0, H200).seconds, (12.885 + 34.360) / 55.5, delta=0.001)
        self.assertAlmostEqual(step_floor(OPT, work, "never", 0, H200).seconds, (12.885 + 68.719) / 55.5, delta=0.001)
        shape = SHAPES["opt-30b"]  # 24 h^2 bytes a layer
        work = Work.decode(shape, 1, 128, streamed_layers=48)
        self.assertAlmostEqual(step_floor(shape, work, "auto", 0, H200).seconds, 48 * 24 * 7168**2 / 55.5e9, delta=0.002)

    def test_no_division_of_a_device_is_faster_than_the_best(self) -> None:
        """What stays saves the link a byte for a byte: weights, and X where it can be recomputed under the link."""
        shape, device = dataclasses.replace(SHAPES["opt-30b"], positions=2048), 24 << 30
        found = best_division(shape, 32, 512, "auto", device, H200)
        everything = 48 * 24 * 7168**2 + 32 * 512 * 48 * 2 * 7168
        ring = 2 * 24 * 7168**2 + shape.fixed_bytes
        self.assertAlmostEqual(found.floor.link_bytes / (everything - (device - ring)), 1, delta=0.001)
        self.assertLessEqual(found.weights_bytes + found.cache_bytes, device)
        # With K,V alone a byte of them saves no more than a byte, too, but the last layer's worth is theirs.
        never = best_division(shape, 32, 512, "never", device, H200)
        self.assertEqual(never.streamed_layers, found.streamed_layers)
        with self.assertRaisesRegex(ValueError, "two layers of opt-30b"):
            best_division(shape, 32, 512, "auto", 3 << 30, H200)

    def test_a_host_that_attends_leaves_less_to_the_link(self) -> None:
        rates = dataclasses.replace(H200, host=127e9)
        for model, batch, context in (("opt-6.7b", 32, 1024), ("llama-3-8b", 1, 65536)):
            shape = SHAPES[model]
            work, total = Work.decode(shape, batch, context), batch * context
            best = math.inf
            for i in range(1001):
                attended = total * i / 1000
                left = dataclasses.replace(work, tokens=total - attended, attended=total - attended)
                host_s = cache_bytes(shape, 1) * attended / rates.host
                best = min(best, max(host_s, step_floor(shape, left, "auto", 0, rates).seconds))
            found = host_floor(shape, work, "auto", rates).seconds
            self.assertLessEqual(found, best)
            self.assertGreater(found, best * 0.995)

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


class RandomWeights(unittest.TestCase):
    def test_both_families_decode_to_finite_probabilities(self) -> None:
        for family, kv_heads in (("opt", 4), ("llama", 2)):
            with self.subTest(family), tempfile.TemporaryDirectory() as directory:
                write_config(Path(directory), Shape("test", family, 3, 256, 4, kv_heads, 1024, 400, 512))
                with Daemon("--dtype", "f32", "--random-weights", "1", model=directory) as daemon, \
                        iokv.Client(daemon.socket) as client:
                    with client.open() as sequence:
                        drawn = list(sequence.step(list(range(40)), 8))
                    self.assertTrue(any("weights are random" in line for line in daemon.output), daemon.output)
                self.assertEqual(len(drawn), 8)
                for completion in drawn:
                    self.assertTrue(-20 < completion.logprob < -1e-3, completion.logprob)

    def test_a_daemon_keeps_as_many_layers_as_the_division_says(self) -> None:
        """The bytes of the bench's floors are those that the daemon counts."""
        shape = Shape("test", "opt", 6, 128, 4, 4, 512, 512, 1022)  # a CPU pads tables to 32 rows, and learns 2 positions more
        division = best_division(shape, 4, 96, "auto", 2_500_000, H200)
        self.assertTrue(0 < division.streamed_layers < 6)
        with tempfile.TemporaryDirectory() as directory:
            write_config(Path(directory), shape)
            for more in (0, -1):
                with Daemon("--dtype", "bf16", "--random-weights", "1", "--link-gbps", "1", "--profile", "off",
                            "--recompute", "never", "--device-weights-budget", str(division.weights_bytes + more),
                            model=directory) as daemon:
                    streamed = division.streamed_layers - more
                    said = f"weights of {streamed} of 6 layers cross the link"
                    self.assertTrue(any(said in line for line in daemon.output), daemon.output)


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


class BesideOff(unittest.TestCase):
    def test_a_row_holds_the_one_without_the_cpu_s_attention(self) -> None:
        row = {"case": "cpu", "measured_ms": 90.0, "floor_ms": 155.0, "ratio": 0.58, "limit_ratio": 0.6, "met": True}
        off = {"case": "cpu_off", "measured_ms": 156.0}
        found = beside_off([dict(row), off, {"case": "other"}], {"cpu_off": "cpu"}, set())
        self.assertEqual([one["case"] for one in found], ["cpu", "other"])
        self.assertEqual((found[0]["off"], found[0]["ratio"], found[0]["met"]), (off, 0.58, True))
        self.assertAlmostEqual(found[0]["over_off"], 90 / 156)

    def test_on_a_busy_host_that_one_is_the_floor(self) -> None:
        for measured, met in ((160.0, True), (161.5, False)):
            row = {"case": "busy", "measured_ms": measured, "floor_ms": 155.0, "ratio": 0.9, "limit_ratio": 1.03, "met": True}
            found = beside_off([row, {"case": "busy_off", "measured_ms": 156.0}], {"busy_off": "busy"}, {"busy"})
            self.assertEqual((found[0]["floor_ms"], found[0]["met"]), (156.0, met))

    def test_a_row_whose_other_half_failed_is_not_met(self) -> None:
        row = {"case": "cpu", "measured_ms": 90.0, "met": True}
        found = beside_off([row, {"case": "cpu_off", "failed": "no"}], {"cpu_off": "cpu"}, set())
        self.assertFalse(found[0]["met"])


CPU_CASES = ("cpu_32x1024", "cpu_64x512", "cpu_llama2_7b_4x8192", "cpu_llama3_8b_32x4096", "cpu_llama3_8b_1x65536",
             "cpu_busy_32x1024")


class Rehearsal(unittest.TestCase):
    def test_every_row_is_measured(self) -> None:
        cpu_attends = "--cpu-attention" in subprocess.check_output([str(IOKVD), "--help"], text=True)
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
            "fragmented_32x1024", "serving_64", "processes_8x4", "weights_256x512", "weights_256x512_never", "opt30b_32x512",
            "opt30b_32x512_24g", "opt30b_1x128", *((*CPU_CASES, "cpu_32x1024_invariant") if cpu_attends else ())})
        for case in CPU_CASES if cpu_attends else ():
            self.assertGreater(rows[case]["off"]["measured_ms"], 0, case)
            self.assertAlmostEqual(rows[case]["over_off"], rows[case]["measured_ms"] / rows[case]["off"]["measured_ms"])
        for case, row in rows.items():
            for name in ("floor_ms", "measured_ms", "ratio", "predicted_ms"):
                self.assertGreater(row[name], 0, f"{name} of {case}")
            self.assertEqual(row["link_bytes"], row["planned_link_bytes"], case)
            self.assertGreater(row["start"]["ready_s"], row["start"]["weights_s"], case)
        # A link is no faster than it is; its rate here is exact.
        for case in ("offload_32x1024_never", "weights_256x512_never", "opt30b_1x128", "opt30b_32x512_24g"):
            self.assertGreater(rows[case]["ratio"], 0.9, case)
        divided = rows["opt30b_32x512_24g"]
        self.assertTrue(0 < divided["settings"]["streamed_layers"] < 6)
        self.assertLessEqual(divided["device_weights_bytes"], divided["settings"]["device_weights_budget"])


if __name__ == "__main__":
    unittest.main()
