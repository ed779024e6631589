# SPDX-License-Identifier: Apache-2.0
"""`iokv plan` against the paper's closed forms, and against the same arithmetic written down a second time."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import tomllib
import unittest
import xml.etree.ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iokvd import LIMIT_S, MODEL, ROOT, TOOL

HARDWARE = Path(ROOT, "daemon", "backend", "modelled", "hardware")
ISSUE = ["--hardware", "a100-pcie4", "--model", "opt-6.7b", "--batch", "64", "--prompt", "128", "--generate", "32"]

# A link and a product of constant speed and nothing else, as in the paper.
BARE = """memory_gib = 1000
[link]
h2d_gb_per_s = {link}
d2h_gb_per_s = {link}
copy_ns = 0
duplex = 1
[compute]
matrix_tflop_per_s = {tflops}
memory_gb_per_s = 1000000
launch_ns = 0
contention = 0
"""
SLOW = """memory_gib = 1000
[link]
h2d_gb_per_s = {link}
d2h_gb_per_s = 32
copy_ns = 2540
duplex = 1.1
[compute]
matrix_tflop_per_s = {tflops}
memory_gb_per_s = 1555
launch_ns = 3000
contention = 0.5
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(TOOL), "plan", *arguments], check=False, capture_output=True, text=True, timeout=LIMIT_S)


