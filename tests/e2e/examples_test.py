# SPDX-License-Identifier: Apache-2.0
"""The programs in examples/ do what they say, against a real daemon."""

from __future__ import annotations

import os
import subprocess
import unittest

import iokv
from iokvd import BUILD, LIMIT_S, Daemon


def run(name: str, socket: str, *arguments: str) -> str:
    done = subprocess.run(
        [str(BUILD / "examples" / f"example_{name}"), *arguments],
        env={**os.environ, "IOKV_SOCKET": socket},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, f"{name}: exit status {done.returncode}: {done.stderr}"
    return done.stdout


class ExamplesTest(unittest.TestCase):
    daemon: Daemon

    @classmethod
    def setUpClass(cls) -> None:
        cls.daemon = Daemon()

    @classmethod
    def tearDownClass(cls) -> None:
        cls.daemon.close()

    def test_smallest_prints_what_another_client_gets(self) -> None:
        printed = [int(token) for token in run("smallest", self.daemon.socket, "3", "1", "4").split()]
        with iokv.Client(self.daemon.socket) as client, client.open() as sequence:
            expected = [completion.token for completion in sequence.step([3, 1, 4], max_tokens=16)]
        self.assertEqual(printed, expected)

    def test_epoll_streams_every_sequence_and_seeds_repeat(self) -> None:
        eight = run("epoll", self.daemon.socket, "8").splitlines()
        self.assertEqual([len(line.split()) for line in eight], [33] * 8)
        self.assertGreater(len({line.split(":")[1] for line in eight}), 4)
        # The same seeds in other company.
        self.assertEqual(run("epoll", self.daemon.socket, "3").splitlines(), eight[:3])

    def test_drafts_equal_plain_decoding(self) -> None:
        self.assertIn("equal to plain decoding", run("drafts", self.daemon.socket))

    def test_without_a_daemon_they_say_so(self) -> None:
        with self.assertRaisesRegex(AssertionError, "/nonexistent-iokv/socket"):
            run("smallest", "/nonexistent-iokv/socket")


if __name__ == "__main__":
    unittest.main()
