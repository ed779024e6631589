# SPDX-License-Identifier: Apache-2.0
"""--audit and `iokv verify`: a sound daemon has no mismatch, however it keeps its tokens. That a fault is found is shown by
tests/conductor/audit_test.cpp."""

import subprocess
import unittest

import iokv
from iokvd import LIMIT_S, TOOL, Daemon, prompt

RECOMPUTE = ("never", "always", "0.5")
LINK = ("--link-gbps", "1", "--dtype", "f32")


def verify(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(TOOL), "verify", *arguments], check=False, capture_output=True, text=True, timeout=LIMIT_S
    )


class Audit(unittest.TestCase):
    def test_a_sound_daemon_has_no_mismatches(self) -> None:
        for recompute in RECOMPUTE:
            for link in ((), LINK):
                with self.subTest(recompute=recompute, link=link), Daemon(
                    "--audit", "0.25", "--recompute", recompute, *link
                ) as daemon:
                    with iokv.Client(daemon.socket) as client:
                        opened = [client.open(iokv.Sampling(temperature=1.0, seed=seed)) for seed in range(3)]
                        running = [
                            sequence.step(prompt(70 * seed + 1, seed, client.info.vocabulary), max_tokens=100)
                            for seed, sequence in enumerate(opened)
                        ]
                        self.assertEqual([len(operation.tokens()) for operation in running], [100] * 3)
                    counters = daemon.status()
                    self.assertGreater(counters["audit_steps"], 0)
                    self.assertEqual(counters["audit_mismatches"], 0)
                    # Every fourth step, but those that drew nothing, and the one that is still being computed again.
                    due = counters["audit_steps"] + counters["audit_skipped"]
                    self.assertLessEqual(due, counters["steps"] // 4)
                    self.assertNotIn("audit", "\n".join(daemon.output))

    def test_without_the_setting_nothing_is_audited(self) -> None:
        with Daemon() as daemon, iokv.Client(daemon.socket) as client, client.open() as sequence:
            sequence.generate([1, 2, 3], 20)
            counters = daemon.status()
            self.assertEqual((counters["audit_steps"], counters["audit_skipped"]), (0, 0))

    def test_an_audit_changes_nobodys_tokens(self) -> None:
        drawn = []
        for share in ("0", "1"):
            with Daemon("--audit", share) as daemon, iokv.Client(daemon.socket) as client:
                opened = [client.open(iokv.Sampling(temperature=1.0, seed=seed)) for seed in range(3)]
                running = [
                    sequence.step(prompt(50, seed, client.info.vocabulary), max_tokens=50)
                    for seed, sequence in enumerate(opened)
                ]
                drawn.append([operation.tokens() for operation in running])
        self.assertEqual(drawn[0], drawn[1])


class Verify(unittest.TestCase):
    def test_a_sound_daemon_is_found_sound(self) -> None:
        for recompute in RECOMPUTE:
            with self.subTest(recompute=recompute), Daemon("--audit", "0.5", "--recompute", recompute, *LINK) as daemon:
                result = verify("--socket", daemon.socket, "--sequences", "3", "--generate", "40")
                self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
                self.assertRegex(result.stdout, r"3 sequences of 200 \+ 40 tokens")
                self.assertIn("compared 12, different 0, largest difference 0 ", result.stdout)
                self.assertEqual(result.stdout.splitlines()[-1], "sound")
                self.assertEqual(daemon.status()["sequences"], 0)

    def test_it_keeps_to_the_context_that_there_is(self) -> None:
        with Daemon("--max-context", "64") as daemon:
            result = verify("--socket", daemon.socket)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertIn("of 32 + 32 tokens", result.stdout)

    def test_without_a_daemon_it_says_so_in_one_line(self) -> None:
        result = verify("--socket", "/nonexistent-iokv/iokv.sock")
        self.assertEqual((result.returncode, result.stdout), (1, ""))
        self.assertEqual(len(result.stderr.splitlines()), 1)


if __name__ == "__main__":
    unittest.main()
