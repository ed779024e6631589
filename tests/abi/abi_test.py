# SPDX-License-Identifier: Apache-2.0
"""What a program outside of this build sees of libiokv: symbols, headers, packages."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ["IOKV_BUILD"])
LIBRARY = Path(os.environ["IOKV_LIBRARY"])
EXAMPLE = ROOT / "examples" / "smallest.c"


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command], env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


class Library(unittest.TestCase):
    def test_it_exports_what_was_promised_and_nothing_else(self) -> None:
        lines = run("nm", "-D", "--defined-only", LIBRARY).splitlines()
        exported = sorted(fields[2] for fields in (line.split() for line in lines) if fields[1] != "A")
        self.assertEqual(exported, (Path(__file__).parent / "libiokv.symbols").read_text().split())

    def test_its_soname_is_the_abis_major_version(self) -> None:
        dynamic = run("readelf", "-d", LIBRARY)
        self.assertEqual(re.findall(r"SONAME.*\[(.*)\]", dynamic), ["libiokv.so.1"])

    def test_it_needs_the_language_runtimes_and_no_more(self) -> None:
        needed = set(re.findall(r"NEEDED.*\[(.*)\]", run("readelf", "-d", LIBRARY)))
        self.assertLessEqual(needed, {"libstdc++.so.6", "libgcc_s.so.1", "libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2"})

    def test_every_function_of_the_header_says_who_may_call_it(self) -> None:
        header = (ROOT / "include" / "iokv" / "iokv.h").read_text()
        rule = r"[Tt]hread|Alone"
        for match in re.finditer(r"^IOKV_API [^(]*?(iokv_\w+)\(", header, re.MULTILINE):
            before = header[: match.start()]
            comment = before[before.rindex("/*") :]
            section = "Submitting thread." in before[before.rindex("/* ----") :]
            self.assertTrue(section or re.search(rule, comment), f"{match.group(1)} has no thread rule: {comment}")


class Header(unittest.TestCase):
    def test_it_compiles_alone_as_c_and_cpp(self) -> None:
        for compiler, language, standard in (
            ("cc", "c", "c11"),
            ("cc", "c", "c17"),
            ("c++", "c++", "c++11"),
            ("c++", "c++", "c++20"),
        ):
            with self.subTest(standard=standard):
                run(compiler, "-x", language, f"-std={standard}", "-Wall", "-Wextra", "-Wpedantic", "-Werror",
                    "-fsyntax-only", ROOT / "include" / "iokv" / "iokv.h")  # fmt: skip


class Packages(unittest.TestCase):
    prefix: Path

    @classmethod
    def setUpClass(cls) -> None:
        cls.directory = tempfile.TemporaryDirectory(prefix="iokv-abi-")
        cls.prefix = Path(cls.directory.name) / "usr"
        for component in ("runtime", "client"):
            run("cmake", "--install", BUILD, "--component", component, "--prefix", cls.prefix)

    @classmethod
    def tearDownClass(cls) -> None:
        cls.directory.cleanup()

    def library_directory(self) -> Path:
        return next(self.prefix.rglob("libiokv.so.1")).parent

    def assert_runs(self, program: Path) -> None:
        """It starts, finds the library, and says that there is no daemon."""
        done = subprocess.run(
            [str(program)],
            env={**os.environ, "LD_LIBRARY_PATH": str(self.library_directory()), "IOKV_SOCKET": "/nonexistent-iokv"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual(done.returncode, 1)
        self.assertIn("/nonexistent-iokv", done.stderr)

    def test_pkg_config_is_enough_to_build_a_client(self) -> None:
        for name in ("iokv", "libiokv"):
            program = self.prefix / f"by-{name}"
            flags = run(
                "pkg-config", "--cflags", "--libs", name,
                PKG_CONFIG_PATH=str(self.library_directory() / "pkgconfig"),
            ).split()  # fmt: skip
            run("cc", "-std=c11", EXAMPLE, "-o", program, *flags)
            self.assert_runs(program)

    def test_find_package_is_enough_to_build_a_client(self) -> None:
        source = Path(self.directory.name) / "user"
        source.mkdir()
        (source / "CMakeLists.txt").write_text(
            "cmake_minimum_required(VERSION 3.20)\nproject(user C)\nfind_package(iokv 1.0 REQUIRED)\n"
            f"add_executable(shared {EXAMPLE})\ntarget_link_libraries(shared iokv::iokv)\n"
            f"add_executable(static {EXAMPLE})\ntarget_link_libraries(static iokv::iokv_static)\n"
        )
        run("cmake", "-S", source, "-B", source / "build", f"-DCMAKE_PREFIX_PATH={self.prefix}")
        run("cmake", "--build", source / "build")
        self.assert_runs(source / "build" / "shared")
        self.assert_runs(source / "build" / "static")
        (source / "CMakeLists.txt").write_text(
            "cmake_minimum_required(VERSION 3.20)\nproject(user C)\nfind_package(iokv 2.0 REQUIRED)\n"
        )
        with self.assertRaisesRegex(AssertionError, "iokvConfig.cmake, version: 1"):
            run("cmake", "-S", source, "-B", source / "build2", f"-DCMAKE_PREFIX_PATH={self.prefix}")


if __name__ == "__main__":
    unittest.main()
