# SPDX-License-Identifier: Apache-2.0
"""SmolLM2-135M on a GPU against the CPU in f32, both through real client processes that append the same tokens one at a
time: the most probable token behind each is the same wherever the CPU's two largest logits are further apart than four
times the tolerance of the GPU's type. What lies closer may go either way, and is counted. `iokv verify` finds the GPU's
daemon sound.

The tolerance is of a row's logits: 2e-3 (f16) or 1.5e-2 (bf16) of their root mean square. The model is where scripts/model
keeps it, or where IOKV_SMOLLM2 says; without it the exit status is 77. Without a GPU as well, or 1 with IOKV_REQUIRE_GPU.
"""

from __future__ import annotations

import heapq
import json
import math
import os
import subprocess
import sys
import unittest
from array import array
from dataclasses import dataclass
from pathlib import Path

from iokvd import LIMIT_S, ROOT, TOOL, Daemon, DaemonFailed

import iokv

TOLERANCE = {"f16": 2e-3, "bf16": 1.5e-2}
WAYS = [
    ("f16", ["--recompute", "never"]),
    ("f16", ["--recompute", "always"]),
    ("f16", ["--recompute", "0.5", "--device-kv-budget", "4MiB"]),
    ("bf16", ["--recompute", "0.5"]),
]
BEGIN = 4  # tokens of each sequence that are appended at once
KEEP_EVERY = 16  # of so many rows the logits are compared as well


def model_path() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    default = cache / "iokv" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    return Path(os.environ.get("IOKV_SMOLLM2", default))


def texts() -> list[list[int]]:
    """What clients append: transformers' continuations of three prompts, one behind the other, beginning with each of
    them, and all of them twice."""
    cases = json.loads((ROOT / "tests" / "golden" / "smollm2.json").read_text())
    parts = [case["prompt"] + case["tokens"] for case in cases]
    turns = [parts[i:] + parts[:i] for i in range(len(parts))]
    return [sum(turn, []) for turn in (*turns, turns[0] * 2)]


@dataclass
class Row:
    """What follows one token."""

    token: int
    lead: float  # of the largest logit over the second
    size: float  # root mean square of the logits


def client(socket: str, tokens: list[int], kept: str) -> None:
    """The process of one client: a line of JSON for each row on stdout, the logits of some of them in a file."""
    with iokv.Client(socket) as connected, connected.open() as sequence, open(kept, "wb") as file:
        sequence.append(tokens[:BEGIN])
        for i, token in enumerate(tokens[BEGIN:]):
            (row,) = [one for one in sequence.step([token], each=True, logits=True) if one.predicted]
            assert row.logits is not None
            logits = array("f", row.logits)
            first, second = heapq.nlargest(2, logits)
            size = math.sqrt(sum(value * value for value in logits) / len(logits))
            print(json.dumps([row.token, first - second, size]))
            if i % KEEP_EVERY == 0:
                logits.tofile(file)


def rows_of(daemon: Daemon) -> tuple[list[Row], array[float]]:
    """All clients at once: the rows of all of them one behind the other, and the logits that were kept."""
    clients = []
    for i, tokens in enumerate(texts()):
        kept = daemon.directory / f"logits.{i}"
        command = [sys.executable, "-B", __file__, "client", daemon.socket, json.dumps(tokens), str(kept)]
        clients.append((subprocess.Popen(command, stdout=subprocess.PIPE, text=True), kept))
    rows: list[Row] = []
    logits = array("f")
    for process, kept in clients:
        output, _ = process.communicate(timeout=10 * LIMIT_S)
        if process.returncode != 0:
            raise AssertionError(f"a client ended with {process.returncode}")
        rows += [Row(*json.loads(line)) for line in output.splitlines()]
        logits.frombytes(kept.read_bytes())
    return rows, logits


def relative_error(values: array[float], reference: array[float]) -> float:
    difference = sum((a - b) ** 2 for a, b in zip(values, reference, strict=True))
    return math.sqrt(difference / sum(b * b for b in reference))


class SmolLM2(unittest.TestCase):
    def test_tokens_are_the_cpus_wherever_it_is_sure(self) -> None:
        with Daemon("--backend", "cpu", "--dtype", "f32", "--profile", "off", model=model_path()) as daemon:
            expected, expected_logits = rows_of(daemon)
        for dtype, settings in WAYS:
            with (
                self.subTest(dtype=dtype, settings=settings),
                Daemon("--backend", "cuda", "--dtype", dtype, "--profile", "off", *settings, model=model_path()) as daemon,
            ):
                rows, logits = rows_of(daemon)
                self.assertGreater(daemon.status()["h2d_bytes"], 0)
                self.assertEqual(len(rows), len(expected))
                error = relative_error(logits, expected_logits)
                pairs = list(zip(rows, expected, strict=True))
                sure = [pair for pair in pairs if pair[1].lead > 4 * TOLERANCE[dtype] * pair[1].size]
                wrong = sum(row.token != cpus.token for row, cpus in sure)
                other = sum(row.token != cpus.token for row, cpus in pairs) - wrong
                print(
                    f"{dtype} {' '.join(settings)}: {len(sure)} of {len(rows)} tokens are sure, {wrong} of them others than "
                    f"the CPU's; {other} of the rest; logits {error:.1e} away",
                    flush=True,
                )
                self.assertGreater(len(sure), len(rows) / 2)
                self.assertEqual(wrong, 0)
                self.assertLessEqual(error, TOLERANCE[dtype])

    def test_verify_finds_the_daemon_sound(self) -> None:
        for dtype, settings in (WAYS[0], WAYS[2]):
            with (
                self.subTest(dtype=dtype, settings=settings),
                Daemon(
                    "--backend", "cuda", "--dtype", dtype, "--profile", "off", "--audit", "0.5", *settings, model=model_path()
                ) as daemon,
            ):
                command = [str(TOOL), "verify", "--socket", daemon.socket]
                result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=5 * LIMIT_S)
                self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
                print("\n".join(result.stdout.splitlines()[-2:]), flush=True)
                counters = daemon.status()
                self.assertGreater(counters["audit_steps"], 0)
                self.assertEqual(counters["audit_mismatches"], 0)


def skip(why: str, status: int = 77) -> None:
    print(f"skipped: {why}")
    sys.exit(status)


def skip_where_it_cannot_run() -> None:
    if not model_path().exists():
        skip(f"{model_path()} is not there; scripts/model fetches it")
    try:
        Daemon("--backend", "cuda", "--profile", "off", "--recompute", "never").close()
    except DaemonFailed as failure:
        if "CUDA cannot be used" not in failure.output:
            raise
        skip("for want of a GPU: " + failure.output.splitlines()[-1], 1 if "IOKV_REQUIRE_GPU" in os.environ else 77)


if __name__ == "__main__":
    if sys.argv[1:2] == ["client"]:
        client(sys.argv[2], json.loads(sys.argv[3]), sys.argv[4])
        sys.exit()
    skip_where_it_cannot_run()
    unittest.main()
