# SPDX-License-Identifier: Apache-2.0
"""The daemon's profile of its device: measured once, used again, measured anew when the stored one is not of use; and
`iokv profile`, which prints it."""

import json
import subprocess
import tempfile
import unittest
from pathlib import Path
from typing import Any

from iokvd import LIMIT_S, TOOL, Daemon


def profile(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(TOOL), "profile", *arguments], check=False, capture_output=True, text=True, timeout=LIMIT_S
    )


class Profile(unittest.TestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="iokv-state-")
        self.addCleanup(directory.cleanup)
        self.state = Path(directory.name) / "state"

    def start(self, *arguments: str) -> str:
        """What a daemon prints until it is ready."""
        with Daemon("--state-directory", str(self.state), *arguments) as daemon:
            return "\n".join(daemon.output)

    def stored(self) -> dict[str, Any]:
        profiles = json.loads(profile("--json", "--state-directory", str(self.state)).stdout)
        self.assertEqual(len(profiles), 1)
        stored: dict[str, Any] = profiles[0]
        return stored

    def test_a_profile_is_measured_once(self) -> None:
        first = self.start()
        self.assertIn("there is none yet", first)
        self.assertEqual([file.name for file in self.state.iterdir()], [Path(self.stored()["file"]).name])
        found = self.stored()["hash"]
        self.assertIn(f"profile {found}, measured in", first)
        second = self.start()
        self.assertIn(f"profile {found}, measured 0 hours ago", second)
        self.assertNotIn("measuring", second)
        third = self.start("--profile", "measure")
        self.assertIn(f"profile {self.stored()['hash']}, measured in", third)
        self.assertNotEqual(self.stored()["hash"], found)

    def test_a_useless_profile_is_measured_again_and_the_log_says_why(self) -> None:
        self.start()
        file = Path(self.stored()["file"])
        whole = file.read_bytes()
        before = self.stored()["hash"]

        file.write_bytes(whole[: len(whole) // 2])
        refused = profile(str(file))
        self.assertEqual(refused.returncode, 1)
        self.assertIn("corrupt", refused.stderr)
        self.assertIn("is corrupt", self.start())
        self.assertNotEqual(self.stored()["hash"], before)

        again = self.stored()["hash"]
        self.assertIn("is from another device", self.start("--threads", "1"))
        self.assertNotEqual(self.stored()["hash"], again)
        self.assertIn("1 thread", self.stored()["device"])

    def test_no_place_for_it_is_no_reason_not_to_serve(self) -> None:
        self.state.write_text("a file where the directory should be")
        self.assertIn("the profile is not kept", self.start())

    def test_off_measures_nothing(self) -> None:
        output = self.start("--profile", "off")
        self.assertNotIn("measuring this device's profile", output)
        self.assertNotIn("GB/s", output)
        self.assertFalse(self.state.exists())
        self.assertEqual(profile("--state-directory", str(self.state)).returncode, 1)

    def test_a_person_reads_rates_and_a_program_samples(self) -> None:
        self.start()
        text = profile("--state-directory", str(self.state))
        self.assertEqual(text.returncode, 0)
        stored = self.stored()
        for words in (stored["hash"], stored["device"], "GFLOP/s", "attention", "contention"):
            self.assertIn(words, text.stdout)
        self.assertFalse(stored["link"])
        for name, curve in stored["curves"].items():
            self.assertEqual(len(curve["samples"]) > 1, name not in ("h2d", "d2h", "host_attend", "exchange"))
            self.assertTrue(all(ns > 0 for _, ns in curve["samples"]))
        self.assertEqual(profile(stored["file"]).stdout, text.stdout)


if __name__ == "__main__":
    unittest.main()
