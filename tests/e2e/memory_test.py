# SPDX-License-Identifier: Apache-2.0
"""What the daemon's memory comes to, and that it stays there."""

import subprocess
import unittest
from pathlib import Path

import iokv
from iokvd import MODEL, ROOT, Daemon, prompt

STEPS, CONNECTS = 100_000, 2_000
MIB = 1024 * 1024
# What the allocator and the kernel may keep as they please; a leak of 11 bytes a step or 530 a connect exceeds it.
SLACK_BYTES = MIB


def real_model() -> Path | None:
    """The model of the demo, where scripts/model has fetched it."""
    found = subprocess.run([ROOT / "scripts" / "model", "--offline"], check=False, capture_output=True, text=True)
    return Path(found.stdout.strip()) if found.returncode == 0 else None


class Memory(unittest.TestCase):
    def assert_resident_memory_is_little_more_than_weights_and_pool(self, model: Path) -> None:
        with Daemon("--pool-bytes", "64MiB", model=model) as daemon, iokv.Client(daemon.socket) as client:
            operations = [client.open().step(prompt(30, seed, client.info.vocabulary), 30) for seed in range(8)]
            for operation in operations:
                operation.result()
            counters = daemon.status()
            allowed = 1.05 * (counters["weights_bytes"] + counters["pool_bytes"]) + 64 * MIB
            self.assertLessEqual(daemon.memory_bytes(), allowed)

    def test_resident_memory_is_weights_and_pool_and_little_else(self) -> None:
        self.assert_resident_memory_is_little_more_than_weights_and_pool(MODEL)

    def test_resident_memory_with_a_real_model_is_weights_and_pool_and_little_else(self) -> None:
        model = real_model()
        if model is None:
            self.skipTest("SmolLM2 is not there: scripts/model fetches it")
        self.assert_resident_memory_is_little_more_than_weights_and_pool(model)

    def test_connects_leave_nothing_behind(self) -> None:
        with Daemon() as daemon:

            def connect(times: int) -> None:
                for _ in range(times):
                    with iokv.Client(daemon.socket) as client, client.open() as sequence:
                        sequence.generate([1, 2, 3], 1)
                # The daemon hears of the last client's end a little later than the client.
                while daemon.status()["clients"] > 0:
                    pass

            connect(100)
            memory, descriptors = daemon.memory_bytes("RssAnon"), daemon.descriptors()
            connect(CONNECTS)
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
            steps(STEPS)
            self.assertLess(daemon.memory_bytes("RssAnon") - memory, SLACK_BYTES)


if __name__ == "__main__":
    unittest.main()
