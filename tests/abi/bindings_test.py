# SPDX-License-Identifier: Apache-2.0
"""What the bindings declare of iokv.h is what the header says: the committed files are the generator's, every code has its
name in every language. (Each driver's own view of the layout is the conformance case "layout".)"""

import re
import subprocess
import sys
import unittest
from pathlib import Path

from iokv.errors import BY_CODE

ROOT = Path(__file__).resolve().parents[2]
BINDINGS = ROOT / "bindings"
HEADER = (ROOT / "include" / "iokv" / "iokv.h").read_text()
CODES = {name: int(value) for name, value in re.findall(r"IOKV_(E[A-Z]+) = (-\d+)", HEADER)}
FUNCTIONS = sorted(re.findall(r"^IOKV_API [^(]*?(iokv_\w+)\(", HEADER, re.MULTILINE))


class Bindings(unittest.TestCase):
    def test_what_is_committed_is_what_the_header_says(self) -> None:
        done = subprocess.run(
            [sys.executable, "-B", str(BINDINGS / "abi" / "generate"), "--check"], capture_output=True, text=True
        )
        self.assertEqual((done.stdout, done.stderr, done.returncode), ("", "", 0))

    def test_every_error_code_has_its_python_exception(self) -> None:
        self.assertEqual({cls.name: code for code, cls in BY_CODE.items()}, CODES)

    def test_every_language_names_every_error_code(self) -> None:
        for path in ("../include/iokv/iokv.hpp", *NAMES):
            text = (BINDINGS / path).read_text()
            with self.subTest(path=path):
                self.assertEqual({name for name in CODES if not re.search(rf"IOKV_{name}\b", text)}, set())

    def test_every_language_calls_every_function(self) -> None:
        for language, pattern in SOURCES.items():
            text = "".join(path.read_text() for path in BINDINGS.glob(pattern) if path.name not in GENERATED)
            with self.subTest(language=language):
                self.assertEqual([name for name in FUNCTIONS if not re.search(rf"\b{name}\b", text)], [])


# Where a language gives its own names to the codes.
NAMES: tuple[str, ...] = ("csharp/Iokv/IokvException.cs", "go/errors.go", "rust/iokv/src/error.rs")
SOURCES = {"C#": "csharp/Iokv/*.cs", "C++": "../include/iokv/iokv.hpp", "Go": "go/*.go", "Python": "python/src/iokv/*.py", "Rust": "rust/iokv/src/*.rs"}
GENERATED = {"declarations.py", "declarations.rs", "Declarations.cs"}


if __name__ == "__main__":
    unittest.main()
