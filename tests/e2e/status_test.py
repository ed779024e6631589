# SPDX-License-Identifier: Apache-2.0
"""`iokv status`: what a person and a program read of a running daemon."""

import json
import re
import subprocess
import unittest
from pathlib import Path

import iokv
from iokvd import LIMIT_S, ROOT, TOOL, Daemon


def status(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(TOOL), "status", *arguments], check=False, capture_output=True, text=True, timeout=LIMIT_S
    )


def counter_names() -> list[str]:
    """The names in wire/counters.h, in order."""
    return re.findall(r"^  X\((\w+),", Path(ROOT, "wire", "counters.h").read_text(), re.MULTILINE)


class Status(unittest.TestCase):
    def test_json_has_every_counter_by_name(self) -> None:
        with Daemon() as daemon:
            counters = json.loads(status("--json", "--socket", daemon.socket).stdout)
            self.assertEqual(list(counters), counter_names())
            self.assertEqual(counters["pid"], daemon.process.pid)
            self.assertEqual((counters["ready"], counters["loading_percent"]), (1, 100))

    def test_counters_count_what_a_client_did(self) -> None:
        with Daemon() as daemon, iokv.Client(daemon.socket) as client:
            before = daemon.status()
            with client.open() as sequence:
                sequence.generate(list(range(1, 21)), 5)
                during = daemon.status()
            after = daemon.status()
            self.assertEqual(during["clients"], 1)
            self.assertEqual(during["sequences"], 1)
            self.assertEqual(after["sequences"], 0)
            self.assertEqual(after["sampled_tokens"] - before["sampled_tokens"], 5)
            # The last sampled token is appended, but its K,V is computed only when something follows it.
            self.assertEqual(after["prefill_tokens"] - before["prefill_tokens"], 20)
            self.assertEqual(after["decode_tokens"] - before["decode_tokens"], 4)
            self.assertEqual(after["submissions"] - before["submissions"], 3)
            self.assertEqual(after["completions"] - before["completions"], 7)
            self.assertEqual(after["pool_units_free"], before["pool_units_free"])
            for times, tokens in (("first_token", 1), ("token_gap", 4)):
                slots = [name for name in after if name.startswith((f"{times}_to_", f"{times}_beyond"))]
                self.assertEqual(sum(after[name] for name in slots), tokens)
                self.assertGreater(after[f"{times}_ns"], 0)

    def test_a_client_reads_the_same_counters(self) -> None:
        with Daemon() as daemon, iokv.Client(daemon.socket) as client:
            mine = client.counters()
            self.assertEqual(list(mine), counter_names())
            self.assertEqual(mine["instance"].value, client.info.daemon_instance)
            self.assertEqual(mine["pool_bytes"].value, daemon.status()["pool_bytes"])

    def test_text_names_the_daemon_and_every_counter_that_is_not_in_its_heading(self) -> None:
        with Daemon() as daemon:
            text = status("--socket", daemon.socket).stdout
            self.assertIn(daemon.socket, text)
            self.assertIn(f"pid {daemon.process.pid}", text)
            self.assertRegex(text, r"(?m)^  first_token +0 tokens .*mean -, half -, 99 % -$")
            for name in counter_names():
                if name.startswith(("first_token_", "token_gap_")):
                    continue  # a distribution is one line
                if name not in ("instance", "pid", "start_ns", "ready", "loading_percent"):
                    self.assertRegex(text, rf"(?m)^  {name} ")

    def test_without_a_daemon_it_says_so_in_one_line(self) -> None:
        result = status("--socket", "/nonexistent-iokv/iokv.sock")
        self.assertEqual((result.returncode, result.stdout), (1, ""))
        self.assertEqual(len(result.stderr.splitlines()), 1)
        self.assertIn("/nonexistent-iokv/iokv.sock", result.stderr)


if __name__ == "__main__":
    unittest.main()
