# SPDX-License-Identifier: Apache-2.0
"""Checks wire/wakeup.pml with spin, and that each mistake that it names is found."""

from __future__ import annotations

import re
import subprocess
import tempfile
import unittest
from pathlib import Path

MODEL = Path(__file__).resolve().parents[2] / "wire" / "wakeup.pml"
MISTAKES = re.findall(r"[A-Z]+(?:_[A-Z]+){2,}", re.search(r"with -D, is found:\n((?://.*\n)+)", MODEL.read_text())[1])


def errors_found(*definitions: str) -> int:
    """How many errors spin finds: unreachable ends (somebody sleeps for ever) and failed assertions."""
    with tempfile.TemporaryDirectory(prefix="iokv-spin-") as directory:
        def run(*command: str) -> str:
            return subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True, timeout=120).stdout

        run("spin", "-a", *(f"-D{name}" for name in definitions), str(MODEL))
        run("cc", "-O2", "-DSAFETY", "-o", "pan", "pan.c")
        report = run("./pan", "-m100000")
        assert "max search depth too small" not in report
        return int(re.search(r"errors: (\d+)", report)[1])


class WakeUp(unittest.TestCase):
    def test_nobody_sleeps_for_ever(self) -> None:
        self.assertEqual(errors_found(), 0)

    def test_no_event_loop_polls_for_ever(self) -> None:
        self.assertEqual(errors_found("EVENT_LOOP"), 0)

    def test_every_mistake_is_found(self) -> None:
        self.assertGreaterEqual(len(MISTAKES), 12)
        for mistake in MISTAKES:
            with self.subTest(mistake=mistake):
                self.assertIn(f"ifndef {mistake}", MODEL.read_text())
                self.assertGreater(errors_found(mistake), 0)


if __name__ == "__main__":
    unittest.main()
