# SPDX-License-Identifier: Apache-2.0
"""An idle daemon sleeps: no wake-ups of any of its threads, by its own count and by the kernel's."""

import time
import unittest

import iokv
from iokvd import Daemon, prompt

SETTLE_S = 0.5  # for what the last request left to do; generous against the milliseconds that it takes
WINDOW_S = 3.0


class Idle(unittest.TestCase):
    def assert_sleeps(self, daemon: Daemon, client: iokv.Client) -> None:
        client.counters()  # the first call fetches the page from the daemon
        time.sleep(SETTLE_S)
        wakeups, switches = client.counters()["wakeups"].value, daemon.context_switches()
        time.sleep(WINDOW_S)
        self.assertEqual(client.counters()["wakeups"].value - wakeups, 0, "the conductor woke up")
        self.assertEqual(daemon.context_switches() - switches, 0, "a thread woke up")

    def test_a_daemon_that_has_served_nothing_sleeps(self) -> None:
        with Daemon() as daemon, iokv.Client(daemon.socket) as client:
            self.assert_sleeps(daemon, client)

    def test_a_daemon_with_idle_sequences_sleeps(self) -> None:
        with Daemon() as daemon, iokv.Client(daemon.socket) as client:
            for seed in range(8):
                client.open().generate(prompt(20, seed, client.info.vocabulary), 20)
            self.assert_sleeps(daemon, client)

    def test_a_daemon_with_parked_sequences_sleeps(self) -> None:
        with Daemon() as daemon, iokv.Client(daemon.socket, completion_entries=16) as client:
            sequence = client.open()
            operation = sequence.step([1, 2, 3], client.info.max_context - 3)
            client.connection.submit()
            self.assert_sleeps(daemon, client)
            self.assertEqual(len(operation.tokens()), client.info.max_context - 3)


if __name__ == "__main__":
    unittest.main()
