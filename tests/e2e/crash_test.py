# SPDX-License-Identifier: Apache-2.0
"""Processes that are killed in the middle of a step: whoever is left sees a code or nothing at all."""

import asyncio
import subprocess
import sys
import unittest
from pathlib import Path

import iokv
from iokvd import LIMIT_S, Daemon, prompt


PROGRAM = Path(__file__).parent / "load_client.py"


class LoadClient:
    """Another process with sequences that never end."""

    def __init__(self, daemon: Daemon, sequences: int, seed: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-B", str(PROGRAM), daemon.socket, str(sequences), str(seed)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line == "running\n", line

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(LIMIT_S)
        assert self.process.stdout is not None
        self.process.stdout.close()


def tokens_of(client: iokv.Client, seeds: range, length: int) -> list[list[int]]:
    """The continuations of several prompts, decoded at once, half of them sampled."""
    operations = []
    for seed in seeds:
        sampling = iokv.Sampling(temperature=1.0, seed=seed) if seed % 2 else None
        sequence = client.open(sampling)
        operations.append(sequence.step(prompt(6 + seed, seed, client.info.vocabulary), length))
    return [operation.tokens() for operation in operations]


class Crash(unittest.TestCase):
    def test_clients_killed_mid_step_change_nobody_elses_tokens(self) -> None:
        with Daemon() as daemon, iokv.Client(daemon.socket) as client:
            length = client.info.max_context // 2
            alone = tokens_of(client, range(6), length)
            clients_before = daemon.status()["clients"]
            for seed in range(100, 104):
                load = LoadClient(daemon, 8, seed)
                operations = []
                for i in range(6):
                    sampling = iokv.Sampling(temperature=1.0, seed=i) if i % 2 else None
                    sequence = client.open(sampling)
                    operations.append(sequence.step(prompt(6 + i, i, client.info.vocabulary), length))
                next(iter(operations[0]))
                load.kill()
                beside = [operation.tokens() for operation in operations]
                # The first token of the first was taken above.
                self.assertEqual(beside[0], alone[0][1:])
                self.assertEqual(beside[1:], alone[1:])
            counters = daemon.status()
            self.assertLessEqual(counters["clients"], clients_before)
            self.assertEqual(counters["sequences"], 30, "a killed client's sequences are still open")
            self.assertEqual(counters["clients_ended"], 0)

    def test_a_killed_clients_blocks_come_back(self) -> None:
        with Daemon() as daemon, iokv.Client(daemon.socket) as client:
            free = daemon.status()["pool_units_free"]
            load = LoadClient(daemon, 8, 1)
            self.assertLess(daemon.status()["pool_units_free"], free)
            load.kill()
            # The daemon learns of the death by the socket's hang-up, which it handles before it takes a later NOP
            # only by chance; its counters say when.
            for _ in range(10_000):
                client.nop()
                if daemon.status()["pool_units_free"] == free:
                    return
            self.fail("the blocks of a killed client are not free again")

    def test_a_daemon_killed_mid_step_ends_an_asyncio_client_with_connection_closed(self) -> None:
        async def run(daemon: Daemon) -> None:
            async with iokv.AsyncClient(daemon.socket, completion_entries=16) as client:
                sequence = await client.open()
                operation = await sequence.step([1, 2, 3], client.info.max_context - 3)
                with self.assertRaises(iokv.ConnectionClosedError):
                    async for _ in operation:
                        daemon.process.kill()
                    await client.nop()

        with Daemon() as daemon:
            asyncio.run(asyncio.wait_for(run(daemon), LIMIT_S))

    def test_a_daemon_killed_while_idle_ends_a_waiting_client(self) -> None:
        with Daemon() as daemon, iokv.Connection(daemon.socket) as connection:
            daemon.kill()
            with self.assertRaises(iokv.ConnectionClosedError):
                connection.reap(timeout=LIMIT_S)
            with self.assertRaises(iokv.ConnectionClosedError):
                connection.nop()


if __name__ == "__main__":
    unittest.main()
