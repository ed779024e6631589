# SPDX-License-Identifier: Apache-2.0
"""What the daemon's memory comes to, and that it stays there. $IOKV_LONG=1 runs the full lengths: 100,000 steps and
2,000 connects."""

import os
import unittest

import iokv
from iokvd import Daemon, prompt

LONG = os.environ.get("IOKV_LONG") == "1"
MIB = 1024 * 1024
# What the allocator and the kernel may keep as they please; a leak of 150 bytes a step or 3 kB a connect exceeds it.
SLACK_BYTES = MIB


class Memory(unittest.TestCase):
    def test_resident_memory_is_weights_and_pool_and_little_else(self) -> None:
        with Daemon("--pool-bytes", "64MiB") as daemon, iokv.Client(daemon.socket) as client:
            for seed in range(8):
                client.open().generate(prompt(30, seed, client.info.vocabulary), 30)
            counters = daemon.status()
            allowed = 1.05 * (counters["weights_bytes"] + counters["pool_bytes"]) + 64 * MIB
            self.assertLessEqual(daemon.memory_bytes(), allowed)

    def test_connects_leave_nothing_behind(self) -> None:
        with Daemon() as daemon:

            def connect(times: int) -> None:
                for _ in range(times):
                    with iokv.Client(daemon.socket) as client, client.open() as sequence:
                        sequence.generate([1, 2, 3], 1)

            connect(100)
            memory, descriptors = daemon.memory_bytes("RssAnon"), daemon.descriptors()
            connect(2000 if LONG else 500)
            self.assertLess(daemon.memory_bytes("RssAnon") - memory, SLACK_BYTES)
            self.assertEqual(daemon.descriptors(), descriptors)

    def test_steps_leave_nothing_behind(self) -> None:
        with Daemon() as daemon, iokv.Client(daemon.socket) as client:
            sequence = client.open()
            sequence.append([1, 2, 3])
            grow = client.info.max_context - 3

            def steps(count: int) -> None:
                target = daemon.status()["steps"] + count
                while daemon.status()["steps"] < target:
                    sequence.step(max_tokens=grow).result()
                    sequence.truncate(3)

            steps(2000)
            memory = daemon.memory_bytes("RssAnon")
            steps(100_000 if LONG else 10_000)
            self.assertLess(daemon.memory_bytes("RssAnon") - memory, SLACK_BYTES)


if __name__ == "__main__":
    unittest.main()
