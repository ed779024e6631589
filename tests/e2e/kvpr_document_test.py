# SPDX-License-Identifier: Apache-2.0
"""The figures of docs/kvpr.md and README.md are those that `iokv plan` prints: rows of tables are made again, commands
are run again, the drawing is drawn again. A failure shows what the document should say."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tempfile
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from iokvd import LIMIT_S, ROOT, TOOL

DOCUMENT = Path(ROOT, "docs", "kvpr.md")
DRAWING = Path(ROOT, "docs", "kvpr-opt-6.7b.svg")

# Table 3 of arXiv 2411.17089: prompt, generated, seconds of Accelerate and of KVPR, cut in percent.
TABLE_3 = [
    (128, 32, "8.905", "6.651", "25.3"),
    (128, 128, "71.327", "45.766", "35.8"),
    (256, 32, "26.825", "19.138", "28.7"),
    (256, 128, "88.354", "61.597", "30.3"),
    (512, 32, "24.390", "20.349", "16.6"),
    (512, 128, "110.277", "93.932", "14.8"),
]
# Its largest gains in throughput over FlexGen, in percent.
THROUGHPUT = [("opt-6.7b", "15.1"), ("opt-13b", "46.2"), ("opt-30b", "29.0")]
# On an H200 by a prototype: sequences, cached tokens of each, ms a step with all K,V sent and with all X.
MEASURED = [(32, 1024, "310.9", "155.5"), (64, 512, "-", "156.3"), (1, 1024, "-", "7.0")]


def iokv(*arguments: object) -> str:
    command = [str(TOOL), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=LIMIT_S).stdout


def plan(hardware: str, model: str, batch: int, prompt: int, generate: int, *more: str) -> Any:
    arguments = ["--hardware", hardware, "--model", model, "--batch", batch, "--prompt", prompt, "--generate", generate]
    return json.loads(iokv("plan", *arguments, *more, "--json"))


def row(*cells: object) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def share_rows() -> Iterator[str]:
    """What the two rates alone say; r is the time to recompute a token over the time to send its K,V."""
    for model, hidden in [("OPT-6.7B", 4096), ("OPT-13B", 5120), ("OPT-30B", 7168)]:
        cells = []
        for link, flops in [(32e9, 312e12), (55.5e9, 690e12)]:
            r = hidden * link / flops
            share, streaming = 1 / (1 + r), min(1.0, 1 / (r + 0.5))
            gain, streaming_gain = 1 / (1 - share / 2), 1 / (1 - streaming / 2)
            cells += [f"{share:.3f}", f"{gain:.2f}", f"{streaming:.3f}", f"{streaming_gain:.2f}"]
        yield row(model, hidden, *cells)


def latency_rows() -> Iterator[str]:
    for prompt, generated, accelerate, kvpr, cut in TABLE_3:
        answer = plan("a100-pcie4", "opt-6.7b", 64, prompt, generated)
        serial, streaming = answer["serial"], answer["streaming"]
        never, waited = serial["never"]["total_s"], serial["paper_x_waited"]["total_s"]
        auto = streaming["auto"]["total_s"]
        waited_cut, auto_cut = 100 * (1 - waited / never), 100 * (1 - auto / never)
        yield row(
            *(f"{prompt} / {generated}", accelerate, kvpr, f"{cut} %"),
            *(f"{never:.3f}", f"{serial['paper']['total_s']:.3f}", f"{waited:.3f}", f"{waited_cut:.1f} %"),
            *(f"{streaming['never']['total_s']:.3f}", f"{auto:.3f}", f"{auto_cut:.1f} %"),
        )


def rate_rows() -> Iterator[str]:
    for prompt, generated, accelerate, kvpr, _ in TABLE_3:
        answer = plan("a100-pcie4", "opt-6.7b", 64, prompt, generated)
        gigabytes = [answer["streaming"][name]["link_s"] * 32 for name in ("never", "paper")]
        yield row(
            *(f"{prompt} / {generated}", f"{answer['last_kv_bytes'] / 2**30:.0f}"),
            *(f"{gigabytes[0] / float(accelerate):.1f}", f"{gigabytes[1] / float(kvpr):.1f}"),
        )


def throughput_rows() -> Iterator[str]:
    for model, published in THROUGHPUT:
        for prompt in (256, 512, 1024):
            answer = plan("a100-pcie4", model, 256, prompt, 32, "--weights", "host")
            never = answer["serial"]["never"]["tokens_per_s"]
            paper = answer["serial"]["paper"]["tokens_per_s"]
            auto = answer["streaming"]["auto"]["tokens_per_s"]
            yield row(
                *(model, prompt, f"up to +{published} %", f"{never:.1f}"),
                *(f"{paper:.1f}", f"+{100 * (paper / never - 1):.1f} %"),
                *(f"{auto:.1f}", f"+{100 * (auto / never - 1):.1f} %"),
            )


def measured_rows() -> Iterator[str]:
    for batch, context, all_kv, all_x in MEASURED:
        runs = plan("h200", "opt-6.7b", batch, context, 1)["streaming"]
        never, always = (1000 * runs[name]["total_s"] for name in ("never", "always"))
        yield row(f"{batch} × {context}", all_kv, f"{never:.1f}", all_x, f"{always:.1f}")


def commands(text: str) -> Iterator[tuple[list[str], list[str]]]:
    """Indented blocks that begin with `$ iokv ...`: the command's words, and the lines under it."""
    for block in re.findall(r"(?m)^    \$ iokv .*\n(?:    .*\n|\n(?=    ))*", text):
        lines = [line[4:] for line in block.rstrip().split("\n")]
        yield shlex.split(lines[0])[2:], lines[1:]


