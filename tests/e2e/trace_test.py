# SPDX-License-Identifier: Apache-2.0
"""`iokv trace`: the last steps as a Chrome trace, against the counters and against what a bound link must look like."""

import json
import struct
import subprocess
import unittest
from collections import defaultdict
from pathlib import Path
from typing import Any

import iokv
from iokvd import LIMIT_S, TOOL, Daemon, prompt
from raw_client import MAGIC, RawClient, hello

Event = dict[str, Any]
LANES = ("h2d", "d2h", "recompute", "dense")
SLOW_LINK = ("--link-gbps", "0.2", "--dtype", "f32")


def trace(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(TOOL), "trace", *arguments], check=False, capture_output=True, text=True, timeout=LIMIT_S
    )


def lanes_of(text: str) -> dict[str, list[Event]]:
    """The events of each lane, in order of time."""
    events = json.loads(text)["traceEvents"]
    names = {e["tid"]: e["args"]["name"] for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
    lanes: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            lanes[names[event["tid"]]].append(event)
    return {name: sorted(lane, key=lambda e: e["ts"]) for name, lane in lanes.items()}


def busy_ns(lane: list[Event]) -> int:
    return round(sum(event["dur"] for event in lane) * 1000)


def decode(daemon: Daemon, sequences: int, length: int, tokens: int) -> None:
    """Decodes that many sequences side by side."""
    with iokv.Client(daemon.socket) as client:
        opened = [client.open() for _ in range(sequences)]
        for seed, sequence in enumerate(opened):
            sequence.generate(prompt(length, seed, client.info.vocabulary), 1)
        for running in [sequence.step((), max_tokens=tokens) for sequence in opened]:
            list(running)


class Trace(unittest.TestCase):
    def test_lanes_do_not_overlap_and_their_sums_are_the_counters(self) -> None:
        for recompute in ("never", "always", "0.5"):
            with self.subTest(recompute=recompute), Daemon(
                *SLOW_LINK, "--recompute", recompute, "--trace-steps", "1000"
            ) as daemon:
                decode(daemon, 3, 150, 10)
                lanes, counters = lanes_of(trace("--socket", daemon.socket).stdout), daemon.status()
                self.assertEqual(len(lanes["step"]), counters["steps"])
                for name, lane in lanes.items():
                    for before, after in zip(lane, lane[1:]):
                        self.assertLessEqual(before["ts"] + before["dur"], after["ts"] + 0.0005, name)
                for name in ("h2d", "d2h", "recompute"):
                    self.assertEqual(busy_ns(lanes.get(name, [])), counters[f"{name}_busy_ns"], name)
                self.assertLessEqual(busy_ns(lanes["dense"]), counters["dense_busy_ns"])
                self.assertEqual(sum(e["args"]["bytes"] for e in lanes["h2d"]), counters["h2d_bytes"])
                self.assertEqual(sum(e["args"]["bytes"] for e in lanes["d2h"]), counters["d2h_bytes"])
                recomputed = sum(e["args"]["tokens"] for e in lanes.get("recompute", []))
                self.assertEqual(recomputed, counters["recomputed_tokens"])
                self.assertEqual(busy_ns(lanes["step"]), counters["measured_ns"])

    def test_a_step_that_the_link_binds_shows_it_busy_from_first_to_last_layer(self) -> None:
        with Daemon(*SLOW_LINK, "--recompute", "never", "--trace-steps", "6") as daemon:
            decode(daemon, 8, 400, 16)
            lanes = lanes_of(trace("--socket", daemon.socket).stdout)
            self.assertEqual(len(lanes["step"]), 6)
            layers = {event["args"]["layer"] for event in lanes["h2d"]}
            self.assertEqual(layers, set(range(max(layers) + 1)))
            # From the first byte of the first step to the last of the last: one step's link runs into the next's.
            link = lanes["h2d"]
            span_us = link[-1]["ts"] + link[-1]["dur"] - link[0]["ts"]
            self.assertGreater(busy_ns(link) / 1000 / span_us, 0.9)

    def test_what_was_predicted_stands_beside_it(self) -> None:
        with Daemon(*SLOW_LINK, "--recompute", "0.5", "--trace-steps", "4") as daemon:
            decode(daemon, 2, 150, 8)
            lanes = lanes_of(trace("--socket", daemon.socket).stdout)
            for name in LANES:
                steps = [event["args"]["step"] for event in lanes[f"predicted {name}"]]
                self.assertEqual(steps, [event["args"]["step"] for event in lanes["step"]], name)

    def test_it_keeps_the_last_steps_and_writes_a_file(self) -> None:
        with Daemon("--trace-steps", "3") as daemon:
            decode(daemon, 1, 10, 20)
            output = str(daemon.directory / "trace.json")
            self.assertEqual(trace("--socket", daemon.socket, "--output", output).returncode, 0)
            lanes = lanes_of(Path(output).read_text())
            last = daemon.status()["steps"]
            self.assertEqual([event["args"]["step"] for event in lanes["step"]], [last - 2, last - 1, last])

    def test_without_steps_it_says_why(self) -> None:
        with Daemon("--trace-steps", "0") as daemon:
            decode(daemon, 1, 10, 2)
            result = trace("--socket", daemon.socket)
            self.assertEqual((result.returncode, result.stdout), (1, ""))
            self.assertIn("--trace-steps 0", result.stderr)

    def test_whoever_asks_without_pause_gets_answers_and_disturbs_nobody(self) -> None:
        with Daemon("--trace-steps", "1000") as daemon, RawClient(daemon.socket) as asker:
            asker.socket.send(hello(flags=1))
            asker.receive()
            decode(daemon, 2, 100, 100)
            for _ in range(300):
                asker.socket.send(struct.pack("<IHHII", MAGIC, 5, 16, 5, 0))
                kind, packet = asker.receive()
                self.assertEqual((kind, struct.unpack_from("<Ii", packet, 8)), (6, (5, 0)))


if __name__ == "__main__":
    unittest.main()
