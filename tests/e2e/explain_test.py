# SPDX-License-Identifier: Apache-2.0
"""`iokv explain` and the times in completions: what bound the steps of a sequence."""

import json
import os
import subprocess
import unittest
from typing import Any

import iokv
from iokvd import LIMIT_S, TOOL, Daemon, prompt


def explain(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(TOOL), "explain", "--socket", daemon.socket, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )


def explained(daemon: Daemon, *arguments: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(explain(daemon, "--json", *arguments).stdout)
    return rows


class Explain(unittest.TestCase):
    def test_every_open_sequence_is_listed_with_its_client(self) -> None:
        with Daemon("--recompute", "never") as daemon:
            self.assertEqual(explained(daemon), [])
            with iokv.Client(daemon.socket, name="anna") as anna, iokv.Client(daemon.socket, name="bela") as bela:
                own = anna.open(priority=7)
                own.generate(prompt(100, 1, anna.info.vocabulary), 3)
                mine, hers = own.id, bela.open()
                rows = {row["client"]: row for row in explained(daemon)}
                self.assertEqual(set(rows), {"anna", "bela"})
                row = rows["anna"]
                self.assertEqual((row["sequence"], row["pid"], row["client_id"]), (mine, os.getpid(), anna.info.client_id))
                # The last token was sampled, and is not cached before something follows it.
                self.assertEqual((row["length"], row["cached"]), (103, 102))
                self.assertEqual((row["kv_blocks"], row["x_blocks"], row["priority"]), (2, 0, 7))
                self.assertEqual((row["state"], row["operations"], len(row["steps"])), ("idle", 0, 3))
                self.assertEqual((rows["bela"]["length"], rows["bela"]["steps"]), (0, []))
                # Ids are the clients' own: both have chosen the same one.
                self.assertEqual(len(explained(daemon, str(mine))), 2)
                self.assertEqual(explain(daemon, str(mine), "--pid", "1").returncode, 1)
                hers.close()

    def test_what_bound_a_sequence_is_what_its_completions_say(self) -> None:
        for arguments, bound in (
            (("--link-gbps", "0.05", "--recompute", "never"), "link"),
            (("--recompute", "never"), "dense"),
        ):
            with self.subTest(bound=bound), Daemon("--dtype", "f32", *arguments) as daemon:
                with iokv.Client(daemon.socket) as client, client.open() as sequence:
                    told = [c.times for c in sequence.step(prompt(400, 2, client.info.vocabulary), max_tokens=12)]
                    (row,) = explained(daemon)
                    steps = [iokv.Times(*(step[f"{name}_ns"] for name in ("queued", "link", "recompute", "dense")))
                             for step in row["steps"]]  # fmt: skip
                    self.assertEqual(steps, told[-8:])
                    bounds = [step["bound"] for step in row["steps"]]
                    # These steps are so short that some also wait for the daemon to wake up.
                    self.assertEqual(set(bounds) - {"queued"}, {bound})
                    self.assertEqual(all(times.link_ns > 0 for times in told if times), bound == "link")
                    self.assertIn(bound, explain(daemon, str(row["sequence"])).stdout)

    def test_recomputation_is_told_apart(self) -> None:
        with Daemon("--recompute", "always") as daemon, iokv.Client(daemon.socket) as client:
            with client.open() as sequence:
                told = [c.times for c in sequence.step(prompt(300, 3, client.info.vocabulary), max_tokens=4)]
                assert told[-1] is not None
                self.assertGreater(told[-1].recompute_ns, 0)
                self.assertEqual(explained(daemon)[0]["x_blocks"], 5)

    def test_a_sequence_that_waits_for_others_is_queued(self) -> None:
        # Room for one of the two: the second is computed when the first has ended.
        with Daemon("--pool-bytes", "1MiB", "--recompute", "never") as daemon, iokv.Client(daemon.socket) as client:
            tokens = min(client.info.pool_tokens, client.info.max_context) - 80
            first, second = client.open(priority=1), client.open()
            running = first.step(prompt(tokens, 4, client.info.vocabulary), max_tokens=60)
            behind = second.step(prompt(tokens, 5, client.info.vocabulary), max_tokens=1)
            took_ns = sum(c.times.dense_ns for c in running if c.times)
            list(behind)
            self.assertLess(client.info.pool_tokens, 2 * tokens)
            rows = {row["sequence"]: row for row in explained(daemon)}
            # The first of its steps waited; those that read the rest of its prompt did not.
            self.assertGreater(rows[second.id]["steps"][0]["queued_ns"], took_ns // 2)

    def test_an_id_that_nobody_has_is_an_error(self) -> None:
        with Daemon() as daemon:
            result = explain(daemon, "12345")
            self.assertEqual((result.returncode, result.stdout), (1, ""))
            self.assertEqual(len(result.stderr.splitlines()), 1)


if __name__ == "__main__":
    unittest.main()
