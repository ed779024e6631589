# SPDX-License-Identifier: Apache-2.0
"""What `cmake --install` makes of the build, under a prefix of the test's."""

import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("IOKV_BUILD", ROOT / "build" / "release"))


def needs(program: str):  # type: ignore[no-untyped-def]
    """Skips a test by the name of the program that it lacks."""
    return unittest.skipUnless(shutil.which(program), f"{program} is not installed")


def main() -> None:
    """unittest.main, but that a run in which every test was skipped ends with 77: ctest then says so, with the reasons."""
    result = unittest.main(module="__main__", exit=False).result
    if not result.wasSuccessful():
        raise SystemExit(1)
    if result.testsRun == len(result.skipped):
        for test, why in result.skipped:
            print(f"skipped: {test}: {why}")
        raise SystemExit(77)


def run(*command: str | Path, **options: object) -> str:
    """Its standard output; what it said, when it fails."""
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace", stdin=subprocess.DEVNULL, **options)  # type: ignore[call-overload]
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}: exit status {done.returncode}\n{done.stdout}")
    return str(done.stdout)


class InstalledCase(unittest.TestCase):
    """A class of tests that share one installation."""

    prefix: Path

    @classmethod
    def setUpClass(cls) -> None:
        directory = tempfile.TemporaryDirectory(prefix="iokv-install-")
        cls.addClassCleanup(directory.cleanup)
        cls.prefix = Path(directory.name)
        run("cmake", "--install", BUILD, "--prefix", cls.prefix)