def matches(shown: list[str], printed: str) -> bool:
    """`...` stands for any lines."""
    pattern = "".join("(?:.*\n)*" if line == "..." else re.escape(line) + "\n" for line in shown)
    return re.fullmatch(pattern, printed) is not None


class Document(unittest.TestCase):
    def setUp(self) -> None:
        self.text = DOCUMENT.read_text()

    def assert_rows(self, rows: Iterator[str]) -> None:
        lines = self.text.splitlines()
        missing = [line for line in rows if line not in lines]
        self.assertEqual(missing, [], "docs/kvpr.md should have these rows:\n" + "\n".join(missing))

    def test_shares_and_bounds_are_their_closed_form(self) -> None:
        self.assert_rows(share_rows())

    def test_table_3_is_what_the_tool_predicts(self) -> None:
        self.assert_rows(latency_rows())

    def test_the_rates_of_the_published_runs_follow_from_the_bytes(self) -> None:
        self.assert_rows(rate_rows())

    def test_throughput_is_what_the_tool_predicts(self) -> None:
        self.assert_rows(throughput_rows())

    def test_predictions_beside_measurements_are_the_tools(self) -> None:
        self.assert_rows(measured_rows())

    def test_predictions_are_within_five_percent_of_what_was_measured(self) -> None:
        for batch, context, all_kv, all_x in MEASURED:
            runs = plan("h200", "opt-6.7b", batch, context, 1)["streaming"]
            for name, measured in (("never", all_kv), ("always", all_x)):
                if measured != "-":
                    self.assertAlmostEqual(1000 * runs[name]["total_s"] / float(measured), 1, delta=0.05)

    def test_the_drawing_is_what_its_command_draws(self) -> None:
        self.assertIn(f"]({DRAWING.name})", self.text)
        (command,) = re.findall(r"`iokv (plan [^`]*--svg [^`]*)`", " ".join(self.text.split()))
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "curve.svg")
            iokv(*[path if word == f"docs/{DRAWING.name}" else word for word in shlex.split(command)])
            self.assertEqual(path.read_text(), DRAWING.read_text())

    def test_commands_print_what_is_shown_under_them(self) -> None:
        for path in (DOCUMENT, Path(ROOT, "README.md")):
            shown = list(commands(path.read_text()))
            self.assertGreater(len(shown), 0, f"{path} shows no command")
            for arguments, lines in shown:
                printed = iokv(*arguments)
                self.assertTrue(matches(lines, printed), f"{path}: {shlex.join(arguments)} prints\n{printed}")


if __name__ == "__main__":
    unittest.main()