def question(hardware: Path | str, model: str, batch: int, prompt: int, generate: int, *more: str) -> Any:
    result = run(
        *("--hardware", str(hardware), "--model", model, "--batch", str(batch)),
        *("--prompt", str(prompt), "--generate", str(generate), "--json", *more),
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@dataclass
class Shape:
    layers: int
    hidden: int
    kv_width: int
    ffn_weights: int
    vocab: int


SHAPES = {
    "opt-6.7b": Shape(32, 4096, 4096, 8 * 4096**2, 50272),
    "opt-13b": Shape(40, 5120, 5120, 8 * 5120**2, 50272),
    "opt-30b": Shape(48, 7168, 7168, 8 * 7168**2, 50272),
    "llama-2-7b": Shape(32, 4096, 4096, 3 * 4096 * 11008, 32000),
    "llama-3-8b": Shape(32, 4096, 1024, 3 * 4096 * 14336, 128256),
}


class Machine:
    """Steps of a model on a machine, in seconds; fp16."""

    def __init__(self, hardware: Path, model: str, batch: int, weights_on_host: float = 0) -> None:
        self.figures = tomllib.loads(hardware.read_text())
        self.shape = SHAPES[model]
        self.batch = batch
        self.weights_on_host = weights_on_host  # or a share of them
        shape = self.shape
        self.layer_weights = 2 * shape.hidden**2 + 2 * shape.hidden * shape.kv_width + shape.ffn_weights

    def copy(self, size: float, direction: str) -> float:
        link = self.figures["link"]
        return 0 if size == 0 else link["copy_ns"] / 1e9 + size / (link[direction] * 1e9)

    def product(self, rows: int, weights: int) -> float:
        """Of matrices that are large: a launch is hidden by the operation before it."""
        compute = self.figures["compute"]
        arithmetic = 2 * rows * weights / (compute["matrix_tflop_per_s"] * 1e12)
        memory = 2 * weights / (compute["memory_gb_per_s"] * 1e9)
        return 0 if rows == 0 else max(arithmetic, memory, compute["launch_ns"] / 1e9)

    def parts(self, context: int, x: int, x_device: int = 0, kv_device: int = 0) -> dict[str, float]:
        """Of a layer, and of the head."""
        shape = self.shape
        compute = self.figures["compute"]
        kv = self.batch * context - x - x_device - kv_device
        launch = compute["launch_ns"] / 1e9
        attended = 4 * shape.kv_width * self.batch * (context + 1) / (compute["memory_gb_per_s"] * 1e9)
        return {
            "x": self.copy(2 * shape.hidden * x, "h2d_gb_per_s"),
            "kv": self.copy(4 * shape.kv_width * kv, "h2d_gb_per_s"),
            "weights": self.copy(2 * self.layer_weights * self.weights_on_host, "h2d_gb_per_s"),
            "d2h": self.copy(4 * shape.kv_width * self.batch, "d2h_gb_per_s"),
            "recompute": self.product(x + x_device, 2 * shape.hidden * shape.kv_width),
            "dense": self.product(self.batch, self.layer_weights) + 2 * launch + max(launch, attended),
            "head": self.product(self.batch, shape.hidden * shape.vocab) + 3 * launch,
        }

    def serial(self, context: int, x: int, wait_for_x: bool) -> float:
        part = self.parts(context, x)
        layer = part["weights"] + max(part["recompute"], part["kv"]) + part["dense"]
        return self.shape.layers * (layer + (part["x"] if wait_for_x else 0)) + part["head"]

    def streaming(self, context: int, x: int, x_device: int = 0, kv_device: int = 0) -> float:
        part = self.parts(context, x, x_device, kv_device)
        down, up = part["x"] + part["kv"] + part["weights"], part["d2h"]
        duplex = min(down, up) * (self.figures["link"]["duplex"] - 1)
        dense = part["dense"] + part["head"] / self.shape.layers
        contention = self.figures["compute"]["contention"] * min(part["recompute"], dense)
        return self.shape.layers * max(down + duplex, up + duplex, max(part["recompute"], dense) + contention)


class PaperArithmetic(unittest.TestCase):
    """Equations 10 and 11 of arXiv 2411.17089."""

    def bare(self, link: float, tflops: float) -> Path:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        path = Path(directory.name, "bare.toml")
        path.write_text(BARE.format(link=link, tflops=tflops))
        return path

    def test_the_papers_l_and_speedup_are_its_closed_form(self) -> None:
        a100 = self.bare(32, 312)
        for model, hidden, share, speedup in [
            ("opt-6.7b", 4096, 0.704, 1.54),
            ("opt-13b", 5120, 0.656, 1.49),
            ("opt-30b", 7168, 0.576, 1.405),
        ]:
            closed = 2 * 312e12 / (2 * hidden * 32e9 + 2 * 312e12)
            self.assertAlmostEqual(closed, share, delta=0.0005)
            # One sequence, so that nothing but the cache counts: dense work is a thousandth.
            plan = question(a100, model, 1, 2000, 1)
            self.assertAlmostEqual(plan["serial"]["paper"]["split_tokens"] / 2000, closed, delta=0.0005)
            ratio = plan["serial"]["never"]["total_s"] / plan["serial"]["paper_x_waited"]["total_s"]
            self.assertAlmostEqual(ratio, 1 / (1 - closed / 2), delta=0.005)
            self.assertAlmostEqual(ratio, speedup, delta=0.007)

    def test_the_papers_l_does_not_depend_on_the_batch(self) -> None:
        a100 = self.bare(32, 312)
        shares = [question(a100, "opt-6.7b", batch, 2000, 1)["serial"]["paper"]["split_tokens"] for batch in (1, 64)]
        self.assertEqual(shares[0], shares[1])

    def test_a_device_that_keeps_up_with_x_halves_the_step(self) -> None:
        h200 = self.bare(55.5, 690)
        for model, hidden in [("opt-6.7b", 4096), ("opt-13b", 5120)]:
            self.assertLess(4 * hidden * hidden / 690e12, 2 * hidden / 55.5e9)
            plan = question(h200, model, 1, 2000, 1)["streaming"]
            self.assertAlmostEqual(plan["never"]["total_s"] / plan["auto"]["total_s"], 2, delta=0.005)
            self.assertEqual(plan["auto"]["split_tokens"], 2000)
        # OPT-30B's is where recomputation meets the link: 4·h²·l/v_gpu = (2·s - l)·2·h/v_com.
        crossing = 2 / (1 + 2 * 7168 * 55.5e9 / 690e12)
        plan = question(h200, "opt-30b", 1, 2000, 1)["streaming"]
        self.assertAlmostEqual(plan["auto"]["split_tokens"] / 2000, crossing, delta=0.002)

    def test_grouped_queries_are_sent_as_they_are(self) -> None:
        for model in ("llama-3-8b", "llama-3-70b"):
            plan = question(self.bare(32, 312), model, 8, 1000, 1)
            self.assertEqual(plan["streaming"]["auto"]["split_tokens"], 0)
            self.assertEqual(plan["placement_tokens"]["kv_host"], 8000)

    def test_a_cpu_that_attends_takes_its_share_of_the_link(self) -> None:
        # Link and CPU share K,V by their rates, and X of multi-head attention is half of them: all end together.
        link, cpu, tokens = 55.5e9, 84e9, 8 * 1000
        for model, layers, kv_bytes, x_bytes in (("llama-3-8b", 32, 4096, 8192), ("opt-6.7b", 32, 16384, 8192)):
            smaller = min(kv_bytes, x_bytes)
            seconds = tokens * layers / (link / smaller + cpu / kv_bytes)
            with self.subTest(model=model):
                plan = question(self.bare(55.5, 5000), model, 8, 1000, 1, "--cpu-attention-gbps", "84")
                auto, placed = plan["streaming"]["auto_cpu"], plan["cpu_placement_tokens"]
                self.assertAlmostEqual(auto["total_s"] / seconds, 1, delta=0.02)  # products of 8 rows
                self.assertAlmostEqual(placed["kv_attended"] * layers * kv_bytes / cpu / seconds, 1, delta=0.02)
                self.assertEqual(sum(placed.values()), tokens)
                self.assertGreater(plan["streaming"]["auto"]["total_s"], 1.2 * auto["total_s"])
        # A hardware's file may say the rate; an option takes it away.
        self.assertIn("auto_cpu", question("h200", "opt-6.7b", 8, 1000, 1)["streaming"])
        self.assertNotIn("auto_cpu", question("h200", "opt-6.7b", 8, 1000, 1, "--cpu-attention-gbps", "0")["streaming"])


class Plan(unittest.TestCase):
    def assert_close(self, value: float, expected: float) -> None:
        self.assertAlmostEqual(value / expected, 1, delta=1e-9)

    def test_the_issues_command_gives_what_the_arithmetic_gives(self) -> None:
        plan = question("a100-pcie4", "opt-6.7b", 64, 128, 32)
        machine = Machine(HARDWARE / "a100-pcie4.toml", "opt-6.7b", 64)
        never = waited = row_by_row = streaming_never = always = streaming_paper = bound = 0.0
        for context in range(128, 160):
            tokens = 64 * context
            split = 64 * min(range(context + 1), key=lambda l: machine.serial(context, 64 * l, False))
            never += machine.serial(context, 0, False)
            row_by_row += machine.serial(context, split, False)
            waited += min(machine.serial(context, 64 * l, True) for l in range(context + 1))
            streaming_never += machine.streaming(context, 0)
            always += machine.streaming(context, tokens)
            streaming_paper += machine.streaming(context, split)
            bound += 32 * tokens * 8192 / 32e9
        self.assert_close(plan["serial"]["never"]["total_s"], never)
        self.assert_close(plan["serial"]["paper"]["total_s"], row_by_row)
        self.assert_close(plan["serial"]["paper_x_waited"]["total_s"], waited)
        self.assert_close(plan["streaming"]["never"]["total_s"], streaming_never)
        self.assert_close(plan["streaming"]["always"]["total_s"], always)
        self.assert_close(plan["streaming"]["paper"]["total_s"], streaming_paper)
        self.assertAlmostEqual(plan["bound_s"] / bound, 1, delta=0.005)  # copies' fixed part and the way back
        self.assertEqual(plan["serial"]["paper"]["split_tokens"], split / 64)
        self.assertEqual(plan["context"], 159)
        self.assertEqual(plan["last_kv_bytes"], 5 * 2**30)

    def test_auto_is_as_fast_as_the_fastest_of_every_l(self) -> None:
        for hardware, model, batch, context, *more in [
            ("a100-pcie4", "opt-6.7b", 4, 150),
            ("a100-pcie4", "opt-6.7b", 64, 159),
            ("a100-pcie4", "opt-13b", 16, 500),
            ("a100-pcie4", "opt-30b", 8, 700, "--weights", "host"),
            ("a100-pcie4", "llama-3-8b", 8, 300),
            ("h200", "opt-30b", 16, 600),
            ("h200", "opt-6.7b", 1, 1),
            ("rtx4090-pcie4", "llama-2-7b", 3, 1000),
            ("grace-hopper", "opt-6.7b", 16, 1000),
        ]:
            with self.subTest(hardware=hardware, model=model, batch=batch, context=context):
                machine = Machine(HARDWARE / f"{hardware}.toml", model, batch, bool(more))
                times = [machine.streaming(context, x) for x in range(batch * context + 1)]
                auto = question(hardware, model, batch, context, 1, *more)["streaming"]["auto"]
                self.assert_close(auto["total_s"], min(times))
                self.assert_close(times[round(batch * auto["split_tokens"])], min(times))

    def test_auto_with_room_on_the_device_is_as_fast_as_every_placement(self) -> None:
        resident = split = 0
        # Links slow enough for a few tokens to count beside the weights.
        for link, tflops, model, batch, context, room in [
            (0.5, 5, "opt-13b", 1, 90, 30),
            (0.5, 5, "opt-13b", 2, 60, 50),
            (0.5, 8, "llama-2-7b", 2, 60, 30),
            (0.2, 4, "llama-2-7b", 1, 100, 100),
            (1, 20, "opt-30b", 4, 30, 40),
            (0.5, 3, "opt-6.7b", 3, 40, 35),
            (0.1, 20, "llama-3-8b", 2, 60, 20),
            (32, 312, "opt-6.7b", 2, 60, 20),
            # All fits, but only in whole tokens other than what shares of them round down to.
            (0.005, 20, "opt-6.7b", 1, 8, 7.25),
        ]:
            hardware = Path(self.enterContext(tempfile.TemporaryDirectory()), "slow.toml")
            hardware.write_text(SLOW.format(link=link, tflops=tflops))
            shape = SHAPES[model]
            room_bytes = int(room * 4 * shape.kv_width)  # of a layer
            machine = Machine(hardware, model, batch)
            least = float("inf")
            tokens = batch * context
            for x_device in range(min(tokens, room_bytes // (2 * shape.hidden)) + 1):
                kv_device = min(tokens - x_device, (room_bytes - 2 * shape.hidden * x_device) // (4 * shape.kv_width))
                for x in range(tokens - x_device - kv_device + 1):
                    least = min(least, machine.streaming(context, x, x_device, kv_device))
            plan = question(hardware, model, batch, context, 1, "--device-kv", str(room_bytes * shape.layers))
            auto = plan["streaming"]["auto"]
            placed = plan["placement_tokens"]
            with self.subTest(link=link, model=model, room=room, least=least, auto=auto["total_s"], placed=placed):
                # The programme knows rates only: what a product of no rows would take is what it may miss.
                slack = shape.layers * machine.product(1, 2 * shape.hidden * shape.kv_width)
                self.assertGreaterEqual(auto["total_s"], least * (1 - 1e-9))
                self.assertLessEqual(auto["total_s"], least + slack)
                self.assertEqual(sum(placed.values()), tokens)
                stored = 2 * shape.hidden * placed["x_device"] + 4 * shape.kv_width * placed["kv_device"]
                self.assertLessEqual(stored, room_bytes)
                self.assert_close(
                    auto["total_s"],
                    machine.streaming(context, placed["x_host"], placed["x_device"], placed["kv_device"]),
                )
            resident += placed["x_device"] + placed["kv_device"] > 0
            split += placed["x_device"] + placed["x_host"] > 0 and placed["kv_device"] + placed["kv_host"] > 0
        self.assertGreaterEqual(resident, 6)
        self.assertGreaterEqual(split, 3)

    def test_auto_is_never_slower_than_never_always_or_the_papers_l_nor_faster_than_the_bound(self) -> None:
        for hardware in ("a100-pcie4", "grace-hopper", "h100", "h200", "rtx4090-pcie4"):
            for model in ("opt-6.7b", "opt-13b", "opt-30b", "llama-2-7b", "llama-3-8b", "llama-3-70b"):
                for batch, prompt in [(1, 0), (1, 1), (1, 1500), (48, 3), (64, 700)]:
                    for room in ("0", "100MiB", "3GiB"):
                        resident = ("--weights", "host", "--device-kv", room)
                        plan = question(hardware, model, batch, prompt, 2, *resident)
                        runs = plan["streaming"]
                        auto = runs["auto"]["total_s"]
                        with self.subTest(hardware=hardware, model=model, batch=batch, prompt=prompt, room=room):
                            for other in ("never", "always", "paper"):
                                self.assertLessEqual(auto, runs[other]["total_s"] * (1 + 1e-9))
                            self.assertGreaterEqual(auto, plan["bound_s"] * (1 - 1e-9))

    def test_weights_beyond_their_budget_cross_the_link(self) -> None:
        # OPT-30B's layers take 12 h^2 elements, its embedding 50272 h.
        layer, fixed = 24 * 7168**2, 2 * 50272 * 7168
        for budget, streamed in [(fixed + 50 * layer, 0), (fixed + 47 * layer, 3), (fixed + 2 * layer, 48), (fixed + layer, 48)]:
            plan = question("h200", "opt-30b", 32, 512, 1, "--device-weights-budget", str(budget), "--weights", "auto")
            self.assertEqual(plan["streamed_layers"], streamed)
            self.assertEqual(plan["streamed_weight_bytes"] // layer, streamed)
            self.assertLessEqual(plan["device_weight_bytes"], budget)
            machine = Machine(HARDWARE / "h200.toml", "opt-30b", 32, streamed / 48)
            self.assert_close(plan["streaming"]["never"]["total_s"], machine.streaming(512, 0))
        # Nothing said: all that 40 GiB hold beside 2 GiB for what else there is.
        plan = question("a100-pcie4", "opt-30b", 32, 512, 1)
        self.assertEqual(plan["streamed_layers"], 48 - ((38 * 2**30 - fixed) // layer - 2))
        self.assertEqual(question("h200", "opt-30b", 32, 512, 1)["weights"], "device")

    def test_divided_memory_is_as_fast_as_every_division(self) -> None:
        kept_tokens = kept_layers = 0
        for link, tflops, model, batch, context, room in [
            (32, 312, "opt-6.7b", 2, 30, 4.3),
            (0.5, 2, "opt-6.7b", 1, 40, 16),
            (0.5, 5, "llama-3-8b", 2, 20, 20.01),
            (0.1, 5, "opt-6.7b", 1, 40, 31.02),  # of all layers' bytes
            (32, 312, "opt-6.7b", 2, 30, 32.005),
        ]:
            hardware = Path(self.enterContext(tempfile.TemporaryDirectory()), "slow.toml")
            hardware.write_text(SLOW.format(link=link, tflops=tflops))
            machine = Machine(hardware, model, batch)
            shape, layer = machine.shape, 2 * machine.layer_weights
            fixed = 2 * shape.vocab * shape.hidden * (1 if model.startswith("opt") else 2)
            memory = fixed + int(room * layer)
            least, tokens = float("inf"), batch * context
            for stay in range(shape.layers + 1):
                left = memory - fixed - (stay + (2 if stay < shape.layers else 0)) * layer
                if left < 0:
                    continue
                machine.weights_on_host = (shape.layers - stay) / shape.layers
                left //= shape.layers
                for x_device in range(min(tokens, left // (2 * shape.hidden)) + 1):
                    kv_device = min(tokens - x_device, (left - 2 * shape.hidden * x_device) // (4 * shape.kv_width))
                    for x in range(tokens - x_device - kv_device + 1):
                        least = min(least, machine.streaming(context, x, x_device, kv_device))
            plan = question(hardware, model, batch, context, 1, "--device-memory", str(memory))
            auto, placed = plan["streaming"]["auto"], plan["placement_tokens"]
            with self.subTest(link=link, model=model, room=room, least=least, auto=auto["total_s"], placed=placed):
                slack = shape.layers * machine.product(1, 2 * shape.hidden * shape.kv_width)
                self.assertGreaterEqual(auto["total_s"], least * (1 - 1e-9))
                self.assertLessEqual(auto["total_s"], least + slack)
                stored = 2 * shape.hidden * placed["x_device"] + 4 * shape.kv_width * placed["kv_device"]
                self.assertLessEqual(plan["device_weight_bytes"] + stored * shape.layers, memory)
                self.assertGreaterEqual(auto["total_s"], plan["bound_s"] * (1 - 1e-9))
            kept_tokens += placed["x_device"] + placed["kv_device"] > 0
            kept_layers += 0 < plan["streamed_layers"] < shape.layers
        self.assertGreaterEqual(kept_tokens, 2)
        self.assertGreaterEqual(kept_layers, 3)

    def test_text_says_what_json_says(self) -> None:
        text = run(*ISSUE).stdout
        plan = question("a100-pcie4", "opt-6.7b", 64, 128, 32)
        auto = plan["streaming"]["auto"]
        line = next(line for line in text.splitlines() if line.startswith("  auto "))
        self.assertEqual(float(line.split()[3]), round(auto["split_tokens"], 1))
        self.assertEqual(line.split()[6], f"{auto['total_s']:.3f}")
        self.assertEqual(line.split()[-1], auto["binds"])
        self.assertIn(f"bound: {plan['bound_s']:.3f} s", text)
        self.assertRegex(text, r"X on the host +100\.0 % +10176\n")
        self.assertIn(plan["source"], text)

    def test_a_models_files_are_planned_for_like_a_name(self) -> None:
        config = json.loads(Path(MODEL, "config.json").read_text())
        plan = question("h200", str(MODEL), 2, 3, 1)
        head_dim = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
        kv_bytes = 4 * config["num_hidden_layers"] * config["num_key_value_heads"] * head_dim
        self.assertEqual(plan["last_kv_bytes"], 2 * 4 * kv_bytes)


class Svg(unittest.TestCase):
    def test_the_optimum_lies_on_the_curve_at_its_lowest(self) -> None:
        for arguments in (ISSUE, [*ISSUE[:1], "h200", *ISSUE[2:3], "opt-30b", *ISSUE[4:]]):
            with tempfile.TemporaryDirectory() as directory:
                path = Path(directory, "curve.svg")
                self.assertEqual(run(*arguments, "--svg", str(path)).returncode, 0)
                root = xml.etree.ElementTree.parse(path).getroot()
            self.assertEqual(root.tag, "{http://www.w3.org/2000/svg}svg")
            by_id = {element.get("id"): element for element in root.iter() if element.get("id")}
            for line, marker in (("serial", "serial_best"), ("streaming", "best")):
                points = (point.split(",") for point in by_id[line].get("points", "").split())
                curve = [(float(x), float(y)) for x, y in points]
                best_x, best_y = float(by_id[marker].get("cx", "")), float(by_id[marker].get("cy", ""))
                # y grows downwards; the optimum may lie between two points, a little lower.
                self.assertGreaterEqual(best_y, max(y for _, y in curve) - 0.11)
                self.assertLess(min(abs(x - best_x) + abs(y - best_y) for x, y in curve), 4)

    def test_text_of_files_is_escaped(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            hardware, path = Path(directory, "hardware.toml"), Path(directory, "curve.svg")
            hardware.write_text('description = "A < B & \\"C\\""\n' + BARE.format(link=32, tflops=312))
            self.assertEqual(run("--hardware", str(hardware), *ISSUE[2:], "--svg", str(path)).returncode, 0)
            texts = [element.text for element in xml.etree.ElementTree.parse(path).getroot().iter()]
            self.assertIn('opt-6.7b on A < B & "C"', texts)


class Mistakes(unittest.TestCase):
    def refused(self, *arguments: str) -> str:
        result = run(*arguments)
        self.assertEqual((result.returncode, result.stdout), (1, ""))
        self.assertEqual(len(result.stderr.splitlines()), 1)
        self.assertTrue(result.stderr.startswith("iokv: "))
        return result.stderr

    def test_an_unknown_name_lists_the_known_ones(self) -> None:
        message = self.refused("--hardware", "h300", *ISSUE[2:])
        self.assertIn('"h300"; there are: a100-pcie4, grace-hopper, h100, h200, rtx4090-pcie4', message)
        message = self.refused(*ISSUE[:3], "opt-175b", *ISSUE[4:])
        self.assertIn('"opt-175b"; there are: opt-6.7b, llama-2-7b, llama-3-8b, opt-13b, opt-30b, opt-66b, llama-3', message)

    def test_a_bad_file_is_named_with_its_line(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "mine.toml")
            path.write_text(BARE.format(link=32, tflops='"fast"'))
            message = self.refused("--hardware", str(path), *ISSUE[2:])
            self.assertIn(f"{path}:8: compute.matrix_tflop_per_s must be a number", message)

    def test_what_cannot_be_says_what_would_work(self) -> None:
        device = ("--weights", "device")
        self.assertIn("--weights host", self.refused(*ISSUE[:3], "opt-30b", *ISSUE[4:], *device))
        self.assertIn("--device-kv", self.refused(*ISSUE, *device, "--device-kv", "30GiB"))
        self.assertIn("--weights auto", self.refused(*ISSUE, *device, "--device-weights-budget", "12GiB"))
        self.assertIn("of one layer, and there are 1048576", self.refused(*ISSUE, "--device-weights-budget", "1MiB"))
        self.assertIn("of one layer, and there are 1048576", self.refused(*ISSUE, "--device-memory", "1MiB"))
        self.assertIn("leave out", self.refused(*ISSUE, "--device-memory", "20GiB", "--device-kv", "1GiB"))
        self.assertIn("has 40.0", self.refused(*ISSUE, "--device-memory", "41GiB"))
        self.assertIn("--device-kv", self.refused(*ISSUE, "--weights", "host", "--device-kv", "41GiB"))
        self.assertIn("may be 2048", self.refused(*ISSUE[:-1], "2000"))
        self.assertIn("/nonexistent-iokv/x.svg", self.refused(*ISSUE, "--svg", "/nonexistent-iokv/x.svg"))

    def test_wrong_usage_ends_with_another_status(self) -> None:
        disk, nothing, much = [*ISSUE, "--weights", "disk"], [*ISSUE[:-1], "0"], [*ISSUE, "--device-kv", "much"]
        for arguments in (ISSUE[:-2], disk, nothing, much):
            result = run(*arguments)
            self.assertGreater(result.returncode, 1)
            self.assertTrue(re.search(r"--\w+", result.stderr))


if __name__ == "__main__":
    unittest.main()
